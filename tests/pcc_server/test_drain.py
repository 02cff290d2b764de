"""Ends that lose nobody: a drain in its steps, a worker that goes and comes back, a rolling restart under load."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hybrid.client import Client as Sdk
from hybrid.errors import HybridError
from hybrid.testing import FakeEngine
from hybrid.trust.policy import Policy
from tests.cli.scenes import COMPLEX
from tests.pcc_server.node_client import Client, Node, ask, kill, until
from tests.pcc_server.router_client import ManyClient, Router, node_id, published

pytestmark = pytest.mark.linux

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
INFERENCE = "hybrid.wire.v1.Inference"
BUSY = (grpc.StatusCode.UNAVAILABLE, "BUSY")
LONG = 400  # tokens: more than a test waits for


def admin(address: str, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, headers={"x-pcc-admin": "1"})
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if "json" in (response.getheader("content-type") or "") else body
    finally:
        connection.close()


def health(channel: grpc.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


def begun(client: Client, *, tokens: int = LONG) -> Any:
    """Start a reply and wait for its head."""
    call = client.send(client.encode(client.seal(ask("x" * 500, max_tokens=tokens))[0]))
    next(call)
    return call


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# --- start -------------------------------------------------------------------------------------------


@pytest.mark.model
def test_both_ports_answer_while_the_model_loads_and_say_the_truth() -> None:
    listen, port = (f"127.0.0.1:{free_port()}" for _ in range(2))
    options = ("--listen", listen, "--admin", port, "--model", "starter")
    seen: list[tuple[int, str]] = []

    def up() -> bool:
        with suppress(OSError):
            return admin(port, "GET", "/livez")[0] == 200
        return False

    def ready() -> bool:
        status, told = admin(port, "GET", "/startupz")
        seen.append((admin(port, "GET", "/readyz")[0], str(told["phase"])))
        return status == 200

    with Node(*options, engine="mlx", wait=False) as node, grpc.insecure_channel(listen) as channel:
        until(up)
        assert admin(port, "GET", "/readyz") == (503, {"ready": False, "reasons": ["starting"]})
        assert (health(channel, ""), health(channel, INFERENCE)) == (SERVING, NOT_SERVING)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=INFERENCE), timeout=60)
        assert next(watch).status == NOT_SERVING
        get = channel.unary_stream("/hybrid.wire.v1.Directory/Get")(b"", timeout=5)
        with pytest.raises(grpc.RpcError):
            list(get)
        assert (get.code(), get.details()) == BUSY
        assert dict(get.trailing_metadata())["retry-after-ms"]
        until(ready, timeout=60)
        assert next(watch).status == SERVING
        watch.cancel()
        assert {phase for status, phase in seen if status == 503} & {"load", "warmup"}
        node.stop()


# --- drain -------------------------------------------------------------------------------------------


@contextmanager
def draining(monkeypatch: pytest.MonkeyPatch, how: Callable[[Node], object]) -> Iterator[tuple[Node, Client]]:
    """A node with a grace of 1.5 s and a reply that runs, just told to end."""
    monkeypatch.setenv("PCC_DRAIN_GRACE_S", "1.5")
    with Node("--fake-delay-ms", "50", "--admin", "127.0.0.1:0") as node, Client(node) as client:
        call = begun(client, tokens=80)
        how(node)
        yield node, client
        assert list(call)  # it ran to its end, 4 s after it began
        assert call.code() is grpc.StatusCode.OK
        assert node.process.wait(10) == 0


def terminate(node: Node) -> None:
    os.kill(node.launcher, signal.SIGTERM)


def post(node: Node) -> None:
    assert admin(str(node.ready["admin"]), "POST", "/drain")[0] == 202


@pytest.mark.parametrize("how", [terminate, post])
def test_a_drain_goes_step_by_step(monkeypatch: pytest.MonkeyPatch, how: Callable[[Node], object]) -> None:
    with draining(monkeypatch, how) as (node, client):
        until(lambda: health(client.channel, INFERENCE) == NOT_SERVING, timeout=1)
        assert health(client.channel, "") == SERVING  # nobody restarts it for that
        assert admin(str(node.ready["admin"]), "GET", "/readyz")[0] == 503
        assert client.ask("within the grace", max_tokens=1).receipt  # balancers learn late
        data = client.encode(client.seal(ask("late", max_tokens=1))[0])

        def refused() -> tuple[Any, ...] | None:
            with suppress(AssertionError):
                return client.refused(data)
            return None

        time.sleep(1.5)
        status, words, trailers = until(refused, timeout=3)
        assert (status, words) == BUSY
        assert 0 < int(dict(trailers)["retry-after-ms"]) <= 30_000
        if how is post:
            post(node)  # once more changes nothing


def test_sigterm_after_a_drain_by_the_admin_port_and_once_more_ends_it_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCC_DRAIN_GRACE_S", "30")
    with Node("--fake-delay-ms", "500", "--admin", "127.0.0.1:0") as node, Client(node) as client:
        call = begun(client)
        post(node)
        until(lambda: node.events("draining"))
        terminate(node)
        time.sleep(0.3)
        assert node.process.poll() is None
        terminate(node)
        assert node.process.wait(10) == 0
        call.cancel()


# --- a worker that goes ------------------------------------------------------------------------------


def test_a_lost_worker_is_told_at_once_and_the_next_one_serves() -> None:
    with Node("--fake-delay-ms", "50", "--admin", "127.0.0.1:0") as node, Client(node) as client:
        gateway = node.pid("gateway")
        watch = health_pb2_grpc.HealthStub(client.channel).Watch(
            health_pb2.HealthCheckRequest(service=INFERENCE), timeout=60
        )
        assert next(watch).status == SERVING
        old = client.encode(client.seal(ask("sealed to the old keys"))[0])
        calls = [begun(client) for _ in range(4)]
        at = time.monotonic()
        kill(node.pid("worker"))
        for call in calls:
            with pytest.raises(grpc.RpcError):
                list(call)
            assert (call.code(), call.details()) == BUSY
            assert 0 < int(dict(call.trailing_metadata())["retry-after-ms"]) <= 30_000
        assert time.monotonic() - at < 1
        assert next(watch).status == NOT_SERVING
        assert client.refused(old)[:2] == BUSY
        assert admin(str(node.ready["admin"]), "GET", "/readyz")[1]["reasons"] == ["worker_gone"]
        assert next(watch).status == SERVING
        watch.cancel()
        assert client.refused(old)[1] == "STALE_KEY"
        with Client(node) as again:  # the directory's key is the same
            assert again.ask("hello").receipt
        assert node.pid("gateway") == gateway


# --- a slot is free again ----------------------------------------------------------------------------


def running(node: Node) -> int:
    """What the worker says it runs, as coarse as it says it; -1 before it has said anything."""
    text = admin(str(node.ready["admin"]), "GET", "/metrics")[1].decode()
    lines = [line for line in text.splitlines() if line.startswith("pcc_requests_running ")]
    return int(float(lines[0].split()[1])) if lines else -1


def closed(_node: Node, client: Client, _call: Any) -> None:
    client.close()


def cancelled(_node: Node, _client: Client, call: Any) -> None:
    call.cancel()


def gateway_killed(node: Node, _client: Client, _call: Any) -> None:
    kill(node.pid("gateway"))


def answers(node: Node) -> bool:
    try:
        with Client(node) as client:
            return bool(client.ask("again", max_tokens=1).receipt)
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("how", [closed, cancelled, gateway_killed])
def test_a_reply_that_nobody_reads_any_more_frees_its_slot(how: Callable[[Node, Client, Any], None]) -> None:
    options = ("--max-running", "1", "--max-queue", "0", "--fake-delay-ms", "100", "--admin", "127.0.0.1:0")
    with Node(*options) as node, Client(node) as client:
        call = begun(client)
        until(lambda: running(node) > 0)
        assert client.refused(client.encode(client.seal(ask("x"))[0]))[:2] == BUSY  # the control: the slot is taken
        how(node, client, call)
        until(lambda: answers(node), timeout=15)  # the reply would have taken 40 s
        until(lambda: running(node) == 0)


def test_a_deadline_frees_its_slot() -> None:
    with Node("--max-running", "1", "--max-queue", "0", "--fake-delay-ms", "100") as node, Client(node) as client:
        call = client.send(client.encode(client.seal(ask("x" * 500, max_tokens=LONG))[0]), timeout=1.5)
        next(call)
        assert not answers(node)
        until(lambda: answers(node), timeout=10)


def test_a_request_that_is_cancelled_while_it_queues_leaves_its_place() -> None:
    with Node("--max-running", "1", "--max-queue", "1", "--fake-delay-ms", "100") as node, Client(node) as client:
        first = begun(client)
        queued = begun(client)
        full = client.encode(client.seal(ask("x"))[0])
        assert client.refused(full)[:2] == BUSY
        queued.cancel()
        until(lambda: node.events("cancelled"))
        third = begun(client)  # takes the place in the queue
        assert client.refused(client.encode(client.seal(ask("x"))[0]))[:2] == BUSY
        for call in (first, third):
            call.cancel()


# --- rolling restart ---------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients of the SDK that ask again and again. texts: what came; errors: what did not."""

    router: Router
    texts: list[str] = field(default_factory=list)
    errors: list[HybridError] = field(default_factory=list)
    end: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        policy = Policy.pinned(str(self.router.ready["node_key"]))
        with Sdk(node=self.router.address, trust=policy, engine=FakeEngine(["on the device"])) as client:
            while not self.end.is_set():
                try:
                    self.texts.append(client.ask(COMPLEX, policy="only_private_cloud", max_tokens=8).text)
                except HybridError as error:
                    self.errors.append(error)

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        threads = [threading.Thread(target=self.ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.end.set()
            for thread in threads:
                thread.join(60)


def rolled(*, signal_number: int) -> tuple[Load, int]:
    """Restart two replicas one after the other under load; returns it and how many requests the engines ran."""
    options = ("--fake-delay-ms", "20")
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node("--listen", address, *options)) for address in addresses]
        load = Load(stack.enter_context(Router(nodes)))
        every = list(nodes)
        with load.running(4):
            until(lambda: len(load.texts) > 12, timeout=30)
            for node, address in zip(nodes, addresses, strict=True):
                os.kill(node.launcher, signal_number)
                node.process.wait(20)
                node.stop()
                again = stack.enter_context(Node("--listen", address, *options))
                every.append(again)
                with ManyClient(load.router) as look:
                    own = node_id(again)
                    published(
                        look, lambda found, own=own: own in {n.bundle.statement.identity.node_id for n in found.nodes}
                    )
                before = len(load.texts)
                until(lambda before=before: len(load.texts) > before + 12, timeout=30)
    return load, sum(len(node.events("request")) for node in every)


def test_a_rolling_restart_loses_and_doubles_nothing() -> None:
    load, ran = rolled(signal_number=signal.SIGTERM)
    assert load.errors == []
    assert set(load.texts) == {"fake engine: " + "".join(f"token {n} " for n in range(1, 9))}
    assert ran == len(load.texts)


def test_replicas_that_are_killed_lose_replies() -> None:
    """The control: without a drain the same load sees failures."""
    load, _ = rolled(signal_number=signal.SIGKILL)
    assert load.errors
