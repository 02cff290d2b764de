"""The node writes nothing and says nothing about content. Each detector first proves that it can fire."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from hybrid.wire import codec
from pcc_server import events
from tests.pcc_server.leaks import calls, leaks, leaky_interpreter, strace, writers
from tests.pcc_server.node_client import Client, Node, ask, kill, until
from tests.pcc_server.sandboxes import with_children

CANARY = "canary-7d1f0c63-prompt-words"
FATAL = [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGKILL]
# A test build whose fake engine raises what it was asked.
FAILING = """
from pcc_server.engines import fake
async def words(self, request, prompt):
    raise {kind}(request.messages[-1].content)
    yield
fake.FakeEngine._words = words
"""
# A test build whose fake engine tries to write a file at each request.
PLANTING = """
import contextlib
from pcc_server.engines import fake
count = fake.FakeEngine.count_tokens
async def planting(self, request):
    with contextlib.suppress(OSError), open({planted!r}, "a") as file:
        file.write("planted")
    return await count(self, request)
fake.FakeEngine.count_tokens = planting
"""


def without_strace() -> str:
    """Why strace cannot be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "the Debian package strace is missing"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "strace may trace nothing here (ptrace is not permitted)"


NEED_STRACE = pytest.mark.skipif(bool(without_strace()), reason=without_strace())

pytestmark = pytest.mark.linux


def outer(call: grpc.Call) -> list[object]:
    """All that a caller sees outside the seal."""
    return [call.code(), call.details(), call.trailing_metadata(), call.initial_metadata()]


def ended(client: Client, data: bytes) -> list[object]:
    call = client.send(data)
    try:
        list(call)
    except grpc.RpcError as error:
        return [*outer(call), error]
    return outer(call)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


# --- what is said ----------------------------------------------------------------------------------


def test_no_prompt_word_is_said_in_success_failure_cancel_or_crash() -> None:
    seen: list[object] = []
    with Node("--fake-delay-ms", "10") as node, Client(node) as client:
        assert client.ask(CANARY).receipt
        assert client.ask(f"{CANARY} " * 9000).error
        sealed, _ = client.seal(ask(CANARY))
        seen += ended(client, codec.encode_invoke_request(sealed.header, flipped(sealed.body, 70), sealed.key_packages))
        seen += ended(client, client.encode(sealed)) + ended(client, client.encode(sealed))  # runs, then a replay
        call = client.send(client.encode(client.seal(ask(CANARY * 20, max_tokens=400))[0]))
        next(call)
        call.cancel()
        seen += outer(call)
        seen += ended(client, CANARY.encode())  # a body that is no request at all
        call = client.send(client.encode(client.seal(ask(CANARY * 20, max_tokens=400))[0]))
        next(call)
        kill(node.pid("worker"))
        with pytest.raises(grpc.RpcError):
            list(call)
        seen += outer(call)
        until(lambda: node.events("child_ended"))
        node.stop()
        assert {"request", "refused", "cancelled"} <= {
            name for name in ("request", "refused", "cancelled") if node.events(name)
        }
        assert not leaks(CANARY, *seen, *node.stdout, *node.stderr)


