"""System calls by number, and ``prctl``: the few lines of ctypes that all of this package stands on."""

import ctypes
import os

_LIBC = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: a forked copy can still go on
_LIBC.syscall.restype = ctypes.c_long
_LIBC.prctl.restype = ctypes.c_int


def call(number: int, *words: int) -> int:
    """Make a system call with integers and addresses as arguments. Raises OSError."""
    ctypes.set_errno(0)
    result: int = _LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in words))
    return _checked(result)


def prctl(option: int, *words: int) -> int:
    """Change or read an attribute of this process. What is not given is 0. Raises OSError."""
    four = (*words, 0, 0, 0, 0)[:4]
    ctypes.set_errno(0)
    result: int = _LIBC.prctl(ctypes.c_int(option), *(ctypes.c_ulong(word) for word in four))
    return _checked(result)


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
