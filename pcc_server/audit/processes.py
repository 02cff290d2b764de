"""What is in force for the running processes, as the kernel shows it: every thread, every descriptor, every socket."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pcc_server.config import split_address
from pcc_server.dial import listening
from pcc_server.environment import environment
from pcc_server.events import Program

from . import host
from .node import CHILDREN, Node, Told, environment_of
from .report import Check, Found, Row, State, Unseen, good, wrong

PROGRAMS = (Program.LAUNCHER, *CHILDREN)
_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
_FILTERED, _YES = "2", "1"
_ACCESS_MODE = 0o3  # O_ACCMODE
_HARMLESS = frozenset(("/dev/null", "/dev/tty", "/dev/urandom"))
_OUTPUT = frozenset(("0", "1", "2"))  # the launcher's own log may be a file
_RISKY = ("LD_", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "OPENSSL_", "GLIBC_TUNABLES", "MALLOC_", "GCONV_PATH")
_TABLES = ("net/tcp", "net/tcp6")

Denied = Callable[[int, Sequence[int]], Mapping[int, bool]]  # user, processes -> whether their memory was denied


class Reach(NamedTuple):
    """What another program of the node's own user could read. control: it could read one that is not closed."""

    control: bool
    denied: Mapping[int, bool]
    why: str = ""  # it could not be tried


def rows(node: Node, reach: Reach) -> Iterator[Row]:
    """Look at every process of the node."""
    for program in PROGRAMS:
        yield _threads(program).look(partial(threads, node, program))
    yield CAPABILITIES.look(lambda: capabilities(node))
    closed = DUMPABLE.look(lambda: not_dumpable(node, reach))
    yield closed
    yield CORE_LIMIT.look(lambda: core_limit(node))
    yield host.CORE_PATTERN.look(lambda: host.core_pattern(node, closed=closed.state is State.OK))
    yield LAUNCHER_ENVIRONMENT.look(lambda: launcher_environment(node))
    for program in CHILDREN:
        yield _environment(program).look(partial(child_environment, node, program))
    yield DESCRIPTORS.look(lambda: descriptors(node))
    yield LISTENERS.look(lambda: listeners(node))


def _threads(program: Program) -> Check:
    return Check(
        f"threads.{program}",
        "system call filter and no_new_privs on every thread",
        f"what takes over a thread of the {program} can do what its sandbox forbids",
    )


def _environment(program: Program) -> Check:
    return Check(
        f"environment.{program}",
        "what the node builds from nothing, with the allocator that overwrites freed memory",
        "freed memory may keep prompts, or a library does what somebody's variable says",
    )


CAPABILITIES = Check("capabilities", "none, on every thread", "a sandbox that is left behind still has a part of root")
DUMPABLE = Check(
    "dumpable",
    "memory closed to other programs of the node's user",
    "any program of the same user reads prompts and keys from the node's memory",
)
CORE_LIMIT = Check("core_limit", "0, also the hard limit", "a crash leaves a file with prompts and keys")
LAUNCHER_ENVIRONMENT = Check(
    "environment.launcher",
    "nothing that loads foreign code",
    "code of somebody else runs in the launcher, which starts the processes that hold prompts",
)
DESCRIPTORS = Check("descriptors", "no file open for writing", "content can be written to a file that was open already")
LISTENERS = Check("listeners", "the configured ports alone, held by the gateway", "there is a way in that nobody chose")


# --- threads ------------------------------------------------------------------------------------------


def _statuses(node: Node, program: Program) -> list[dict[str, str]]:
    folder = node.proc(program, "task")
    return [node.machine.fields(f"{folder}/{name}/status") for name in node.machine.names(folder)]


def threads(node: Node, program: Program) -> Found:
    """Want a filter on every thread, and that none may gain anything."""
    found = _statuses(node, program)
    closed = sum(1 for one in found if one.get("Seccomp") == _FILTERED and one.get("NoNewPrivs") == _YES)
    return Found(closed == len(found) > 0, f"{closed} of {len(found)} threads")


def capabilities(node: Node) -> Found:
    """Want four empty sets; the bounding set can only be emptied by a process that once was root."""
    found = {program: _statuses(node, program) for program in PROGRAMS}
    with_some = [program for program, several in found.items() if any(_has_some(one) for one in several)]
    count = sum(map(len, found.values()))
    bounded = all(_empty(one.get("CapBnd", "")) for several in found.values() for one in several)
    words = "" if bounded else "; the bounding set is not empty, which no_new_privs makes harmless"
    return Found(not with_some, f"{', '.join(with_some)} have some" if with_some else f"none on {count} threads{words}")


def _has_some(status: Mapping[str, str]) -> bool:
    return not all(_empty(status.get(name, "")) for name in _SETS)


def _empty(mask: str) -> bool:
    return bool(mask) and int(mask, 16) == 0


# --- memory -------------------------------------------------------------------------------------------


def user_of(node: Node) -> tuple[int, int]:
    """Return the real user and group of the worker. Raises Unseen."""
    status = node.machine.fields(node.proc(Program.WORKER, "status"))
    return int(status["Uid"].split()[0]), int(status["Gid"].split()[0])


