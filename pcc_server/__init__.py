"""The node: opens a sealed request, answers it, keeps nothing."""
