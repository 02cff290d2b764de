"""Letting go of what requests leave in reference cycles: an error's traceback, a callback of its own object.

Nothing of ours makes such a cycle on purpose; libraries do, and Python frees them only when it looks for them. What is
freed is overwritten by the allocator (``environment.py``).
"""

import gc


def settle() -> None:
    """Set aside everything loaded so far: from now on a sweep looks only at what requests made."""
    gc.collect()
    gc.freeze()


def sweep() -> None:
    """Free every cycle now."""
    gc.collect()