def test_control_a_plain_grpc_handler_that_raises_is_caught() -> None:
    def handler(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        raise ValueError(CANARY)

    method = grpc.unary_unary_rpc_method_handler(handler)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("control.Service", {"Call": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/control.Service/Call")(b"", timeout=5)
    server.stop(0).wait()
    assert leaks(CANARY, refused.value.details())  # type: ignore[attr-defined]


def test_control_a_worker_that_prints_a_prompt_is_caught_by_the_same_search(tmp_path: Path) -> None:
    command = leaky_interpreter(tmp_path, f"shout:{CANARY}", filtering=False)
    with Node(command=command) as node:
        until(lambda: leaks(CANARY, *node.stderr))


def test_what_a_library_prints_in_the_worker_reaches_nobody_and_is_counted(tmp_path: Path) -> None:
    with Node(command=leaky_interpreter(tmp_path, f"shout:{CANARY}")) as node, Client(node) as client:
        assert client.ask("hello").receipt
        time.sleep(0.3)
        node.stop()
        assert [event for event in node.events("stray_output") if event["size_bytes"] > len(CANARY)]
        assert not leaks(CANARY, *node.stdout, *node.stderr)


# --- what is said at the end of a process -----------------------------------------------------------


def unfiltered(code: str) -> tuple[str, ...]:
    """Words that start a node whose launcher repeats whatever its children print. code: they run it first."""
    return with_children(code, launcher="import pcc_server.events as events; events.parse = lambda line: True")


def ended_by(node: Node, number: signal.Signals) -> list[str]:
    """End the worker in the middle of an answer. Returns what was printed that is no event."""
    with Client(node) as client:
        call = client.send(client.encode(client.seal(ask(f"{CANARY} " * 20, max_tokens=400))[0]))
        next(call)
        os.kill(node.pid("worker"), number)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
    until(lambda: node.events("child_ended"))
    node.stop()
    assert not leaks(CANARY, *outer(call), raised.value, *node.stdout, *node.stderr)
    return [line for line in node.stderr if not events.parse(line.rstrip("\n").encode())]


@pytest.mark.parametrize("number", FATAL)
def test_a_worker_that_crashes_says_nothing_at_all(number: signal.Signals) -> None:
    with Node("--fake-delay-ms", "10", command=unfiltered("")) as node:
        assert ended_by(node, number) == []


def test_control_a_worker_that_tells_of_its_crash_is_heard() -> None:
    with Node("--fake-delay-ms", "10", command=unfiltered("import faulthandler; faulthandler.enable()")) as node:
        assert "Fatal Python error" in "".join(ended_by(node, signal.SIGABRT))


@pytest.mark.parametrize("fault", ["abort", "die_midstream", "die_before_head"])
def test_a_worker_that_ends_itself_says_nothing_of_its_request(fault: str) -> None:
    with Node("--fault", fault) as node, Client(node) as client:
        seen = ended(client, client.encode(client.seal(ask(f"{CANARY} " * 20, max_tokens=400))[0]))
        until(lambda: node.events("child_ended"))
        node.stop()
        assert not leaks(CANARY, *seen, *node.stdout, *node.stderr)


@pytest.mark.parametrize("kind", ["ValueError", "RuntimeError", "SystemExit", "KeyboardInterrupt"])
def test_an_engine_that_fails_with_the_prompt_in_its_error_says_nothing_of_it(kind: str) -> None:
    with Node(command=unfiltered(FAILING.format(kind=kind))) as node, Client(node) as client:
        seen = ended(client, client.encode(client.seal(ask(CANARY))[0]))
        until(lambda: node.events("request") or node.events("child_ended"))
        node.stop()
        assert not leaks(CANARY, *seen, *node.stdout, *node.stderr)


# --- what is written -------------------------------------------------------------------------------


class Watched(NamedTuple):
    """What a node did while it served. calls: of all its processes.  written: bytes, by program."""

    calls: list[str]
    written: dict[str, int]


def written_bytes(node: Node) -> dict[str, int]:
    """What the kernel counts as written to storage, without any trace. Needs root: a node shows it to nobody else."""
    pids = {"launcher": node.launcher, "gateway": node.pid("gateway"), "worker": node.pid("worker")}
    words = {name: Path(f"/proc/{pid}/io").read_text().split() for name, pid in pids.items()}
    return {name: int(found[found.index("write_bytes:") + 1]) for name, found in words.items()}


def serve_under_strace(output: Path, *, requests: int, engine: str, command: tuple[str, ...] | None = None) -> Watched:
    """Serve some requests under a trace of launcher, gateway and worker."""
    more = {} if command is None else {"command": command}
    options = ("--model", "starter") if engine == "mlx" else ()
    with Node(*options, engine=engine, prefix=strace(output), **more) as node, Client(node) as client:
        client.ask(CANARY, max_tokens=2)
        before, since = written_bytes(node), time.time()
        with futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.ask(CANARY, max_tokens=2), range(requests)))
        assert all(answer.receipt and not answer.failed for answer in answers)
        until(lambda: len(node.events("request")) > requests, 30)
        after = written_bytes(node)
        return Watched(calls(output, since=since), {name: after[name] - before[name] for name in after})


def writes_nothing(output: Path, *, requests: int, engine: str) -> None:
    found = serve_under_strace(output, requests=requests, engine=engine)
    assert len(found.calls) > 3 * requests  # the processes were watched: at least their sockets were written to
    assert writers(found.calls) == []
    assert leaks(CANARY, *found.calls) == []
    assert found.written == {"launcher": 0, "gateway": 0, "worker": 0}


@NEED_STRACE
def test_a_hundred_requests_write_nothing_and_no_call_carries_a_prompt(tmp_path: Path) -> None:
    writes_nothing(tmp_path / "trace", requests=100, engine="fake")


@NEED_STRACE
@pytest.mark.soak
def test_a_thousand_requests_write_nothing(tmp_path: Path) -> None:
    writes_nothing(tmp_path / "trace", requests=1_000, engine="fake")


@NEED_STRACE
@pytest.mark.model
def test_the_mlx_engine_writes_nothing_while_it_answers(tmp_path: Path) -> None:
    writes_nothing(tmp_path / "trace", requests=10, engine="mlx")


@NEED_STRACE
@pytest.mark.model
@pytest.mark.soak
def test_the_mlx_engine_writes_nothing_in_more_answers(tmp_path: Path) -> None:
    writes_nothing(tmp_path / "trace", requests=40, engine="mlx")


@NEED_STRACE
@pytest.mark.parametrize("how", ["write", "hold"])
def test_control_a_planted_write_in_the_worker_is_seen_by_both(tmp_path: Path, how: str) -> None:
    """In a build without sandbox."""
    planted = tmp_path / "planted"
    command = leaky_interpreter(tmp_path, f"{how}:{planted}")
    found = serve_under_strace(tmp_path / "trace", requests=30, engine="fake", command=command)
    assert any(str(planted) in call for call in writers(found.calls))
    assert found.written["worker"] > 0
    assert {**found.written, "worker": 0} == {"launcher": 0, "gateway": 0, "worker": 0}


@NEED_STRACE
def test_the_sandbox_refuses_such_a_write(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    command = with_children(PLANTING.format(planted=str(planted)))
    found = serve_under_strace(tmp_path / "trace", requests=100, engine="fake", command=command)
    assert any(str(planted) in call for call in writers(found.calls))  # the trace sees what is refused, too
    assert not planted.exists()
    assert found.written["worker"] == 0


@NEED_STRACE
def test_control_a_prompt_that_crosses_a_system_call_is_seen(tmp_path: Path) -> None:
    output, since = tmp_path / "trace", time.time()
    subprocess.run(
        [*strace(output), sys.executable, "-c", f"import os; os.write(1, b'{CANARY}')"],
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=30,
    )
    assert leaks(CANARY, *(call for call in calls(output, since=since) if call.startswith("write(")))