def not_dumpable(node: Node, reach: Reach) -> Found:
    """Judge what another program of the same user could open."""
    pids = {program: node.pid(program) for program in PROGRAMS}
    if reach.why:
        raise Unseen(reach.why)
    if not reach.control:
        raise Unseen("the trial could not read a process that is open either: something else denies it")
    if opened := [program for program, pid in pids.items() if not reach.denied.get(pid)]:
        return wrong(f"a program of the same user opened the memory of: {', '.join(opened)}")
    return good("denied for all three; the same program could read one that is open")


def core_limit(node: Node) -> Found:
    """Look at the soft and hard limit of each process."""
    limits = {program: _core_limit(node, program) for program in PROGRAMS}
    wrong = [f"{program} {' '.join(limit)}" for program, limit in limits.items() if limit != ["0", "0"]]
    return Found(not wrong, ", ".join(wrong) or "0 for all three")


def _core_limit(node: Node, program: Program) -> list[str]:
    lines = node.machine.need(node.proc(program, "limits")).splitlines()
    name = "Max core file size"
    return next((line.removeprefix(name).split()[:2] for line in lines if line.startswith(name)), [])


# --- environment --------------------------------------------------------------------------------------


def launcher_environment(node: Node) -> Found:
    """Look at the launcher's own environment: no child gets it, but it decides which libraries the launcher loads."""
    node.pid(Program.LAUNCHER)
    if node.environ is None:
        raise Unseen("the launcher's environment may not be read by this user: run the audit as root")
    risky = sorted(name for name, value in node.environ.items() if value and name.startswith(_RISKY))
    return Found(not risky, f"{', '.join(risky)}: start it without" if risky else "nothing of the kind")


def child_environment(node: Node, program: Program) -> Found:
    """Compare a child's environment byte for byte; or take its own proof that freed memory is overwritten."""
    wanted = environment(program)
    if (found := environment_of(node.machine, node.pid(program))) is None:
        held = _told(node, program, f"the {program}'s environment").held
        return Found("scrub" in held, "it freed a marked block, looked, and says: " + _overwritten("scrub" in held))
    differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return Found(
        not differing, f"differs in {', '.join(differing)}" if differing else f"{len(found)} variables, as built"
    )


def _overwritten(held: bool) -> str:
    return "overwritten" if held else "still there"


def _told(node: Node, program: Program, what: str) -> Told:
    """Return what a process said of itself. Raises Unseen."""
    if program not in node.told:
        raise Unseen(f"{what} may not be read by this user: run the audit as root")
    return node.told[program]


# --- descriptors ----------------------------------------------------------------------------------------


def descriptors(node: Node) -> Found:
    """Look for files, also in memory alone, that are open for writing."""
    found = {program: _writable(node, program) for program in PROGRAMS}
    held = [f"{program}: {name}" for program, names in found.items() for name in names]
    return Found(not held, "; ".join(held) or "none in any process")


def _writable(node: Node, program: Program) -> list[str]:
    own_log = _OUTPUT if program is Program.LAUNCHER else frozenset[str]()
    try:
        links = _descriptors(node, program)
        named = {number: target for number, target in links.items() if number not in own_log and _is_file(target)}
        return [target for number, target in named.items() if _writes(node, program, number)]
    except Unseen:
        count = _told(node, program, f"the {program}'s descriptors").writable_files
        return [f"{count} files, it says"] if count else []


def _descriptors(node: Node, program: Program) -> dict[str, str]:
    """Return number -> what it is open on; one that was closed meanwhile is on nothing. Raises Unseen."""
    folder = node.proc(program, "fd")
    return {number: node.machine.link(f"{folder}/{number}") for number in node.machine.names(folder)}


def _is_file(target: str) -> bool:
    return target.startswith("/") and target not in _HARMLESS


def _writes(node: Node, program: Program, number: str) -> bool:
    described = node.machine.text(node.proc(program, f"fdinfo/{number}"))
    flags = next((line for line in (described or "").splitlines() if line.startswith("flags:")), "flags: 0")
    return int(flags.split()[1], 8) & _ACCESS_MODE != 0


# --- sockets ----------------------------------------------------------------------------------------------


def listeners(node: Node) -> Found:
    """Want the gateway to listen where the settings say, and nobody else to listen."""
    found = {program: listening_of(node, program) for program in PROGRAMS}
    others = {program: where for program, where in found.items() if where and program is not Program.GATEWAY}
    if others:
        return wrong("; ".join(f"the {program} on {', '.join(where)}" for program, where in others.items()))
    wanted = [split_address(address)[1] for address in (node.settings.listen, node.settings.admin) if address]
    ports = [int(address.rpartition(":")[2]) for address in found[Program.GATEWAY]]
    fixed = [port for port in wanted if port]
    as_configured = len(ports) == len(wanted) and set(fixed) <= set(ports)
    return Found(as_configured, ", ".join(sorted(found[Program.GATEWAY])) or "nothing")


def listening_of(node: Node, program: Program) -> list[str]:
    """Return where a process listens, HOST:PORT. Raises Unseen."""
    try:
        sockets = set(_descriptors(node, program).values())
    except Unseen:
        return list(_told(node, program, f"the {program}'s sockets").listening)
    tables = (node.machine.root / node.proc(program, table) for table in _TABLES)
    found = (row for table in tables for row in listening(table))
    return sorted({_shown(address, port) for address, port, inode in found if f"socket:[{inode}]" in sockets})


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
