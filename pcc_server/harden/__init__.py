"""What the kernel is told to forbid each process of the node (node design 3.2)."""

from dataclasses import dataclass, field

from pcc_server.config import Settings
from pcc_server.events import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What one process could and could not be protected by.

    held: names of the protections in force.  missing: name -> why, in a few words.
    """

    held: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)


def stage1(program: Program, settings: Settings) -> Protection:
    """Before any thread and any heavy import: limits, no core, not dumpable, no new privileges, Landlock.

    Raises StartFailure naming what cannot be had where ``settings.protect`` requires it.
    """
    del program, settings
    return Protection()


def stage2(program: Program, settings: Settings) -> Protection:
    """After loading or binding: the system call filter, over every thread (TSYNC). Raises as ``stage1``."""
    del program, settings
    return Protection()
