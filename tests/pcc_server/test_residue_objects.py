"""No object of a request outlives it in the worker, although nobody looks for cycles: there are none."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from hybrid.wire.envelope import ReplySealer, RequestOpener
from hybrid.wire.errors import SealedCode
from hybrid.wire.frames import FrameSealer
from hybrid.wire.types import Chunk, GenerateRequest
from pcc_server import hygiene
from pcc_server.answer import Answer
from pcc_server.errors import Sealed
from pcc_server.link import Kind, Link
from pcc_server.outlet import Outlet
from pcc_server.publication import Publication
from tests.pcc_server.test_halves import Halves, opening, soon

KINDS = (Answer, ReplySealer, FrameSealer, RequestOpener, Outlet, GenerateRequest, Chunk)
PATIENCE_S = 5.0


def held() -> dict[str, int]:
    """Objects of one request that are alive, by their kind."""
    names = [type(thing).__name__ for thing in gc.get_objects() if type(thing) in KINDS]
    return {name: names.count(name) for name in sorted(set(names))}


async def same_again(before: dict[str, int]) -> None:
    until = time.monotonic() + PATIENCE_S
    while (now := held()) != before:
        assert time.monotonic() < until, (before, now)
        await asyncio.sleep(0.01)


async def whole(halves: Halves, link: Link, publication: Publication) -> None:
    link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello", max_tokens=5)))
    await soon(lambda: halves.engine.started)


async def cut(halves: Halves, link: Link, publication: Publication) -> None:
    halves.engine._delay_s = 60.0
    link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello")))
    await soon(lambda: halves.engine.running)
    assert {"Answer", "FrameSealer", "ReplySealer"} <= held().keys()  # the control: while it runs they are there
    link.send(Kind.CANCEL, 1)


async def too_long(halves: Halves, link: Link, publication: Publication) -> None:
    link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello " * 9000)))


async def undecryptable(halves: Halves, link: Link, publication: Publication) -> None:
    request = opening(halves.sealed(publication, "hello"))
    link.send(Kind.OPEN, 1, request[:-1] + bytes((request[-1] ^ 1,)))


async def engine_fails(halves: Halves, link: Link, publication: Publication) -> None:
    async def generate(request: GenerateRequest, *, partition: str = "") -> AsyncIterator[Chunk]:
        yield Chunk(text=request.messages[0].content + partition)
        raise RuntimeError(request.messages[0].content)

    halves.engine.generate = generate  # type: ignore[method-assign]
    link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello")))


async def engine_refuses(halves: Halves, link: Link, publication: Publication) -> None:
    async def generate(request: GenerateRequest, *, partition: str = "") -> AsyncIterator[Chunk]:
        yield Chunk(text=partition)
        try:
            int(request.messages[0].content)
        except ValueError:
            raise Sealed(SealedCode.OVERLOADED) from None

    halves.engine.generate = generate  # type: ignore[method-assign]
    link.send(Kind.OPEN, 1, opening(halves.sealed(publication, "hello")))


End = Callable[[Halves, Link, Publication], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("end", [whole, cut, too_long, undecryptable, engine_fails, engine_refuses])
def test_nothing_of_a_request_outlives_it(end: End) -> None:
    async def main() -> None:
        halves = Halves()
        async with halves.linked() as (link, publication):
            gc.collect()
            before = held()
            gc.disable()
            try:
                await end(halves, link, publication)
                await asyncio.sleep(0.2)
                await same_again(before)
            finally:
                gc.enable()

    asyncio.run(main())


def test_what_a_library_leaves_in_a_cycle_is_swept_and_what_was_loaded_before_is_left_alone() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    def alive() -> int:
        return sum(type(thing) is Cycle for thing in gc.get_objects())

    loaded = Cycle()
    frozen = gc.get_freeze_count()
    hygiene.settle()
    try:
        assert gc.get_freeze_count() > frozen
        gc.disable()
        Cycle()
        assert alive() == 1  # the control; what was loaded before is no longer looked at
        hygiene.sweep()
        assert alive() == 0
        assert loaded.me is loaded
    finally:
        gc.enable()
        gc.unfreeze()
