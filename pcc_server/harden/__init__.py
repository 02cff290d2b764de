"""What the kernel is told to forbid each process of the node (node design 3.2).

``stage1`` comes before the first thread, ``stage2`` after loading or binding. Nothing turns a protection off; where
``settings.protection`` is ``available``, a node goes on without what its kernel does not have, and says so.
"""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from pcc_server.errors import StartFailure
from pcc_server.events import Program

if TYPE_CHECKING:
    from pcc_server.config import Settings  # which takes the profile from here

Step = tuple[str, Callable[[], object]]  # a protection's name, and what brings it into force or raises OSError
_held: set[str] = set()  # of this process, over both stages
EXTRAS = frozenset(("mdwe", "scopes"))  # newer than the kernels we support: told when missing, never required


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What one process could and could not be protected by.

    held: names of the protections in force.  missing: name -> why, in a few words.
    """

    held: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)


def hide() -> None:
    """Leave no core and be read by nobody, before this process knows anything. ``stage1`` says if that failed."""
    for _, act in _system().hidden():
        with contextlib.suppress(OSError):
            act()


def stage1(program: Program, settings: "Settings", *, also: tuple[str, ...] = ()) -> Protection:
    """Before any thread and any heavy import: limits, no core, not dumpable, no new privileges, Landlock.

    also: files the launcher reads again while it runs.
    Raises StartFailure naming what cannot be had where ``settings.protection`` requires it.
    """
    return _take(program, settings, _system().first(program, settings, also))


def stage2(program: Program, settings: "Settings") -> Protection:
    """After loading or binding: the system call filter, over every thread (TSYNC), then proof. Raises as ``stage1``."""
    return _take(program, settings, _system().second(program, _held))


def described() -> dict[str, str]:
    """Return what each child is denied after its start, by its digest: part of the configuration digest (SPEC 3)."""
    denied: dict[Program, str] = _system().denied()
    return {name.value: hashlib.sha256(words.encode()).hexdigest() for name, words in denied.items()}


def _system() -> ModuleType:
    """Return the protections of this system; they import the settings, which import the profile from here."""
    if sys.platform == "darwin":
        from . import darwin as system
    else:
        from . import linux as system
    return system


def _take(program: Program, settings: "Settings", steps: Iterable[Step]) -> Protection:
    """Take every step, and judge what failed at the end."""
    held, missing = [], {}
    for name, act in steps:
        try:
            act()
        except OSError as error:
            missing[name] = error.strerror or str(error)
        else:
            held.append(name)
            _held.add(name)
    required = {name: why for name, why in missing.items() if name not in EXTRAS}
    if required and settings.protection == "require":
        raise StartFailure(_sentence(program, required))
    return Protection(held=tuple(held), missing=missing)


def _sentence(program: Program, missing: dict[str, str]) -> str:
    named = "; ".join(f"{name} ({why})" for name, why in missing.items())
    return (
        f"this machine cannot protect the {program} as node.protect requires: {named}. "
        "A node at tier 0 on loopback takes what there is; elsewhere say node.protect = available if clients know that"
    )
