"""What a process gives up of itself: core files, files that grow, descriptors, capabilities, executable memory."""

import contextlib
import ctypes
import errno
import resource
import struct

from .kernel import prctl

_SET_DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT, _MDWE = 4, 24, 38, 47, 65
_AMBIENT_CLEAR_ALL = 4
_REFUSE_EXEC_GAIN, _NO_INHERIT = 1, 2
_CAP_VERSION = 0x20080522  # three 32-bit sets in two halves
_CAP_LAST = 63


def no_core() -> None:
    """No core file, and no raising of that limit again. Raises OSError."""
    _limit(resource.RLIMIT_CORE, 0)


def no_file_growth() -> None:
    """Not a byte into a regular file. Not for a process whose own log may be one. Raises OSError."""
    _limit(resource.RLIMIT_FSIZE, 0)


def descriptors(most: int) -> None:
    """At most so many open files and sockets, or as many as this process may have. Raises OSError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    _limit(resource.RLIMIT_NOFILE, allowed)


def _limit(kind: int, most: int) -> None:
    try:
        resource.setrlimit(kind, (most, most))
    except ValueError as error:
        raise OSError(errno.EPERM, str(error)) from None


def not_dumpable() -> None:
    """Nobody without CAP_SYS_PTRACE reads this process's memory or attaches; no core goes to a pipe. Raises OSError."""
    prctl(_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """No set-user-id program or file capability gives anything to this process or what it starts. Raises OSError."""
    prctl(_NO_NEW_PRIVS, 1)


def no_capabilities() -> None:
    """Empty all five sets, for good where this process may (CAP_SETPCAP). Raises OSError."""
    prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(_CAP_LAST + 1):  # who may drop none of them has none, and no_new_privs lets it gain none
        with contextlib.suppress(OSError):
            prctl(_CAPBSET_DROP, number)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION, 0), 8)
    if ctypes.CDLL(None, use_errno=True).capset(header, ctypes.create_string_buffer(24)):
        raise OSError(ctypes.get_errno(), "capset")


def no_new_code(*, inherited: bool) -> None:
    """No memory becomes executable that was writable (Linux 6.3; without inheriting 6.6). Raises OSError."""
    prctl(_MDWE, _REFUSE_EXEC_GAIN | (0 if inherited else _NO_INHERIT))
