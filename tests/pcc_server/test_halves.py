"""Gateway and worker on one loop, joined by the true link: what a process of its own would hide."""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import aio

from hybrid.wire import codec
from hybrid.wire.directory import Directory
from hybrid.wire.envelope import Candidate, RequestSealer
from pcc_server.config import Settings
from pcc_server.engines.fake import FakeEngine, open_fake
from pcc_server.gateway import Gateway, make_server
from pcc_server.link import Kind, Link, OpenStream
from pcc_server.publication import Publication
from pcc_server.worker import Worker, _first
from tests.pcc_server.node_client import ask


class Halves:
    """A node without its launcher."""

    def __init__(self, **options: object) -> None:
        values: dict[str, object] = {"listen": "127.0.0.1:0", "engine": "fake", **options}
        self.settings = Settings(**values)  # type: ignore[arg-type]
        loaded = open_fake(self.settings)
        assert isinstance(loaded.engine, FakeEngine)
        self.engine = loaded.engine
        self.worker = Worker(self.settings, loaded)

    def sealed(self, publication: Publication, text: str, *, max_tokens: int = 4000) -> codec.InvokeRequest:
        directory = Directory.decode(codec.decode_directory_reply(publication.reply).directory)
        bundle = directory.nodes[0].bundle
        candidate = Candidate(
            identity=bundle.statement.identity,
            key=bundle.statement.keys[0],
            bundle_id=bundle.id,
            manifest=bundle.statement.models[0].manifest,
        )
        sealed, _ = RequestSealer(
            candidates=[candidate], model_id="fake", directory_id=directory.id, deadline_ms=600_000
        ).seal(ask(text, max_tokens=max_tokens))
        data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages)
        return codec.decode_invoke_request(data)

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[tuple[Link, Publication]]:
        """The worker alone, with a link that plays the gateway."""
        ours, theirs = socket.socketpair()
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        link = await Link.connect(
            ours.detach(), lambda f: heard.put_nowait(f.payload) if f.kind is Kind.PUBLISH else None, lambda: None
        )
        await self.worker.connect(theirs.detach())
        try:
            yield link, Publication.decode(await heard.get())
        finally:
            await closed(link, self.worker._link)


def opening(request: codec.InvokeRequest) -> bytes:
    return OpenStream(60_000, 0, request.header, request.body, request.key_packages[0]).encode()


async def closed(*links: Link | None) -> None:
    for link in links:
        assert link is not None
        link.close()
    await asyncio.sleep(0.01)  # each hears of the other's end


