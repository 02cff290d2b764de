"""Letting go of what requests leave behind: reference cycles, and memory that was freed but is still this process's.

Nothing of ours makes a cycle on purpose; libraries do, and Python frees them only when it looks for them. What is
freed is overwritten by the allocator (``environment.py``).
"""

import asyncio
import ctypes
import gc

SWEEP_S = 1.0
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own


def settle() -> None:
    """Set aside everything loaded so far: from now on a sweep looks only at what requests made."""
    gc.collect()
    gc.freeze()


def sweep() -> None:
    """Free every cycle now."""
    gc.collect()


def give_back() -> None:
    """Return freed pages to the system: glibc keeps what a flood of calls took until something else is freed."""
    if _trim:
        _trim(0)


async def sweeping() -> None:
    """Do both once a second, for ever."""
    while True:
        sweep()
        give_back()
        await asyncio.sleep(SWEEP_S)
