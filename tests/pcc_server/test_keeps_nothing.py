"""The node writes nothing and says nothing about content. Each detector first proves that it can fire."""

import os
import shutil
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from hybrid.wire import codec
from tests.pcc_server.leaks import calls, leaks, leaky_interpreter, strace, writers
from tests.pcc_server.node_client import Client, Node, ask, kill, until

CANARY = "canary-7d1f0c63-prompt-words"


def without_strace() -> str:
    """Why strace cannot be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "the Debian package strace is missing"
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "true"], capture_output=True, check=False
    )
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


# --- what is written -------------------------------------------------------------------------------


def serve_under_strace(
    output: Path, *, requests: int, engine: str, command: tuple[str, ...] | None = None
) -> list[str]:
    """Serve some requests and return the calls of gateway and worker while they did."""
    more = {} if command is None else {"command": command}
    model = ("--model", "starter") if engine == "mlx" else ()
    with Node(*model, engine=engine, prefix=strace(output), **more) as node, Client(node) as client:
        client.ask(CANARY, max_tokens=2)
        since = time.time()
        with futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.ask(CANARY, max_tokens=2), range(requests)))
        assert all(answer.receipt and not answer.failed for answer in answers)
        until(lambda: len(node.events("request")) > requests, 30)
        return calls(output, since=since)


@NEED_STRACE
def test_a_hundred_requests_write_nothing_and_no_call_carries_a_prompt(tmp_path: Path) -> None:
    found = serve_under_strace(tmp_path / "trace", requests=100, engine="fake")
    assert len(found) > 300  # the processes were watched: at least their sockets were written to
    assert writers(found) == []
    assert leaks(CANARY, *found) == []


@NEED_STRACE
@pytest.mark.model
def test_the_mlx_engine_writes_nothing_while_it_answers(tmp_path: Path) -> None:
    found = serve_under_strace(tmp_path / "trace", requests=10, engine="mlx")
    assert len(found) > 30
    assert writers(found) == []
    assert leaks(CANARY, *found) == []


@NEED_STRACE
@pytest.mark.parametrize("how", ["write", "hold"])
def test_control_a_planted_write_in_the_worker_is_seen(tmp_path: Path, how: str) -> None:
    planted = tmp_path / "planted"
    command = leaky_interpreter(tmp_path, f"{how}:{planted}")
    found = serve_under_strace(tmp_path / "trace", requests=30, engine="fake", command=command)
    assert any(str(planted) in call for call in writers(found))


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
