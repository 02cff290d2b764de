"""macOS behind the same seam: limits and no debugger first, a seatbelt profile after loading.

Unverified: no Mac was at hand. ``sandbox_init`` is deprecated and still shipped; a stock Python is not signed by us, so
a Mac node is tier 0 (node design 3.2).
"""

import ctypes
import errno
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial

from pcc_server.events import Program

from . import Step, allocator, limits

_DENY_ATTACH = 31  # ptrace(2)
PROFILES = {
    Program.GATEWAY: """(version 1)
(allow default)
(deny file-write*)
(deny process-exec*)
(deny process-fork)
(deny network-outbound)
(deny network-bind)
""",
    Program.WORKER: """(version 1)
(allow default)
(deny file-write*)
(deny process-exec*)
(deny process-fork)
(deny network*)
""",
}  # Metal reaches its services over mach and IOKit, which a default deny would have to list by experiment


def hidden() -> Iterator[Step]:
    """Yield what comes before anything is known."""
    yield "no_core", limits.no_core
    yield "no_debugger", _deny_attach


def first(program: Program, _settings: object, _also: tuple[str, ...]) -> Iterator[Step]:
    """Yield what comes before the first thread."""
    yield from hidden()
    if program is not Program.LAUNCHER:
        yield "scrub", _scrub


def second(program: Program, _held: AbstractSet[str]) -> Iterator[Step]:
    """Yield what comes after loading or binding."""
    yield "seatbelt", partial(_close, program)


def denied() -> dict[Program, str]:
    """Return each child's profile."""
    return PROFILES


def _scrub() -> None:
    if why := allocator.fault():
        raise OSError(errno.ENOTSUP, why)


def _deny_attach() -> None:
    """Refuse debuggers: a speed bump, root can still read this process."""
    if ctypes.CDLL(None, use_errno=True).ptrace(_DENY_ATTACH, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")


def _close(program: Program) -> None:
    """Apply the profile to the whole process, for good."""
    library = ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True)
    said = ctypes.c_char_p()
    if library.sandbox_init(PROFILES[program].encode(), ctypes.c_uint64(0), ctypes.byref(said)):
        raise OSError(ctypes.get_errno(), "sandbox_init")
