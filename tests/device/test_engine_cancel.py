import asyncio
import random
import time
from typing import Any

import pytest

from device.core import Core
from device.engine import MLXEngine

from .support import ask, collect, request

pytestmark = pytest.mark.mlx

PATIENCE_S = 20.0


async def _idle(engine: MLXEngine) -> None:
    """Wait until nothing runs or waits; fail after a patience no healthy engine needs."""
    until = time.monotonic() + PATIENCE_S
    while engine.status().running or engine.status().waiting:
        assert time.monotonic() < until, "requests are still there"
        await asyncio.sleep(0.005)


def _cache_bytes(core: Core) -> int:
    assert core._turns is not None
    return sum(steps.cache_bytes for steps in core._turns._generators)


def test_closing_the_iterator_stops_within_one_token(engine: MLXEngine) -> None:
    async def run() -> int:
        stream = engine.generate(request("quick fox", max_tokens=4000))
        async for chunk in stream:
            if chunk.tokens:
                break
        assert engine._core._turns is not None
        (live,) = engine._core._turns.running
        await stream.aclose()
        seen = len(live.emitted)
        await _idle(engine)
        return len(live.emitted) - seen

    assert asyncio.run(run()) <= 1
    assert _cache_bytes(engine._core) == 0


def test_a_cancelled_task_frees_its_slot(engine: MLXEngine) -> None:
    async def run() -> None:
        task = asyncio.create_task(collect(engine, request("quick fox", max_tokens=4000)))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _idle(engine)

    asyncio.run(run())
    assert _cache_bytes(engine._core) == 0


def test_cancelling_while_the_prompt_is_read_frees_its_slot(engine: MLXEngine) -> None:
    async def run() -> tuple[int, int]:
        stream = engine.generate(request("x y " * 900))
        chunk = await anext(stream)
        await stream.aclose()
        await _idle(engine)
        assert chunk.progress is not None
        return chunk.progress

    done, total = asyncio.run(run())
    assert done < total
    assert _cache_bytes(engine._core) == 0


def test_a_request_that_waits_can_be_cancelled(engine: MLXEngine) -> None:
    async def run() -> None:
        streams = [engine.generate(request("quick fox", max_tokens=4000), partition=str(at)) for at in range(6)]
        first = [asyncio.create_task(anext(stream)) for stream in streams]  # type: ignore[arg-type]
        while not engine.status().waiting:  # noqa: ASYNC110 - the engine is no asyncio object
            await asyncio.sleep(0.005)
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
        await _idle(engine)

    asyncio.run(run())


def test_a_storm_of_cancels_leaves_nothing_behind_and_changes_no_neighbour(engine: MLXEngine) -> None:
    chance = random.Random(3)  # noqa: S311 - a repeatable storm, no secret
    expected = ask(engine, "lazy dog", partition="alone", max_tokens=40).text

    async def one(at: int) -> None:
        stream = engine.generate(request(f"seven {at}", max_tokens=4000), partition=f"storm{at}")
        stop_after = chance.randrange(4)
        async for _ in stream:
            if stop_after == 0:
                break
            stop_after -= 1
        await stream.aclose()

    async def run() -> list[Any]:
        neighbour = asyncio.create_task(collect(engine, request("lazy dog", max_tokens=40), "neighbour"))
        for start in range(0, 100, 20):
            await asyncio.gather(*(one(at) for at in range(start, start + 20)))
        answer = await neighbour
        await _idle(engine)
        return [answer]

    (answer,) = asyncio.run(run())
    assert answer.text == expected
    assert _cache_bytes(engine._core) == 0
    assert ask(engine, "lazy dog", partition="after", max_tokens=40).text == expected


def test_a_cancelled_answer_is_kept_for_the_next_turn(engine: MLXEngine) -> None:
    async def run() -> None:
        stream = engine.generate(request("quick fox", max_tokens=4000))
        async for chunk in stream:
            if chunk.tokens:
                break
        await stream.aclose()
        await _idle(engine)

    asyncio.run(run())
    again = ask(engine, "quick fox")
    assert again.last.usage is not None
    assert again.last.usage.cached_input == again.last.usage.input - 1
