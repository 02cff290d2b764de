"""What the processes of a node cannot do, on any thread; the same acts without the sandbox are the control."""

import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcc_server.harden.probe import PROBES
from tests.pcc_server.node_client import Client, Node, until
from tests.pcc_server.sandboxes import (
    CONFINED,
    NOBODY,
    OTHER,
    as_user,
    command_as,
    filters,
    host,
    need_root,
    threads,
    told,
    with_children,
)

pytestmark = pytest.mark.linux

PROGRAMS = ("gateway", "worker")
ALL = ("launcher", *PROGRAMS)


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    need_root()


def pids(node: Node) -> dict[str, int]:
    return {"launcher": node.launcher, **{program: node.pid(program) for program in PROGRAMS}}


# --- X1, X9: the escape suite ----------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_forbidden_act_is_denied_on_every_thread(program: str) -> None:
    found = told(program, "probe")
    assert set(found) == {"main", "early", "late"}
    for denied in found.values():
        assert set(denied) == set(PROBES)
        assert [name for name, is_denied in denied.items() if not is_denied] == []


def test_control_every_one_of_them_succeeds_without_a_sandbox() -> None:
    assert len(PROBES) >= 25
    for denied in told("none", "probe").values():
        assert [name for name, is_denied in denied.items() if is_denied] == []


WHILE_IT_RUNS = """
import os, threading
from pcc_server import events, harden
from pcc_server.harden import probe
real, results, gate, never = harden.stage2, [], threading.Event(), threading.Event()

def early():
    gate.wait()
    results.append(probe.run())
    never.wait()

def late():
    results.append(probe.run())
    never.wait()

def stage2(*words):
    threading.Thread(target=early, daemon=True).start()
    held = real(*words)
    gate.set()
    threading.Thread(target=late, daemon=True).start()
    while len(results) < 2:
        pass
    results.append(probe.run())
    denied = sum(sum(result.values()) for result in results)
    events.emit(events.Event.STRAY_OUTPUT, program=events.Program(program), size_bytes=denied)
    return held

harden.stage2 = stage2
"""


@pytest.mark.parametrize("engine", ["fake", pytest.param("mlx", marks=pytest.mark.model)])
def test_the_same_holds_inside_a_node_that_serves(engine: str) -> None:
    model = ("--model", "starter") if engine == "mlx" else ()
    with Node(*model, engine=engine, command=with_children(WHILE_IT_RUNS)) as node, Client(node) as client:
        assert {event["program"]: event["size_bytes"] for event in node.events("stray_output")} == {
            "GATEWAY": 3 * len(PROBES),
            "WORKER": 3 * len(PROBES),
        }
        assert client.ask("hello").receipt
        for program in PROGRAMS:  # two of its threads are ours: one began before the filter, one after
            found = threads(node.pid(program))
            assert len(found) > 2
            assert all(thread == CONFINED for thread in found)


def test_a_node_whose_sandbox_has_a_hole_does_not_start() -> None:
    hole = "from pcc_server.harden import seccomp\nseccomp.RULES = {name: [r for r in rules if r.name != 'socket'] "
    hole += "for name, rules in seccomp.RULES.items()}"
    node = Node(command=with_children(hole), wait=False)
    assert node.process.wait(30) == 4
    node.stop()
    assert "can still do what its sandbox forbids: tcp_socket, udp_socket, unix_socket" in node.words()


def test_a_gateway_that_cannot_make_a_socket_still_takes_new_connections(node: Node) -> None:
    for _ in range(20):
        with Client(node) as client:
            assert client.ask("again", max_tokens=1).receipt


if platform.machine() == "x86_64":

    @pytest.mark.parametrize("door", ["x32", "i386"])
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_a_call_by_another_architecture_s_door_kills(program: str, door: str) -> None:
        assert host("none", door).returncode in (0, -signal.SIGSEGV)  # the control; a kernel may have no such door
        assert host(program, door).returncode == -signal.SIGSYS


# --- X2: every thread ------------------------------------------------------------------------------


def test_every_thread_of_every_process_is_confined(node: Node, client: Client) -> None:
    assert client.ask("make it begin what threads it has").receipt
    for program, pid in pids(node).items():
        found = threads(pid)
        assert found, program
        assert all(thread == CONFINED for thread in found), (program, found)
    assert threads(1)[0] != CONFINED  # the control: the look tells others apart
    (inherited,) = filters(node.launcher)  # what lies over the launcher, its children inherit: theirs is one more
    assert [filters(node.pid(program)) for program in PROGRAMS] == [{inherited + 1}, {inherited + 1}]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_sandbox_is_refused_where_a_thread_already_runs(program: str) -> None:
    assert "2 threads run before the sandbox is closed" in host(program, "threaded").stdout


