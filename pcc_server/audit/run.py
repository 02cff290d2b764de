"""One audit: find the node, look at it and at its machine, try to get out of its sandbox."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pcc_server.events import Program

from . import darwin, escapes, host, limit, processes, served, stranger
from .machine import Machine
from .node import Node, choose
from .processes import PROGRAMS, Reach
from .report import Check, Found, Report, Row, Unseen, good

NODE = Check("node", "a running node, whose three processes are seen", "nothing about the running node is proven")


def audit(*, pid: int = 0, admin: str = "", config: str = "", canary: bool = False) -> Report:
    """Audit the node of this machine that the arguments name (``node.choose``). Raises StartFailure.

    canary: send canaries through a second node with the same settings, and look for them.
    """
    file = str(Path(config).absolute()) if config else ""
    if sys.platform == "darwin":
        return Report(rows=tuple(darwin.rows()), node={})
    node = choose(Machine(), pid=pid, admin=admin, config=file)
    with contextlib.chdir(folder_of(node)):
        rows = [*look(node, escapes.run(node.settings))]
        if canary:
            from .canary import rows as canary_rows

            rows += canary_rows(node.settings)
    return report(node, rows)


def report(node: Node, rows: Iterable[Row]) -> Report:
    """Return the whole of it, with its limit."""
    return Report(rows=(*rows, limit.row(node)), node=described(node))


def look(node: Node, trials: escapes.Trials) -> Iterator[Row]:
    """Yield every row that needs no second node."""
    yield NODE.look(lambda: _seen(node))
    yield from processes.rows(node, _reach(node))
    yield from host.rows(node)
    yield from served.rows(node)
    yield from escapes.rows(trials, confined=escapes.is_confined(node.machine))


def described(node: Node) -> dict[str, object]:
    """Return what was audited."""
    pids = {program.value: pid for program, pid in node.pids.items()}
    return {"pids": pids, "engine": node.settings.engine, "attester": node.settings.attester}


def _seen(node: Node) -> Found:
    pids = [f"{program} {node.pid(program)}" for program in PROGRAMS]
    environ = "" if node.environ is not None else "; its PCC_* variables are taken from here, its own cannot be read"
    return good(", ".join(pids) + environ)


def _reach(node: Node) -> Reach:
    try:
        user, group = processes.user_of(node)
        return stranger.reach(user, group, [node.pid(program) for program in PROGRAMS])
    except Unseen as why:
        return Reach(control=False, denied={}, why=str(why))


def folder_of(node: Node) -> Path:
    """Return where the launcher stands: relative paths of its settings begin there."""
    try:
        return Path(node.machine.link(node.proc(Program.LAUNCHER, "cwd")))
    except Unseen:
        return Path.cwd()
