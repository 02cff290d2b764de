"""Where glibc takes large arrays from: pages of their own, given back as soon as they are freed.

By default the limit for that rises to 32 MB with the first large array freed. Weights, caches and every step's arrays
then share one arena, which fills with holes, and each later allocation searches them: measured 2 to 3 ms of a 47 ms
step (bench/decode.py; docs/decisions.md).
"""

import ctypes
import os
import sys

M_MMAP_THRESHOLD = -3  # <malloc.h>
THRESHOLD_BYTES = 128 * 1024  # glibc's own first value, here kept
OVERRIDE = "MALLOC_MMAP_THRESHOLD_"  # glibc's own variable: whoever set it keeps their value


def keep_threshold() -> bool:
    """Fix the limit for this process; returns whether it was. Nothing is done where glibc or the wish is missing."""
    if sys.platform != "linux" or OVERRIDE in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES))