async def soon(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - of something that tells nobody
            await asyncio.sleep(0.005)


def test_a_running_reply_does_not_prolong_the_life_of_its_epoch_key() -> None:
    async def main() -> tuple[bool, int]:
        halves = Halves(fake_delay_ms=60_000)
        async with halves.linked() as (link, publication):
            ring = halves.worker._ring
            key = weakref.ref(ring.current()[0].key)
            link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello")))
            await soon(lambda: halves.engine.running)
            assert key() is not None  # the control: before its end it is there
            ring._boot = lambda: 1e12
            ring.advance()
            gc.collect()
            return key() is None, halves.engine.running

    assert asyncio.run(main()) == (True, 1)


def test_a_cancel_that_comes_with_its_request_leaves_nothing_running() -> None:
    async def main() -> tuple[int, int]:
        halves = Halves(fake_delay_ms=60_000)
        async with halves.linked() as (link, publication):
            request = opening(halves.sealed(publication, "hello"))
            link.send(Kind.OPEN, 1, request)
            link.send(Kind.CANCEL, 1)  # both leave in one write
            link.send(Kind.OPEN, 2, request)  # not a replay: the first was never opened
            await soon(lambda: halves.engine.running)
            return halves.engine.started, len(halves.worker._running)

    assert asyncio.run(main()) == (1, 1)


def test_the_end_of_the_link_stops_what_runs() -> None:
    async def main() -> int:
        halves = Halves(fake_delay_ms=60_000)
        async with halves.linked() as (link, publication):
            link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello")))
            await soon(lambda: halves.engine.running)
            link.close()
            await soon(lambda: not halves.engine.running)
            return len(halves.worker._running)

    assert asyncio.run(main()) == 0


def test_work_that_ends_the_worker_is_not_lost_when_it_fails() -> None:
    async def fails() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        asyncio.run(_first(asyncio.sleep(60), fails()))


@asynccontextmanager
async def serving(halves: Halves) -> AsyncIterator[tuple[Gateway, str]]:
    gateway = Gateway(halves.settings)
    server, address, _ = make_server(gateway, halves.settings)
    left, right = socket.socketpair()
    await gateway.worker.connect(left.detach())
    await halves.worker.connect(right.detach())
    beat = asyncio.create_task(halves.worker.beat())
    await server.start()
    await soon(lambda: gateway.health.ready)
    try:
        yield gateway, address
    finally:
        beat.cancel()
        await server.stop(0)
        gateway.worker.close()
        await closed(halves.worker._link)


def test_a_caller_that_reads_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcc_server.handlers.READER_PATIENCE_S", 0.3)

    async def main() -> tuple[int, int]:
        halves = Halves(max_new=4000)
        small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))  # else all of it fits the window
        async with serving(halves) as (gateway, address), aio.insecure_channel(address, options=small) as channel:
            assert gateway.worker.publication is not None
            request = halves.sealed(gateway.worker.publication, "x" * 8000)
            call = channel.stream_stream(codec.METHODS["Inference.Invoke"])()
            await call.write(codec.encode_invoke_request(request.header, request.body, request.key_packages))
            await call.done_writing()
            await soon(lambda: gateway.worker.running)
            held = gateway.worker.running
            await soon(lambda: not gateway.worker.running and not halves.worker._running)
            left = gateway.worker.running
            call.cancel()
            return held, left

    assert asyncio.run(main()) == (1, 0)


def test_a_node_that_is_not_ready_reads_no_request() -> None:
    async def main() -> str:
        halves = Halves()
        async with serving(halves) as (gateway, address), aio.insecure_channel(address) as channel:
            gateway.worker.lose()
            call = channel.stream_stream(codec.METHODS["Inference.Invoke"])()  # it never sends one
            async with asyncio.timeout(3):
                return str(await call.details())

    assert asyncio.run(main()) == "BUSY"


def test_callers_that_never_finish_sending_are_bounded_and_keep_nobody_out() -> None:
    """They need no key: of more than there is room for, the oldest goes, and who sends at once is answered."""

    async def main() -> tuple[list[str], bytes]:
        halves = Halves(max_running=1, max_queue=0)
        own = (("grpc.use_local_subchannel_pool", 1),)  # else both channels would be one connection
        async with (
            serving(halves) as (gateway, address),
            aio.insecure_channel(address, options=own) as one,
            aio.insecure_channel(address, options=own) as two,
        ):
            slow = list[Any]()
            for _ in range(5):  # there is room for two
                slow.append(one.stream_stream(codec.METHODS["Inference.Invoke"])())
                await slow[-1].write(b"half")
                await asyncio.sleep(0.05)
            async with asyncio.timeout(10):
                refused = [str(await call.details()) for call in slow[:3]]
                assert gateway.worker.publication
                request = halves.sealed(gateway.worker.publication, "good", max_tokens=1)
                data = codec.encode_invoke_request(request.header, request.body, request.key_packages)
                invoke: Any = two.stream_stream(codec.METHODS["Inference.Invoke"])
                reply = invoke(iter((data,)))
                answered = b"".join([message async for message in reply])
            for call in slow:
                call.cancel()
            return refused, answered

    refused, answered = asyncio.run(main())
    assert refused == ["BUSY"] * 3
    assert answered
