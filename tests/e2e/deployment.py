"""Several true nodes behind the true router, as processes on loopback; and a hostile way in between, of our own."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from hybrid.testing import FakeNode
from hybrid.trust.policy import Policy
from hybrid.wire.codec import METHODS, decode_invoke_request, encode_invoke_request
from hybrid.wire.header import Header

ROUTER = (sys.executable, "-P", "-m", "pcc_server", "route", "--json", "--listen", "127.0.0.1:0")


@dataclass
class Deployment:
    """A router and its nodes. address, key: the router's."""

    nodes: list[FakeNode]
    address: str
    key: str

    @property
    def policy(self) -> Policy:
        return Policy.pinned(self.key)


@contextlib.contextmanager
def router(addresses: Sequence[str], *options: str) -> Iterator[tuple[str, str]]:
    """Run the true router before nodes at ``HOST:PORT[=WEIGHT]``; yields its address and key."""
    words = [*ROUTER, *(word for address in addresses for word in ("--node", address)), *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            event = _ready(process)
            drain = threading.Thread(target=process.stdout.read, daemon=True)  # or it would end with its reader
            drain.start()
            yield event["listen"], event["node_key"]
        finally:
            process.kill()


def _ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "ready":
            return event
    assert process.stderr is not None
    raise AssertionError(f"the router did not start: {process.stderr.read()}")


@contextlib.contextmanager
def deployed(
    *faults: str | None, weights: Sequence[int] = (), node_options: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[Deployment]:
    """Start one node per fault (None: a good one) beside each other, and the router before them."""
    with contextlib.ExitStack() as stack:
        started = _at_once([lambda f=fault: FakeNode.run(f, options=node_options) for fault in faults])  # type: ignore[misc]
        nodes = [stack.enter_context(node) for node in started]
        shares = weights or [1] * len(nodes)
        named = [f"{node.address}={weight}" for node, weight in zip(nodes, shares, strict=True)]
        address, key = stack.enter_context(router(named, *options))
        yield Deployment(nodes=nodes, address=address, key=key)


def _at_once(starts: Sequence[Callable[[], FakeNode]]) -> list[FakeNode]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(starts)) as pool:
        return list(pool.map(lambda start: start(), starts))


_DIRECTORIES: dict[str, list[bytes]] = {}  # as first shown: good for two epochs, and so for one run of the tests
Bend = Callable[["Hostile", bytes, grpc.aio.ServicerContext], AsyncIterator[bytes]]


@dataclass
class Hostile:
    """Carries gRPC between a client and nodes, and bends what it carries. Sees what any router sees.

    targets: the first serves everything but requests.  bend: what becomes of a request and its reply.
    requests: every request that came.  seen: every byte that passed, both ways.
    """

    targets: Sequence[str]
    bend: Bend
    directory: Callable[[list[bytes]], list[bytes]] = list
    requests: list[bytes] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    address: str = ""
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = grpc.aio.insecure_channel(target)
        return self._channels[target]

    async def asked(self, target: str, request: bytes) -> list[bytes]:
        """Hand one request to a node and return its whole reply. Raises AioRpcError."""

        async def once() -> AsyncIterator[bytes]:
            yield request

        messages = []
        async for message in self.channel(target).stream_stream(METHODS["Inference.Invoke"])(once(), timeout=30):
            self.seen += message
            messages.append(message)
        return messages

    async def _invoke(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        (request,) = [one async for one in requests]
        self.requests.append(request)
        self.seen += request
        async for message in self.bend(self, request, context):
            yield message

    async def _get(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.seen += request
        target = self.targets[0]
        if target not in _DIRECTORIES:  # a node answers one address sixty times a minute
            call = self.channel(target).unary_stream(METHODS["Directory.Get"])(request, timeout=30)
            _DIRECTORIES[target] = [part async for part in call]
        for part in self.directory(_DIRECTORIES[target]):
            self.seen += part
            yield part

    async def _file(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        call = self.channel(self.targets[0]).unary_stream(METHODS["Log.File"])(request, timeout=30)
        async for part in call:
            yield part

    async def _serve(self, ready: "threading.Event", end: "asyncio.Event") -> None:
        server = grpc.aio.server()
        handlers = {
            "Directory": {"Get": grpc.unary_stream_rpc_method_handler(self._get)},
            "Log": {"File": grpc.unary_stream_rpc_method_handler(self._file)},
            "Inference": {"Invoke": grpc.stream_stream_rpc_method_handler(self._invoke)},
        }
        for service, methods in handlers.items():
            name = f"hybrid.wire.v1.{service}"
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        ready.set()
        await end.wait()
        await server.stop(None)
        for channel in self._channels.values():
            await channel.close()


@contextlib.contextmanager
def hostile(targets: Sequence[str], bend: Bend, **given: Any) -> Iterator[Hostile]:
    """Put a hostile router before nodes until the block ends; it runs on a thread of its own."""
    way = Hostile(targets=targets, bend=bend, **given)
    loop, ready, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(way._serve(ready, end),), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield way
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        loop.close()


def for_candidate(request: bytes, index: int) -> bytes:
    """Cut a client's request down to what a router hands to one candidate."""
    invoke = decode_invoke_request(request)
    package = (invoke.key_packages[index],)
    return encode_invoke_request(invoke.header, invoke.body, package, index=index)


def candidates(request: bytes) -> list[str]:
    """Name the nodes a request is sealed to, in the client's order, hexadecimal."""
    return [ref.node_id.hex() for ref in Header.decode(decode_invoke_request(request).header).candidates]
