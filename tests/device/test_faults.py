"""R1: a bad request fails alone. Each fault runs beside seven good greedy answers, which must not change by a token."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from device import engine as engine_module
from device.engine import MLXEngine
from device.errors import BadRequest, ContextOverflow, EngineFailed
from device.options import EngineOptions
from device.sampling import Chooser, Guarded
from device.steps import Steps
from device.turns import MAX_REBUILDS, Turns
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling

from .driving import Driver, prompt, sink
from .support import PROMPTS, ask_all, collect, plant_detokenizer, request

pytestmark = pytest.mark.mlx

POISON = 666  # the seed that marks the request which must fail
GOOD = [request(text, max_tokens=24 + at) for at, text in enumerate(PROMPTS[:7])]
BAD = request("box of jugs", seed=POISON, max_tokens=40)
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def opened(tiny: Path) -> Iterator[MLXEngine]:
    engine = MLXEngine.open(tiny, model_id="tiny", options=EngineOptions(max_rows=8, stateless=True))
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def expected(opened: MLXEngine) -> list[str]:
    return [answer.text for answer in ask_all(opened, GOOD)]


class At(Chooser):
    """Raises at the fourth token of the marked request."""

    def _choose(self, scores: Any) -> Any:
        if self._seed == POISON and self._position == 3:
            raise ValueError("planted in the sampler")
        return super()._choose(scores)


class NotNumbers(Chooser):
    """Sees no numbers, as after an overflow in the model."""

    def __call__(self, scores: Any) -> Any:
        return super().__call__(scores * math.nan if self._seed == POISON else scores)


def _processor(step: int) -> Callable[[Sampling], list[Guarded]]:
    def made(sampling: Sampling) -> list[Guarded]:
        seen: list[int] = []

        def process(_: Any, scores: Any) -> Any:
            seen.append(1)
            if len(seen) == step:
                raise ValueError("planted in a processor")
            return scores

        return [Guarded(process)] if sampling.seed == POISON else []

    return made


def _poisoned(lives: list[Any]) -> bool:
    return any(live.seed == POISON and len(live.emitted) == 3 for live in lives)


def _step(patch: pytest.MonkeyPatch, times: float = math.inf) -> None:
    """Let the library's step advance everybody, and raise then, as long as the marked request is about to go on."""
    real, raised = Steps.next, []

    def planted(steps: Steps) -> Any:
        if _poisoned(steps.lives) and len(raised) < times:
            raised.append(1)
            steps._generator.next()
            raise RuntimeError("planted in the step")
        return real(steps)

    patch.setattr(Steps, "next", planted)


def _framer(patch: pytest.MonkeyPatch, opened: MLXEngine, change: Callable[[list[int]], list[int]]) -> None:
    """Let the marked request's template give something else."""
    real = opened._framer

    class Framer:
        def ids(self, wanted: GenerateRequest) -> list[int]:
            ids = real.ids(wanted)
            return change(ids) if wanted.sampling.seed == POISON else ids

    patch.setattr(opened, "_framer", Framer())


def _refuse(ids: list[int]) -> list[int]:
    raise BadRequest("the model's chat template refuses these messages")


FAULTS: dict[str, tuple[type[Exception], Callable[[pytest.MonkeyPatch, MLXEngine], None]]] = {
    "an empty prompt": (EngineFailed, lambda patch, it: _framer(patch, it, lambda _: [])),
    "an id that the model's table does not have": (BadRequest, lambda *_: None),  # see _bad
    "too long": (ContextOverflow, lambda patch, it: _framer(patch, it, lambda ids: ids * 500)),
    "a template that refuses": (BadRequest, lambda patch, it: _framer(patch, it, _refuse)),
    "no numbers": (EngineFailed, lambda patch, _: patch.setattr(engine_module, "Chooser", NotNumbers)),
    "a sampler that raises": (EngineFailed, lambda patch, _: patch.setattr(engine_module, "Chooser", At)),
    "a processor at step 1": (EngineFailed, lambda patch, _: patch.setattr(engine_module, "processors", _processor(1))),
    "a processor at step 4": (EngineFailed, lambda patch, _: patch.setattr(engine_module, "processors", _processor(4))),
    "a parser that raises": (EngineFailed, lambda patch, _: plant_detokenizer(patch)),
    "a step that raises": (EngineFailed, lambda patch, _: _step(patch)),
}


