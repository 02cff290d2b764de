"""The gateway's end of the link when a worker goes and the next one comes; a real socketpair, a worker played here."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hybrid.wire.errors import ErrorCode
from pcc_server.errors import Busy, Refused
from pcc_server.events import Phase
from pcc_server.link import LINK_STREAM, Frame, Kind, Link, Operation
from pcc_server.progress import Progress
from pcc_server.publication import Accepted, Publication
from pcc_server.upstream import Upstream

RETRY_MS = 1_234
PUBLICATION = Publication(
    model_id="fake",
    reply=b"reply",
    accepted=(Accepted(node_id=b"n" * 32, ek_id=b"e" * 16, bundle_id=b"b" * 32, opens=0, closes=2**40),),
)


@dataclass
class Counts:
    absorbed: list[bytes] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)

    def absorb(self, payload: bytes) -> None:
        self.absorbed.append(payload)

    def cancelled(self, where: str) -> None:
        self.places[where] += 1


@dataclass
class Worker:
    """Plays a worker: what it was sent, and how to answer."""

    link: Link
    heard: list[Frame]

    def publish(self) -> None:
        self.link.send(Kind.PUBLISH, LINK_STREAM, PUBLICATION.encode())


@dataclass
class Scene:
    upstream: Upstream
    counts: Counts

    async def worker(self) -> Worker:
        """Connect the next worker."""
        ours, theirs = socket.socketpair()
        heard: list[Frame] = []
        await self.upstream.connect(ours.detach())
        link = await Link.connect(theirs.detach(), heard.append, lambda: None)
        return Worker(link, heard)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    counts = Counts()
    upstream = Upstream(streams=8, changed=lambda: None, counts=counts, retry_ms=lambda: RETRY_MS)
    try:
        yield Scene(upstream, counts)
    finally:
        upstream.close()
        await asyncio.sleep(0.02)


async def soon(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - of something that tells nobody
            await asyncio.sleep(0.002)


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(main())


def test_a_lost_worker_ends_what_runs_at_once_and_says_when_to_come_back() -> None:
    async def main() -> None:
        async with scene() as here:
            worker = await here.worker()
            worker.publish()
            await soon(lambda: here.upstream.publication)
            call = asyncio.ensure_future(here.upstream.call(Operation.ROTATE))
            with here.upstream.stream(100, 60_000) as (_, stream):
                await asyncio.sleep(0)
                worker.link.close()
                with pytest.raises(Refused) as refused:
                    await asyncio.wait_for(stream.next(), 1)
            assert (refused.value.code, refused.value.retry_ms) == (ErrorCode.BUSY, RETRY_MS)
            with pytest.raises(Busy) as busy:
                await asyncio.wait_for(call, 1)
            assert busy.value.retry_ms == RETRY_MS
            assert here.upstream.publication is None
            with pytest.raises(Busy):
                await here.upstream.call(Operation.ROTATE)

    run(main)


def test_the_next_worker_takes_its_place_and_nothing_late_of_the_old_one_is_heard() -> None:
    async def main() -> None:
        async with scene() as here:
            old = await here.worker()
            old.publish()
            await soon(lambda: here.upstream.publication)
            with here.upstream.stream(100, 60_000) as (number, stream):
                old.link.send(Kind.HEAD, number, b"h" * 65)
                old.link.send(Kind.PUBLISH, LINK_STREAM, PUBLICATION.encode())
                old.link.flush()  # it lies in the socket when the gateway turns to the next link
                new = await here.worker()
                await asyncio.sleep(0.02)
                assert here.upstream.publication is None
                with pytest.raises(Refused):
                    await stream.next()
            new.publish()
            await soon(lambda: here.upstream.publication)
            with here.upstream.stream(100, 60_000) as (later, stream):
                assert later != number
                new.link.send(Kind.HEAD, later, b"h" * 65)
                assert await asyncio.wait_for(stream.next(), 1)
            assert here.upstream.links == 2

    run(main)


def test_frames_of_streams_that_nobody_knows_any_more_are_dropped() -> None:
    """A look-up that raises would end the reader, silently, and hang every stream (node design 4.1)."""

    async def main() -> None:
        async with scene() as here:
            worker = await here.worker()
            worker.publish()
            await soon(lambda: here.upstream.publication)
            with here.upstream.stream(100, 60_000) as (number, _):
                pass
            assert here.counts.places == {"gateway": 1}
            for kind in (Kind.HEAD, Kind.FRAMES, Kind.FINAL, Kind.END, Kind.REFUSE, Kind.RESULT):
                worker.link.send(kind, number, b"")
                worker.link.send(kind, 77_777, b"")
            with here.upstream.stream(100, 60_000) as (number, stream):
                worker.link.send(Kind.HEAD, number, b"h" * 65)
                assert await asyncio.wait_for(stream.next(), 1)

    run(main)


def test_a_worker_that_breaks_the_format_is_a_lost_one() -> None:
    async def main() -> None:
        async with scene() as here:
            worker = await here.worker()
            worker.publish()
            await soon(lambda: here.upstream.publication)
            worker.link.send(Kind.PUBLISH, LINK_STREAM, b"no publication")
            await soon(lambda: here.upstream.publication is None)

    run(main)


def test_what_the_worker_counted_is_handed_on() -> None:
    async def main() -> None:
        async with scene() as here:
            worker = await here.worker()
            worker.link.send(Kind.TALLY, LINK_STREAM, b"{}")
            await soon(lambda: here.counts.absorbed == [b"{}"])

    run(main)


# --- how long a start takes --------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_callers_come_back_when_the_launcher_expects_the_worker() -> None:
    clock = Clock()
    progress = Progress(now=clock)
    assert (progress.phase, progress.retry_ms) == (Phase.INIT, 500)
    progress.hear({"phase": "load", "pct": 40, "eta_s": 3})
    clock.now = 1.0
    assert (progress.phase, progress.pct, progress.eta_s, progress.elapsed_s) == (Phase.LOAD, 40, 2.0, 1.0)
    assert progress.retry_ms == 2_000
    clock.now = 9.0
    assert progress.retry_ms == 500  # it is late; there is no telling


def test_without_news_a_start_is_expected_to_take_as_long_as_the_last_one() -> None:
    clock = Clock()
    progress = Progress(now=clock)
    clock.now = 8.0
    progress.done()
    clock.now = 100.0
    assert (progress.over, progress.eta_s, progress.elapsed_s) == (True, 0.0, 8.0)
    progress.hear({"phase": "load", "pct": 1, "eta_s": 5})  # of a start that is over
    assert progress.phase is Phase.READY
    progress.begin()
    clock.now = 102.0
    assert (progress.starts, progress.eta_s, progress.retry_ms) == (2, 6.0, 6_000)


def test_the_clock_of_a_start_is_one_that_nobody_sets() -> None:
    assert abs(Progress().elapsed_s) < 5 < time.time()
