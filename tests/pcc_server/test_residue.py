"""Two seconds after its last request a node holds nothing of any: no text, no token ids, no keys (S1, S6, R11).

Everything here runs on the real path: mlx-lm, its tokenizer and template, the sealed wire. It reads the memory of other
processes, so it needs root (or CAP_SYS_PTRACE), and each scan first shows that it finds what is there.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.store import Store
from pcc_server.residue.scan import scan
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.faulty import KEY
from tests.pcc_server.leaks import FAULTY, leaky_interpreter
from tests.pcc_server.node_client import Client, Node
from tests.pcc_server.residue_mix import TOO_OFTEN, Mix, settle, user
from tests.pcc_server.test_admin import MARK, call

pytestmark = [pytest.mark.linux, pytest.mark.model]

STREAMS = 16
FOREVER = 1_000  # tokens; such a stream runs until it is cut
PROGRAMS = ("worker", "gateway", "launcher")


@pytest.fixture(scope="module", autouse=True)
def _may_read_memory() -> None:
    assert os.geteuid() == 0, "these tests read /proc/PID/mem of a node's processes: run them as root"


@pytest.fixture(scope="module")
def folder() -> Path:
    return Store().get("starter").path


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A node in which requests may wait as long as it takes: what is refused at the door would leave nothing anyway."""
    file = tmp_path_factory.mktemp("config") / "node.toml"
    file.write_text(f"[limits]\nmax_running = {STREAMS}\nmax_queue = 64\nmax_queue_s = 600\n[keys]\nepoch_s = 900\n")
    return "--model", "starter", "--config", str(file)


def build(folder: Path, how: str, *, scrubbing: bool = True) -> tuple[str, ...]:
    return leaky_interpreter(folder, how, filtering=False, program=FAULTY, scrubbing=scrubbing)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]) -> Iterator[Node]:
    """A build that fails on request and hands over its private keys."""
    with Node(*options, engine="mlx", command=build(tmp_path_factory.mktemp("build"), "faults,keys")) as running:
        yield running


@pytest.fixture
def mix(node: Node) -> Iterator[Mix]:
    with Client(node) as client:
        yield Mix(client)


def pid_of(node: Node, program: str) -> int:
    return node.launcher if program == "launcher" else node.pid(program)


def private_keys(node: Node) -> dict[str, bytes]:
    """What the test build handed over: of each epoch key X25519's scalar and both halves of ML-KEM's seed."""
    keys = [[bytes.fromhex(word) for word in line.split()[1:]] for line in list(node.stderr) if line.startswith(KEY)]
    return {
        f"{key_id.hex()} {name}": part
        for key_id, scalar, seed in keys
        for name, part in (("x25519", scalar), ("ml-kem d", seed[:32]), ("ml-kem z", seed[32:]))
    }


def copies(node: Node, needles: dict[str, bytes], *programs: str) -> dict[str, int]:
    """Return "program needle" -> how many copies it holds, where it holds any."""
    found = {program: scan(pid_of(node, program), needles) for program in programs or PROGRAMS}
    return {f"{program} {name}": count for program, by in found.items() for name, count in by.items() if count}


# --- S1, S6 ----------------------------------------------------------------------------------------


def test_running_streams_are_in_the_worker_alone_and_gone_when_they_were_cut(
    node: Node, mix: Mix, folder: Path
) -> None:
    """The control of every other test here, and S6."""
    calls = [mix.send(user(f"Stream {number}: {mix.canary} .", max_tokens=FOREVER))[0] for number in range(STREAMS)]
    for one in calls:
        next(iter(one))
    needles = mix.needles(folder) | private_keys(node)
    in_worker = scan(pid_of(node, "worker"), needles)
    assert in_worker["utf-8"] >= STREAMS
    assert sum(in_worker.values()) > 100
    assert any(count for name, count in in_worker.items() if name.startswith("ids"))
    assert all(count for name, count in in_worker.items() if name.startswith("reply key"))
    assert all(in_worker[name] for name in private_keys(node))
    assert copies(node, needles, "gateway", "launcher") == {}
    for one in calls:
        one.cancel()
    settle()
    assert copies(node, mix.needles(folder)) == {}


def nothing_stays(node: Node, mix: Mix, folder: Path, *, count: int) -> None:
    mix.run(count, faults=True)
    call, _ = mix.send(user(f"The last one is cut: {mix.canary} .", max_tokens=FOREVER))
    messages = iter(call)
    for _ in range(4):
        next(messages)
    call.cancel()
    settle()
    assert {"finished", "failed", "refused", "cancelled", "late"} <= set(mix.ended)
    assert mix.ended.count("finished") > count / 4
    print(Counter(mix.ended), len(mix.keys))  # noqa: T201 - the soak's figures
    assert copies(node, mix.needles(folder) | mix.early_keys()) == {}


def test_forty_requests_of_every_kind_leave_nothing(node: Node, mix: Mix, folder: Path) -> None:
    nothing_stays(node, mix, folder, count=40)


@pytest.mark.soak
def test_five_hundred_requests_of_every_kind_leave_nothing(node: Node, mix: Mix, folder: Path) -> None:
    nothing_stays(node, mix, folder, count=500)


