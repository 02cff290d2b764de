"""The protections of Linux, in their order."""

import errno
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pcc_server.errors import CONFIG_EXIT, StartFailure
from pcc_server.events import Program

from . import Step, allocator, landlock, limits, probe, seccomp
from .reads import ports_of, prepare, rules_for
from .syscalls import table

if TYPE_CHECKING:
    from pcc_server.config import Settings

_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_SPARE_DESCRIPTORS = 256  # libraries, pipes, the model's files; one more a request for another's engine


def hidden() -> Iterator[Step]:
    """Yield what comes before anything is known."""
    yield "no_core", limits.no_core
    yield "not_dumpable", limits.not_dumpable


def first(program: Program, settings: "Settings", also: tuple[str, ...]) -> Iterator[Step]:
    """Yield what comes before the first thread."""
    _one_thread()
    launcher = program is Program.LAUNCHER
    if launcher:
        _check_ports(settings)
        prepare(settings)
    yield from hidden()
    yield "no_new_privileges", limits.no_new_privileges
    yield "no_capabilities", limits.no_capabilities
    yield "mdwe", partial(limits.no_new_code, inherited=not launcher)
    if program is Program.WORKER:  # the gateway bounds its connections itself
        yield "descriptors", partial(limits.descriptors, _SPARE_DESCRIPTORS + settings.streams)
    if not launcher:  # its log may be a file, and what it starts sets its own
        yield "no_file_growth", limits.no_file_growth
        yield "scrub", _scrub
    version = landlock.abi()
    yield "landlock", partial(_landlock, program, settings, also, version)
    yield "ports", partial(_from_abi, landlock.NETWORK_ABI, version)
    yield "scopes", partial(_from_abi, landlock.SCOPES_ABI, version)
    if launcher:
        yield "seccomp", partial(_filter, program)


def second(program: Program, held: AbstractSet[str]) -> Iterator[Step]:
    """Yield what comes after loading or binding. held: names of what is in force so far."""
    yield "seccomp", partial(_filter, program)
    yield "proof", partial(_prove, program, held)


def denied() -> dict[Program, str]:
    """Return the rules of each child's filter, in words that are the same on every machine."""
    programs = (Program.GATEWAY, Program.WORKER)
    return {name: "\n".join(str(rule) for rule in sorted(seccomp.RULES[name], key=str)) for name in programs}


def _one_thread() -> None:
    """See that Landlock will bind all of this process. Raises StartFailure: otherwise this is a fault of ours."""
    if (count := len(os.listdir("/proc/self/task"))) != 1:  # noqa: PTH208 - names are enough
        raise StartFailure(f"{count} threads run before the sandbox is closed; please report this")


def _check_ports(settings: "Settings") -> None:
    """Refuse ports for which a process needs a capability, since none is kept. Raises StartFailure."""
    first_free = int(_FIRST_FREE_PORT.read_text("ascii"))
    for port in filter(None, ports_of(settings)):
        if port < first_free:
            raise StartFailure(
                f"port {port} is for processes with rights that this node gives up: take one from {first_free} on, "
                f"or allow it with: sysctl net.ipv4.ip_unprivileged_port_start={port}",
                CONFIG_EXIT,
            )


def _scrub() -> None:
    if why := allocator.fault():
        raise OSError(errno.ENOTSUP, why)


def _landlock(program: Program, settings: "Settings", also: tuple[str, ...], version: int) -> None:
    if not version:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock, or it is switched off")
    landlock.restrict(rules_for(program, settings, also=also), version)


def _from_abi(wanted: int, version: int) -> None:
    if version < wanted:
        raise OSError(errno.ENOSYS, f"the kernel's Landlock is version {version}, this needs {wanted}")


def _filter(program: Program) -> None:
    numbers = table()
    if numbers is None:
        raise OSError(errno.ENOSYS, "there is no table of system calls for this processor")
    own = () if program is Program.LAUNCHER else seccomp.signals_of(os.getpid())
    seccomp.install(seccomp.program((*seccomp.RULES[program], *own), numbers), numbers)


def _prove(program: Program, held: AbstractSet[str]) -> None:
    """Try what is forbidden. Raises StartFailure, whatever is required, when a protection that is held does nothing."""
    if open_doors := [name for name, denied in probe.run(held).items() if not denied]:
        raise StartFailure(f"the {program} can still do what its sandbox forbids: {', '.join(open_doors)}")
