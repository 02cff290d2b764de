"""Three processes that start together, say what they may, and end together."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from hybrid.wire import codec
from tests.pcc_server.node_client import COMMAND, Client, Node, alive, ask, collect, kill, until

pytestmark = pytest.mark.linux


def loaded_after(statement: str) -> set[str]:
    """Modules in a fresh interpreter after one import."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "serve", *options], capture_output=True, text=True, check=False, timeout=60)


# --- what is where ---------------------------------------------------------------------------------


def test_the_launcher_imports_neither_grpc_nor_mlx() -> None:
    heavy = {"grpc", "mlx", "mlx_lm", "device", "cryptography", "google.protobuf", "numpy"}
    assert not heavy & loaded_after("import pcc_server.cli, pcc_server.launcher, pcc_server.notices")


def test_the_running_launcher_has_neither_library_mapped(node: Node) -> None:
    assert "cygrpc" in Path(f"/proc/{node.pid('gateway')}/maps").read_text()  # the control: the look finds it there
    assert "cygrpc" not in Path(f"/proc/{node.launcher}/maps").read_text()


def test_the_worker_loads_nothing_of_hybrid_but_the_wire() -> None:
    loaded = loaded_after("import pcc_server.worker")
    wire = {name for name in loaded if name.startswith("hybrid.")}
    assert wire
    assert all(name == "hybrid.wire" or name.startswith("hybrid.wire.") for name in wire)
    assert not {"grpc", "mlx", "device"} & loaded


def test_the_gateway_loads_no_code_that_holds_keys() -> None:
    assert not {"pcc_server.keys", "pcc_server.entry", "pcc_server.worker", "device"} & loaded_after(
        "import pcc_server.gateway"
    )


def test_children_get_an_environment_built_from_nothing() -> None:
    os.environ["TEST_LEAK_OF_OURS"] = os.environ["LD_PRELOAD"] = os.environ["GRPC_TRACE"] = ""
    try:
        with Node() as node:
            for program in ("gateway", "worker"):
                names = {
                    pair.partition(b"=")[0].decode()
                    for pair in Path(f"/proc/{node.pid(program)}/environ").read_bytes().split(b"\0")
                    if pair
                }
                assert not names & {"PATH", "HOME", "TEST_LEAK_OF_OURS", "LD_PRELOAD", "GRPC_TRACE", "PYTHONPATH"}
                assert "LC_ALL" in names  # the control: it can be read
    finally:
        for name in ("TEST_LEAK_OF_OURS", "LD_PRELOAD", "GRPC_TRACE"):
            del os.environ[name]


def test_the_worker_listens_nowhere(node: Node) -> None:
    def listeners(pid: int) -> set[str]:
        inodes = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}

    assert listeners(node.pid("gateway"))
    assert not listeners(node.pid("worker"))


# --- start -----------------------------------------------------------------------------------------


def test_a_second_node_on_the_port_is_an_error_with_a_sentence(node: Node) -> None:
    second = serve("--engine", "fake", "--listen", node.address)
    assert second.returncode == 4
    assert (
        second.stderr.strip()
        .splitlines()[-1]
        .startswith(f"pcc-server: cannot listen on {node.address}: another program")
    )
    with Client(node) as client:
        assert client.ask("still here").receipt


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--listen", "nonsense"), 2, "HOST:PORT"),
        (("--listen", "0.0.0.0:0"), 2, "--allow-software"),
        (("--listen", "0.0.0.0:0", "--allow-software"), 2, "--tls-cert"),
        (("--fault", "cut_stream", "--engine", "mlx"), 2, "--engine fake"),
        (("--fault", "nonsense"), 2, "unknown fault"),
        (("--epoch-s", "0"), 2, "--epoch-s"),
        (("--deployment", "No Spaces"), 2, "DNS name"),
        (("--tls-cert", "a.pem"), 2, "go together"),
        (("--tls-cert", "/nowhere/a.pem", "--tls-key", "/nowhere/b.pem"), 2, "cannot read /nowhere/b.pem"),
        (("--engine", "mlx", "--store", "/nowhere"), 4, "hybrid pull"),
        (("--engine", "mlx", "--store", "/nowhere", "--model", "starter"), 4, "hybrid pull smollm2-135m"),
        (("--engine", "mlx", "--model", "startr"), 2, "did you mean"),
        (("--engine", "mlx", "--model", "zzzzzz"), 2, "hybrid list"),
        (("--engine", "mlx", "--model", "/nowhere/at/all"), 4, "there is no model folder /nowhere/at/all"),
        (("--engine", "mlx", "--model", "/proc/self"), 4, "/proc/self is no model folder"),
        (("--model", "starter"), 2, "--engine mlx"),
    ],
)
def test_what_cannot_start_says_why_in_one_sentence(options: tuple[str, ...], code: int, words: str) -> None:
    defaults = () if "--listen" in options else ("--listen", "127.0.0.1:0")
    ended = serve(*(() if "--engine" in options else ("--engine", "fake")), *defaults, *options)
    last = ended.stderr.strip().splitlines()[-1]
    assert (ended.returncode, words in last) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_terminal_is_told_the_line_to_paste() -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--engine", "fake", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as out:
        card = [out.readline() for _ in range(7)]
        process.terminate()
        assert process.wait(15) == 0
    assert card[0].startswith("node ready on 127.0.0.1:")
    assert "fake (deterministic words for tests; no model runs)" in card[1]
    assert "tier 0 software, NOT private from the operator" in card[3]
    assert card[6].split()[:3] == ["hybrid", "chat", "--node"]
    assert card[6].split()[4:6][0] == "--node-key"