@pytest.mark.parametrize(("how", "scrubbing"), [("faults", False), ("words", True)])
def test_control_a_node_that_does_not_tidy_up_is_caught(
    tmp_path: Path, folder: Path, options: tuple[str, ...], how: str, *, scrubbing: bool
) -> None:
    """Without the allocator that overwrites, or with the tokenizer's cache of words, the same scan finds copies."""
    command = build(tmp_path, how, scrubbing=scrubbing)
    with Node(*options, engine="mlx", command=command) as node, Client(node) as client:
        mix = Mix(client)
        for words in ("Say", "Repeat", "Explain"):
            mix.whole(user(f"{words} {mix.canary} .", max_tokens=4))
        settle()
        assert scan(pid_of(node, "worker"), mix.needles(folder))["utf-8"]


def test_before_an_engine_of_others_the_node_keeps_nothing_either(tmp_path: Path) -> None:
    """The engine keeps what it likes: it is no process of ours."""
    with EngineProcess("vllm", "--delay-s", "0.01") as engine:
        options = engine.options(tmp_path, limits={"max_queue_s": 600})
        with Node(*options, engine="openai") as node, Client(node) as client:
            mix = Mix(client)
            mix.whole(user(f"Say {mix.canary} .", max_tokens=20))
            for fault in ("not_json", "delta_string", "usage_words", "error_data", "giant_line", "html", "early_close"):
                mix.whole(user(f"fault:{fault} {mix.canary}", max_tokens=20))  # most of them quote it
            mix.cut(user(f"Tell me of {mix.canary} .", max_tokens=20), 1)
            running, _ = mix.send(user(f"fault:silence {mix.canary}", max_tokens=20))
            next(iter(running))
            assert scan(pid_of(node, "worker"), mix.needles(None))["utf-8"]  # the control
            assert copies(node, mix.needles(None), "gateway", "launcher") == {}
            running.cancel()
            settle()
            assert copies(node, mix.needles(None)) == {}


# --- keys ------------------------------------------------------------------------------------------


def test_a_retired_key_is_gone_within_a_second(tmp_path: Path) -> None:
    command = build(tmp_path, "keys")
    with Node("--admin", "127.0.0.1:0", "--epoch-s", "900", command=command) as node, Client(node) as client:
        mix = Mix(client)
        mix.whole(user(f"Say {mix.canary} again."))
        retired = client.candidate.key.key_id.hex()
        before = private_keys(node)
        assert all(scan(pid_of(node, "worker"), before).values())  # the control
        assert call(node, "POST", f"/keys/revoke?key={retired}", MARK)[0] == 200
        settle(1.0)
        gone = {name for name, count in scan(pid_of(node, "worker"), before).items() if not count}
        assert gone == {name for name in before if name.startswith(retired)}
        assert copies(node, before, "gateway", "launcher") == {}


# --- R11 -------------------------------------------------------------------------------------------


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def slope(points: list[tuple[int, float]]) -> float:
    """Least squares, in units of the second by thousands of the first."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return 1000 * over / sum((x - mean_x) ** 2 for x, _ in points)


def rounds(mix: Mix, *, count: int, each: int) -> Iterator[int]:
    """Send requests, 8 at a time, a tenth cut and some of them faulty; yields how many were sent."""
    text = mix.canary
    works: list[Callable[[], None]] = [lambda: mix.whole(user(f"Say {text} .", max_tokens=2))] * 43
    works += [lambda: mix.cut(user(f"Tell me of {text} .", max_tokens=50), 2)] * 5
    works += [
        lambda: mix.whole(user(f"{text} " * TOO_OFTEN)),
        lambda: mix.late(user(f"Say {text} .", max_tokens=FOREVER)),
    ]
    for done in range(0, count, each):
        mix.send_all(works, each, shuffle=done)
        yield done + each


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["fake", "mlx"])
def test_four_thousand_requests_neither_grow_nor_stay(folder: Path, options: tuple[str, ...], engine: str) -> None:
    with Node(*(options if engine == "mlx" else options[2:]), engine=engine) as node, Client(node) as client:
        mix = Mix(client)
        pids = {program: pid_of(node, program) for program in PROGRAMS}
        grown: dict[str, list[tuple[int, float]]] = {program: [] for program in PROGRAMS}
        open_files: dict[str, set[int]] = {program: set() for program in PROGRAMS}
        for sent in rounds(mix, count=4_000, each=100):
            settle(0.5)
            if sent >= 500:
                for program, pid in pids.items():
                    grown[program].append((sent, resident_mb(pid)))
                    open_files[program].add(len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - only their number
        settle()
        slopes = {program: slope(points) for program, points in grown.items()}
        print({"slopes_mb_per_1000": slopes, "files": open_files}, Counter(mix.ended))  # noqa: T201 - the soak's figures
        assert all(value <= 1.0 for value in slopes.values()), (slopes, grown)
        assert all(max(counts) - min(counts) <= 1 for counts in open_files.values()), open_files
        assert copies(node, mix.needles(folder if engine == "mlx" else None) | mix.early_keys()) == {}