# --- X3: the environment ---------------------------------------------------------------------------

PLANTED = "libanl.so.1"  # of the C library, and used by nothing here
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'planted', 0, 0, 0)"  # PR_SET_NAME


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_what_is_set_before_the_start_reaches_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(NAMED)
    planted = {
        "LD_PRELOAD": PLANTED,
        "PYTHONPATH": str(tmp_path),
        "GRPC_TRACE": "all",
        "MLX_PLANTED": "1",
        "OPENSSL_CONF": str(tmp_path / "openssl.cnf"),
        "MALLOC_TRIM_THRESHOLD_": "1",
        "PYTHONDEVMODE": "0",
        "HTTPS_PROXY": "http://127.0.0.1:1",
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    with Node() as node:
        maps = {program: Path(f"/proc/{pid}/maps").read_text() for program, pid in pids(node).items()}
        names = {program: comm(pid) for program, pid in pids(node).items()}
        for program in PROGRAMS:
            pairs = Path(f"/proc/{node.pid(program)}/environ").read_bytes().split(b"\0")
            assert not {pair.partition(b"=")[0].decode() for pair in pairs} & set(planted)
            assert PLANTED not in maps[program]
            assert names[program] != "planted"
    # The control: whoever starts the launcher decides what runs in it. It holds no request byte.
    assert PLANTED in maps["launcher"]
    assert names["launcher"] == "planted"


# --- X4: local attackers ---------------------------------------------------------------------------

NO_PTRACE = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
ATTACKERS: dict[str, tuple[str, ...]] = {
    "same user": as_user(NOBODY),
    "other user": as_user(OTHER),
    "root without CAP_SYS_PTRACE": NO_PTRACE,
}


def reads_memory(attacker: tuple[str, ...], pid: int) -> bool:
    opening = subprocess.run([*attacker, "sh", "-c", f"exec 3</proc/{pid}/mem"], capture_output=True, check=False)
    return opening.returncode == 0


def attaches(attacker: tuple[str, ...], pid: int) -> bool:
    attached = ("timeout", "-s", "INT", "0.5", "strace", "-o", "/dev/null", "-p", str(pid))
    done = subprocess.run([*attacker, *attached], capture_output=True, text=True, check=False)
    assert "attached" in done.stderr or "not permitted" in done.stderr, done.stderr
    return "not permitted" not in done.stderr


@pytest.fixture(scope="module")
def unprivileged() -> Iterator[Node]:
    """A node of a user without rights, as an operator should run it."""
    with Node(command=command_as(NOBODY)) as running:
        yield running


@pytest.mark.parametrize("program", ALL)
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_nobody_on_the_machine_reads_a_process_or_attaches(unprivileged: Node, attacker: str, program: str) -> None:
    pid = pids(unprivileged)[program]
    assert not reads_memory(ATTACKERS[attacker], pid)
    assert not attaches(ATTACKERS[attacker], pid)


def test_root_with_all_its_rights_can_and_that_is_the_limit(unprivileged: Node) -> None:
    """Only a confidential machine changes whom one must trust (node design 3.2): audit says so in these words."""
    for pid in pids(unprivileged).values():
        assert reads_memory((), pid)
        assert attaches((), pid)
    with Client(unprivileged) as client:
        assert client.ask("still here").receipt


def test_control_the_same_user_reads_a_process_that_is_not_hardened() -> None:
    plain = subprocess.Popen(as_user(NOBODY, "sleep", "60"))
    try:
        until(lambda: comm(plain.pid) == "sleep")
        assert reads_memory(as_user(NOBODY), plain.pid)
        assert attaches(as_user(NOBODY), plain.pid)
        assert not reads_memory(as_user(OTHER), plain.pid)
    finally:
        plain.kill()
        plain.wait()


def test_a_node_of_an_unprivileged_user_is_confined_and_answers(unprivileged: Node) -> None:
    with Client(unprivileged) as client:
        assert client.ask("hello").receipt
    for pid in pids(unprivileged).values():
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{NOBODY}" in status
        found = threads(pid)
        # Who has no CAP_SETPCAP cannot empty the bounding set; without new privileges it bounds nothing.
        assert all({**thread, "CapBnd": "0" * 16} == CONFINED for thread in found)
