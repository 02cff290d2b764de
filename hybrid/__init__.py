"""hybrid: the open Private Cloud Compute for Python."""

__version__ = "0.1.0"