# --- end -------------------------------------------------------------------------------------------


def test_sigterm_ends_an_idle_node_with_exit_code_zero() -> None:
    with Node() as node:
        children = [node.pid("gateway"), node.pid("worker")]
        assert node.stop() == 0
        assert not any(alive(pid) for pid in children)
        assert [line for line in node.stdout if '"stopped"' in line]


@pytest.mark.model
@pytest.mark.parametrize("after_s", [0.0, 0.8])
def test_sigterm_while_the_model_loads_ends_the_node_at_once(after_s: float) -> None:
    with Node("--model", "starter", engine="mlx", wait=False) as node:
        until(lambda: node.events("phase"))
        time.sleep(after_s)
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 4
        assert not any('"ready"' in line for line in node.stdout)
        assert not node.events("fault")


def test_a_sigterm_to_every_process_still_drains() -> None:
    """A service manager that ends a group of processes signals each of them."""
    with Node("--fake-delay-ms", "30") as node, Client(node) as client:
        sealed, opener = client.seal(ask("x" * 100, max_tokens=10))
        call = client.send(client.encode(sealed))
        first = next(call)  # only what has come is drained
        for pid in (node.pid("worker"), node.pid("gateway"), node.launcher):
            os.kill(pid, signal.SIGTERM)
        assert collect(chain([first], call), opener).usage.usage.output == 10
        assert node.process.wait(10) == 0


def test_a_node_whose_stderr_nobody_reads_goes_on() -> None:
    """About 30 bytes an event, 64 KiB a pipe: here one of a single page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    with Client(SimpleNamespace(address=ready["listen"], ready=ready)) as client:
        for _ in range(150):
            assert client.ask("x", max_tokens=1).receipt
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()
    os.close(reader)


def test_sigterm_lets_a_running_reply_finish_and_refuses_new_ones() -> None:
    with Node("--fake-delay-ms", "30") as node, Client(node) as client:
        sealed, opener = client.seal(ask("x" * 100, max_tokens=40))
        late = client.encode(client.seal(ask("late"))[0])
        call = client.send(client.encode(sealed))
        first = next(call)
        os.kill(node.launcher, signal.SIGTERM)
        until(lambda: node.events("draining"))
        assert client.refused(late)[:2] == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        assert collect(chain([first], call), opener).usage.usage.output == 40
        assert node.process.wait(10) == 0


def test_a_second_sigterm_ends_it_now() -> None:
    with Node("--fake-delay-ms", "500") as node, Client(node) as client:
        call = client.send(client.encode(client.seal(ask("x" * 100, max_tokens=100))[0]))
        next(call)
        os.kill(node.launcher, signal.SIGTERM)
        until(lambda: node.events("draining"))
        begun = time.monotonic()
        os.kill(node.launcher, signal.SIGTERM)
        assert node.process.wait(10) == 0
        assert time.monotonic() - begun < 5
        call.cancel()


def test_the_drain_timeout_ends_a_reply_that_takes_too_long() -> None:
    with Node("--fake-delay-ms", "500", "--drain-timeout", "0.3") as node, Client(node) as client:
        call = client.send(client.encode(client.seal(ask("x" * 100, max_tokens=100))[0]))
        next(call)
        os.kill(node.launcher, signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert (call.code(), call.details()) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        assert node.process.wait(10) == 0


@pytest.mark.parametrize("program", ["worker", "gateway"])
def test_a_part_that_ends_before_the_node_was_ready_ends_it_with_a_sentence(program: str) -> None:
    """Later it is started again: test_restart.py."""

    def started() -> int:
        try:
            return node.pid(program)
        except AssertionError:
            return 0

    with Node(wait=False) as node:
        kill(until(started))
        assert node.process.wait(15) == 4
        node.stop()
        assert node.stderr[-1] == f"pcc-server: the {program} was ended by SIGKILL before the node was ready\n"
        assert not node.events("child_started")


def test_children_die_with_the_launcher() -> None:
    with Node() as node:
        children = [node.pid("gateway"), node.pid("worker")]
        kill(node.launcher)
        until(lambda: not any(alive(pid) for pid in children), timeout=5)


def test_a_node_started_by_a_program_ends_when_that_program_is_gone() -> None:
    process = subprocess.Popen(
        [*COMMAND, "serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert b"ready" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) == 0


def _answers(client: Client) -> bool:
    try:
        return bool(client.ask("again").receipt)
    except grpc.RpcError:
        return False


def test_a_cancelled_request_frees_its_slot_at_once() -> None:
    with Node("--max-running", "1", "--max-queue", "0", "--fake-delay-ms", "100") as node, Client(node) as client:
        call = client.send(client.encode(client.seal(ask("x" * 500, max_tokens=400))[0]))
        next(call)
        assert client.refused(client.encode(client.seal(ask("x"))[0]))[1] == "BUSY"  # the control: the slot is taken
        call.cancel()
        begun = time.monotonic()
        until(lambda: _answers(client), timeout=5)
        assert time.monotonic() - begun < 4  # the cancelled reply would have taken 40 s
        assert node.events("cancelled")


def test_a_caller_s_own_deadline_ends_its_request() -> None:
    with Node("--fake-delay-ms", "200") as node, Client(node) as client:
        call = client.send(client.encode(client.seal(ask("x" * 500, max_tokens=400))[0]), timeout=1.0)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: node.events("cancelled") or node.events("request"))


def test_directory_get_takes_an_empty_request_only(client: Client) -> None:
    call = client.channel.unary_stream(codec.METHODS["Directory.Get"])(b"\x0a\x01a", timeout=5)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
