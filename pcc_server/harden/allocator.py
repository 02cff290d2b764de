"""Proof that freed memory is overwritten in this process: a marked block is freed and looked at.

The settings that do it are in ``environment.py`` and work only from the start of a process on. ``python -I`` and ``-E``
ignore them without a word, musl and free-threaded builds have no such path: hence a look and no belief.
"""

import ctypes
import sys
import sysconfig
from collections.abc import Callable

_MARK = 0x5C
_PYTHON_BYTES = 300  # pymalloc, if it is live, would keep such a block
_SIZES = (200, 1200, 9000)  # of the C library's small, middle and large blocks, all below those with pages of their own
_HEAD_BYTES = 32  # of a freed block, where the allocator writes its links
_OVERWRITTEN = 0.9  # of the rest: a new object may already lie in it


def fault() -> str:
    """Return why freed memory keeps its content here; empty when it does not."""
    if all(map(_scrubbed, _SIZES)) and _scrubbed_object():
        return ""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded Python has an allocator of its own"
    if sys.platform == "linux" and not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return "this C library cannot overwrite what is freed; glibc can"
    return "freed memory keeps its content"


def _scrubbed(size: int) -> bool:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    block, guard = libc.malloc(size), libc.malloc(size)  # the guard keeps the block from falling back to the system
    ctypes.memset(block, _MARK, size)
    gone = _gone(block, size, lambda: libc.free(block))
    libc.free(guard)
    return gone


def _scrubbed_object() -> bool:
    held = [bytes([_MARK]) * _PYTHON_BYTES, bytes(_PYTHON_BYTES)]
    return _gone(id(held[0]) + sys.getsizeof(b""), _PYTHON_BYTES, lambda: held.__setitem__(0, b""))


def _gone(address: int, size: int, free: Callable[[], object]) -> bool:
    """Free a block of marks and tell whether they are gone."""
    view = (ctypes.c_ubyte * size).from_address(address)
    free()
    left = sum(1 for byte in bytes(view)[_HEAD_BYTES:] if byte == _MARK)
    return left <= (1 - _OVERWRITTEN) * (size - _HEAD_BYTES)
