"""Which node is audited: its three processes, the settings it runs with, and what it says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pcc_server.config import Settings, split_address
from pcc_server.errors import StartFailure
from pcc_server.events import Program
from pcc_server.settings_source import Source

from .machine import Machine
from .report import Unseen

CHILDREN = (Program.GATEWAY, Program.WORKER)
_TUNABLES, _TUNABLE = "GLIBC_TUNABLES", "glibc."
NOBODY = "no node runs here, or its processes are hidden from this user: start it, or run the audit as root"


class Told(NamedTuple):
    """What a process of the node said about itself after it had closed its sandbox.

    held, missing: protections.  writable_files: open for writing.  listening: addresses of its sockets.
    """

    held: tuple[str, ...]
    missing: Mapping[str, str]
    writable_files: int
    listening: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What the checks look at. pids: of the running node's processes; empty where none runs.

    unseen: why no node can be looked at.  told: by the node itself, where the launcher asked.  environ: of the
    launcher, None where it cannot be read.
    """

    machine: Machine
    settings: Settings
    pids: Mapping[Program, int] = field(default_factory=dict)
    unseen: str = NOBODY
    told: Mapping[Program, Told] = field(default_factory=dict)
    environ: Mapping[str, str] | None = None

    def pid(self, program: Program) -> int:
        """Return a process's id. Raises Unseen."""
        if program not in self.pids:
            raise Unseen(f"the {program} does not run" if self.pids else self.unseen)
        return self.pids[program]

    def proc(self, program: Program, file: str) -> str:
        """Return the path of a file below a process's folder. Raises Unseen."""
        return f"proc/{self.pid(program)}/{file}"


# --- finding it --------------------------------------------------------------------------------------


def running(machine: Machine) -> list[dict[Program, int]]:
    """Return the process ids of each node that runs here. Raises Unseen."""
    found: dict[int, dict[Program, int]] = {}
    for pid in machine.pids():
        if program := _child(machine, pid):
            launcher = _parent(machine, pid)
            found.setdefault(launcher, {Program.LAUNCHER: launcher})[program] = pid
    return [found[launcher] for launcher in sorted(found)]


def _child(machine: Machine, pid: int) -> Program | None:
    """Tell whether a process is a child of some launcher: it was started as one."""
    words = _words(machine, pid)
    modules = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-m"]
    return next((program for program in CHILDREN if f"pcc_server.{program}" in modules), None)


def _words(machine: Machine, pid: int) -> list[str]:
    try:
        data = machine.data(f"proc/{pid}/cmdline") or b""
    except Unseen:  # it ended meanwhile
        return []
    return [word.decode("utf-8", "replace") for word in data.split(b"\0")[:-1]]


def _parent(machine: Machine, pid: int) -> int:
    return int(machine.fields(f"proc/{pid}/status").get("PPid", "0"))


def choose(machine: Machine, *, pid: int = 0, admin: str = "", config: str = "") -> Node:
    """Return the node to audit: the one with this process, on this admin port, or the only one.

    pid: of any of its three processes.  config: the settings' file, where its command line names none.
    Where none is found, a node without processes, with the settings that ``config`` and this environment give.
    Raises StartFailure for settings that are none, or where several nodes run and nothing says which.
    """
    try:
        found = [pids for pids in running(machine) if not pid or pid in pids.values()]
    except Unseen as why:
        return _absent(machine, config, str(why))
    nodes = [_described(machine, pids, config) for pids in found]
    if len(nodes) > 1 and admin:
        port = split_address(admin, "--admin")[1]
        nodes = [node for node in nodes if node.settings.admin and split_address(node.settings.admin)[1] == port]
    if len(nodes) > 1:
        named = ", ".join(str(node.pids[Program.LAUNCHER]) for node in nodes)
        raise StartFailure(f"several nodes run here: say which with --pid, one of {named}")
    if not nodes:
        return _absent(machine, config, f"process {pid} is no part of a node" if pid else NOBODY)
    return replace(nodes[0], settings=replace(nodes[0].settings, admin=admin)) if admin else nodes[0]


def _absent(machine: Machine, config: str, why: str) -> Node:
    return Node(machine=machine, settings=Source(file=config).read().settings, unseen=why)


def _described(machine: Machine, pids: Mapping[Program, int], config: str) -> Node:
    launcher = pids[Program.LAUNCHER]
    environ = environment_of(machine, launcher)
    source = source_of(_words(machine, launcher), environ, config, _folder(machine, launcher))
    return Node(machine=machine, settings=source.read().settings, pids=dict(pids), environ=environ)


def environment_of(machine: Machine, pid: int) -> dict[str, str] | None:
    """Return a process's environment as it was started with; None where this user may not read it."""
    try:
        data = machine.data(f"proc/{pid}/environ")
    except Unseen:
        return None
    found: dict[str, str] = {}
    for entry in (data or b"").decode("utf-8", "replace").split("\0"):
        name, _, value = entry.partition("=")
        if name.startswith(_TUNABLE):  # the C library cuts that variable into pieces where it lies
            found[_TUNABLES] = f"{found.get(_TUNABLES, '')}:{entry}"
        elif name:
            found[name] = value
    return found


def _folder(machine: Machine, pid: int) -> Path:
    try:
        return Path(machine.link(f"proc/{pid}/cwd"))
    except Unseen:
        return Path.cwd()


def source_of(words: list[str], environ: Mapping[str, str] | None, config: str, folder: Path) -> Source:
    """Return where a launcher read its settings. words: its command line.  environ: None: this program's own.

    Raises StartFailure for a command line that is no ``serve``.
    """
    given = _flags(words)
    named = config or str(given.get("config") or "")
    known = {field.name for field in fields(Settings)}
    from pcc_server.settings_file import from_flags

    flags = from_flags({name: value for name, value in given.items() if name in known}, {})
    file = str(folder / named) if named else ""
    return Source(file=file, flags=flags) if environ is None else Source(file=file, flags=flags, environ=environ)


def _flags(words: list[str]) -> dict[str, Any]:
    import click

    from pcc_server.cli_serve import serve

    try:
        return dict(serve.make_context("serve", words[words.index("serve") + 1 :]).params)
    except (ValueError, click.exceptions.UsageError, click.exceptions.Exit):
        raise StartFailure(f"the launcher's command line is none that this version knows: {' '.join(words)}") from None