def _bad(fault: str, opened: MLXEngine, patch: pytest.MonkeyPatch) -> GenerateRequest:
    if fault == "an id that the model's table does not have":
        real = opened._tokenizer.encode
        word = "zyzzyva"

        def encode(text: str, **named: Any) -> list[int]:
            ids: list[int] = real(text, **named)
            return [*ids, 10**6] if word in text else ids

        patch.setattr(type(opened._tokenizer), "encode", lambda _, text, **named: encode(text, **named), raising=False)
        return request(word)
    return request("box of jugs", stop=("~~~",)) if fault == "a parser that raises" else BAD


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_request_fails_alone(
    opened: MLXEngine, expected: list[str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, plant = FAULTS[fault]
    bad = _bad(fault, opened, monkeypatch)
    plant(monkeypatch, opened)
    *good, failed = ask_all(opened, [*GOOD, bad])
    assert isinstance(failed, kind), failed
    assert "planted" not in str(failed)
    assert [answer.text for answer in good] == expected
    monkeypatch.undo()
    assert _at_rest(opened)
    assert ask_all(opened, [BAD])[0].text


@pytest.mark.parametrize("where", ["in its prompt", "in its answer"])
def test_a_cancel_changes_no_neighbour(opened: MLXEngine, expected: list[str], where: str) -> None:
    async def gone() -> None:
        bad = request("x y " * 900 if where == "in its prompt" else "seven", max_tokens=900)
        async with contextlib.aclosing(opened.generate(bad)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                if where == "in its prompt" or chunk.tokens:
                    break

    async def run() -> list[Any]:
        answers = [collect(opened, one) for one in GOOD]
        return (await asyncio.gather(gone(), *answers))[1:]

    assert [answer.text for answer in asyncio.run(run())] == expected
    assert _at_rest(opened)


def _at_rest(opened: MLXEngine) -> bool:
    """Wait until nothing runs, and tell whether all that was counted is back where it began."""
    until = time.monotonic() + PATIENCE_S
    while opened.load().kv_promised_bytes or opened.stalled_s():
        assert time.monotonic() < until, "something still runs"
        time.sleep(0.005)
    load = opened.load()
    return (load.kv_used_bytes, load.queued_tokens, load.rows, load.waiting) == (0, 0, (0, 0, 0), 0)


def test_catching_and_going_on_spoils_the_neighbours(
    opened: MLXEngine, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: one step that raises once, and a scheduler that does not rebuild."""
    monkeypatch.setattr(Turns, "_rebuild", lambda *_: None)
    _step(monkeypatch, times=1)
    answers = ask_all(opened, [*GOOD, BAD])
    assert [answer.text for answer in answers[:-1]] != expected


# --- rebuilding, turn by turn ----------------------------------------------------------------------------------


@pytest.fixture
def driver(tiny: Path) -> Iterator[Driver]:
    made = Driver(tiny)
    yield made
    made.close()


SAMPLED = {"temperature": 0.9, "repetition_penalty": 1.1, "top_p": 0.9}


def _crowd(driver: Driver) -> list[Any]:
    greedy = [driver.submit(prompt(30, start), max_tokens=40) for start in range(3)]
    return [*greedy, *(driver.submit(prompt(30, start), seed=start, **SAMPLED) for start in range(3))]


@pytest.mark.parametrize("times", [1, 2])
def test_a_step_that_fails_for_a_while_changes_nobodys_text(
    driver: Driver, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = [*_crowd(driver), driver.submit(prompt(30, 9), seed=POISON)]
    driver.run()
    _step(monkeypatch, times)
    lives = [*_crowd(driver), driver.submit(prompt(30, 9), seed=POISON)]
    driver.run()
    assert [live.emitted for live in lives] == [live.emitted for live in calm]
    assert driver.turns.rebuilds == times


def test_a_request_that_always_fails_is_given_up_after_two_rebuilds(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _step(monkeypatch)
    lives = _crowd(driver)
    bad = driver.submit(prompt(30, 9), seed=POISON)
    driver.run()
    assert isinstance(sink(bad).failure, EngineFailed)
    assert bad.rebuilds == MAX_REBUILDS + 1
    assert [live.rebuilds for live in lives] == [1] * 6  # beside it once; then it was apart
    assert not any(sink(live).failure for live in lives)


def test_survivors_run_apart_only_until_they_are_past_the_place(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _step(monkeypatch, times=1)
    lives = _crowd(driver)
    driver.submit(prompt(30, 9), seed=POISON)
    driver.run(until=lambda: driver.turns.rebuilds == 1)
    most_apart, together = 0, 0

    def look() -> None:
        nonlocal most_apart, together
        most_apart = max(most_apart, len(driver.turns._apart))
        together = max(together, len(driver.turns._bands[0]))

    driver.run(each=look)
    assert most_apart == 1
    assert together > 3
    assert all(len(live.emitted) == live.max_tokens for live in lives)


def test_a_row_that_cannot_be_taken_out_leads_to_a_rebuild(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = _crowd(driver)
    driver.run()
    lives = _crowd(driver)
    gone = driver.submit(prompt(30, 9), max_tokens=900)
    driver.run(until=lambda: len(gone.emitted) > 3)
    steps = driver.turns._bands[0]

    def raising(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(steps._generator, "remove", raising)
    driver.turns.cancel(gone)
    driver.run()
    assert [live.emitted for live in lives] == [live.emitted for live in calm]
    assert driver.turns.rebuilds == 1


def test_a_step_in_flight_that_fails_while_a_prompt_is_read_leads_to_a_rebuild(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = _crowd(driver)
    driver.run()
    lives = _crowd(driver)
    driver.run(until=lambda: all(live.emitted for live in lives))
    late = driver.submit(prompt(300), max_tokens=3)
    reader = driver.turns._reader
    real, raised = reader.wait, []

    def failing() -> None:
        if not raised:
            raised.append(1)
            raise RuntimeError("planted")
        real()

    monkeypatch.setattr(reader, "wait", failing)
    driver.run()
    assert [live.emitted for live in lives] == [live.emitted for live in calm]
    assert len(late.emitted) == 3
    assert late.rebuilds == 0


@pytest.mark.parametrize("lost", ["close", "_new"])
def test_a_generator_that_cannot_even_be_thrown_away_loses_nobody(
    driver: Driver, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that failed, waiting for it fails again. Whoever is in no table any more would wait for ever."""
    calm = _crowd(driver)
    driver.run()
    lives = _crowd(driver)
    driver.run(until=lambda: all(len(live.emitted) > 3 for live in lives))
    steps = driver.turns._bands[0]

    def raising() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(steps._generator, "next", raising)
    if lost == "close":
        monkeypatch.setattr(steps._generator, "close", raising)
        driver.run()
        assert [live.emitted for live in lives] == [live.emitted for live in calm]
    else:
        monkeypatch.setattr(steps, "_new", raising)
        with pytest.raises(RuntimeError, match="planted"):
            driver.turns.turn()
        assert set(driver.turns.running) == set(lives)  # these are told that the engine has ended


def test_what_is_told_of_reading_again_is_of_the_prompt(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    _step(monkeypatch, times=1)
    live = driver.submit(prompt(30, 9), seed=POISON)
    driver.run()
    assert driver.turns.rebuilds == 1
    told = [item.progress for item in sink(live).items if item.progress]
    assert {total for _, total in told} == {30}
    assert max(done for done, _ in told) <= 30


def test_nothing_stays_of_one_that_fails_at_its_last_token(driver: Driver) -> None:
    class Raising:
        last_segment = ""

        def add_token(self, _: int) -> None:
            if len(live.emitted) == live.max_tokens:
                raise ValueError("planted")

        def finalize(self) -> None:
            pass

    live = driver.submit(prompt(30), max_tokens=4)
    live.text._detokenizer = Raising()
    driver.run()
    assert isinstance(sink(live).failure, EngineFailed)
    assert driver.turns._bands[0]._generator._generation_batch._current_tokens is None


# --- the watchdog's question -----------------------------------------------------------------------------------


def test_a_thread_that_hangs_in_a_step_is_seen(opened: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go_on, there = threading.Event(), threading.Event()
    real = Steps.next

    def hanging(steps: Steps) -> Any:
        there.set()
        go_on.wait(PATIENCE_S)
        return real(steps)

    assert opened.stalled_s() == 0.0
    assert opened._core.stalled_s(time.monotonic() + 1_000) == 0.0  # idle is no stall, however long
    monkeypatch.setattr(Steps, "next", hanging)

    async def run() -> tuple[float, Any]:
        asked = asyncio.create_task(collect(opened, GOOD[0]))
        await asyncio.to_thread(there.wait, PATIENCE_S)
        stalled = opened._core.stalled_s(time.monotonic() + 1_000)
        go_on.set()
        return stalled, await asked

    stalled, _ = asyncio.run(run())
    assert stalled >= 1_000
    assert _at_rest(opened)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_seen_and_its_readers_are_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from device.errors import EngineClosed

    engine = MLXEngine.open(tiny, model_id="tiny")

    def raising(_: Turns) -> None:
        raise RuntimeError("planted beside every guard")

    monkeypatch.setattr(Turns, "turn", raising)
    assert isinstance(ask_all(engine, [GOOD[0]])[0], EngineClosed)
    engine._core._thread.join()
    assert engine.stalled_s() > 3_600
    asyncio.run(engine.close())


def test_a_closed_engine_is_not_stalled(tiny: Path) -> None:
    engine = MLXEngine.open(tiny, model_id="tiny")
    asyncio.run(engine.close())
    assert engine.stalled_s() == 0.0


def test_a_request_of_one_message_is_what_the_faults_stand_for() -> None:
    """Schemas and tools have no field on the wire, so their faults cannot be sent; a parser stands in for them."""
    assert {"messages", "sampling", "cache_salt"} == {field.name for field in fields(GenerateRequest)}
    assert request("x").messages == (Message(role=Role.USER, content="x"),)
