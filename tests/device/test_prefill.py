"""R8 in turns and tokens: a long prompt freezes nobody. R5: what is cancelled is gone before the next chunk or step."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device import runtime
from device.errors import EngineFailed
from device.reading import AIM, CHUNK_MIN, PARTS, TURN_OF_THE_FIRST
from device.turns import Turns

from .driving import Driver, prompt, sink

pytestmark = pytest.mark.mlx

CHUNK = 64
LONG = 3_000
TIMES_WORSE = 10  # what the library's defaults must exceed


@pytest.fixture
def driver(tiny: Path) -> Iterator[Driver]:
    made = Driver(tiny, chunk_tokens=CHUNK, max_stall_s=1e9, max_rows=10)
    yield made
    made.close()


def _eight_answers(driver: Driver, max_tokens: int = 400) -> list[Any]:
    lives = [driver.submit(prompt(20, start), max_tokens=max_tokens) for start in range(8)]
    driver.run(until=lambda: all(live.emitted for live in lives))
    return lives


def _longest_gap(calls: list[tuple[int, int]]) -> int:
    """Return the most prompt tokens that any two steps of the eight answers have between them."""
    gaps, gap = [0], 0
    for rows, tokens in calls:
        if rows == 8 and tokens == 1:
            gaps.append(gap)
            gap = 0
        else:
            gap += rows * tokens
    return max(gaps)


def test_while_a_long_prompt_is_read_every_answer_gets_a_token_each_turn(driver: Driver) -> None:
    lives = _eight_answers(driver)
    long = driver.submit(prompt(LONG), max_tokens=4)
    with driver.watched() as calls:
        while not long.emitted:
            before = [len(live.emitted) for live in lives]
            driver.turns.turn()
            assert [len(live.emitted) - was for live, was in zip(lives, before, strict=True)] == [1] * 8
    assert _longest_gap(calls) <= CHUNK + 1  # the last token of the long one joins beside them
    assert sum(rows * tokens for rows, tokens in calls if tokens > 1) == LONG - 1  # and nothing is read twice


def test_the_librarys_defaults_freeze_them(driver: Driver) -> None:
    """The control: the same answers and prompt in mlx-lm's generator as it comes, and the same measure of a gap."""
    generator = runtime.mlx_lm("generate").BatchGenerator(driver.loaded.model, max_tokens=400)
    generator.insert([prompt(20, start) for start in range(8)])
    while len(generator.next()[1]) < 8:
        pass
    (long,) = generator.insert([prompt(LONG)])
    with driver.watched() as calls:
        while not any(response.uid == long for response in generator.next()[1]):
            pass
    generator.close()
    assert _longest_gap(calls) > TIMES_WORSE * CHUNK


def _turns_to_first_token(driver: Driver, length: int) -> int:
    live = driver.submit(prompt(length, 40), max_tokens=2)
    return driver.run(until=lambda: bool(live.emitted))


@pytest.mark.parametrize("length", [20, CHUNK, CHUNK + 1, CHUNK + 2, 5 * CHUNK])
def test_a_short_prompt_behind_a_long_one_starts_within_three_times_its_solo_time(driver: Driver, length: int) -> None:
    _eight_answers(driver)
    alone = _turns_to_first_token(driver, length)
    driver.submit(prompt(LONG), max_tokens=4)
    driver.run(until=lambda: driver.turns.queued_tokens < LONG - 2 * CHUNK)
    assert _turns_to_first_token(driver, length) <= 3 * alone


def test_in_order_of_arrival_it_would_not(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: first come, first served."""
    _eight_answers(driver)
    alone = _turns_to_first_token(driver, 20)
    monkeypatch.setattr(driver.turns._reader, "pick", lambda readings: readings[0])
    driver.submit(prompt(LONG), max_tokens=4)
    driver.turns.turn()
    assert _turns_to_first_token(driver, 20) > 3 * alone


def test_a_long_prompt_is_not_starved_by_a_stream_of_short_ones(driver: Driver) -> None:
    long = driver.submit(prompt(LONG), max_tokens=2)
    turns = 0
    while not long.emitted:
        while len(driver.turns.running) + len(driver.turns.waiting) < 6:
            driver.submit(prompt(CHUNK, turns % 50), max_tokens=1)
        driver.turns.turn()
        turns += 1
    assert turns <= TURN_OF_THE_FIRST * (LONG // CHUNK + 2)


def test_a_prompt_that_yields_gives_the_same_tokens_as_one_that_does_not(driver: Driver) -> None:
    undisturbed = driver.submit(prompt(LONG), max_tokens=24)
    driver.run()
    long = driver.submit(prompt(LONG), max_tokens=24)
    shorts = []
    while not long.emitted:
        shorts.append(driver.submit(prompt(70, len(shorts) % 40), max_tokens=3))
        driver.turns.turn()
    driver.run()
    assert long.emitted == undisturbed.emitted


def test_chunks_follow_the_measured_speed_within_their_limits(driver: Driver) -> None:
    reader = driver.turns._reader
    reader._aim_s = AIM * 0.2
    chunks = []
    for tps in (10.0, 100.0, 10_000.0):
        reader.prefill_tps = tps
        chunks.append(reader.chunk)
    assert chunks == [CHUNK_MIN, int(PARTS * 100 * AIM * 0.2), CHUNK]
    assert CHUNK_MIN < chunks[1] < CHUNK


@pytest.mark.parametrize(
    ("join_s", "calls"), [(0.0, [(1, 9), (8, 1), (1, 1)]), (1.0, [(1, 9), (8, 1), (8, 1), (1, 1)])]
)
def test_who_would_hold_the_answers_up_too_long_joins_in_the_next_turn(
    driver: Driver, join_s: float, calls: list[tuple[int, int]]
) -> None:
    """By rows and tokens of each forward pass: its chunk, a step without it where there is no time, then its own."""
    _eight_answers(driver)
    driver.turns._options = replace(driver.turns._options, max_stall_s=1.0)
    driver.turns._join_s = join_s
    driver.submit(prompt(10), max_tokens=4)
    with driver.watched() as seen:
        while driver.turns._readings or driver.turns.waiting:
            driver.turns.turn()
    assert seen == calls


def test_a_cancel_in_the_middle_of_a_prompt_reads_no_further_chunk(driver: Driver) -> None:
    _eight_answers(driver)
    base = driver.cache_bytes
    long = driver.submit(prompt(LONG), max_tokens=4)
    driver.run(until=lambda: driver.turns.queued_tokens < LONG // 2)
    assert driver.cache_bytes > base
    driver.turns.cancel(long)
    with driver.watched() as calls:
        driver.turns.turn()
    assert calls == [(8, 1)]
    assert driver.turns.queued_tokens == 0
    assert driver.cache_bytes == base


def test_a_cancel_in_an_answer_frees_its_row_before_the_next_step(driver: Driver) -> None:
    lives = _eight_answers(driver)
    used = driver.turns.used_bytes
    driver.turns.cancel(lives[3])
    with driver.watched() as calls:
        driver.turns.turn()
    assert calls == [(7, 1)]
    assert driver.turns.used_bytes < used
    for live in lives:
        driver.turns.cancel(live)
    assert (driver.cache_bytes, driver.turns.used_bytes, driver.turns.promised_bytes) == (0, 0, 0)


def test_a_cancel_in_the_queue_leaves_no_trace(tiny: Path) -> None:
    driver = Driver(tiny, max_rows=1)
    first, second = driver.submit(prompt(20), max_tokens=50), driver.submit(prompt(20, 5), max_tokens=50)
    driver.run(until=lambda: bool(first.emitted))
    driver.turns.cancel(second)
    driver.run()
    assert len(first.emitted) == 50
    assert sink(second).items == []
    driver.close()


def test_a_prompt_that_fails_while_it_is_read_concerns_no_answer(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [live.emitted for live in _finished(driver, _eight_answers(driver, 40))]
    lives = _eight_answers(driver, 40)
    bad = driver.submit(prompt(LONG), max_tokens=4)
    driver.run(until=lambda: driver.turns.queued_tokens < LONG // 2)
    real, kind = type(driver.loaded.model).__call__, type(driver.loaded.model)

    def call(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        scores = real(model, inputs, *arguments, **named)
        if inputs.shape[1] > 1:
            raise RuntimeError("planted after the caches were written")
        return scores

    monkeypatch.setattr(kind, "__call__", call)
    driver.turns.turn()
    monkeypatch.undo()
    assert isinstance(sink(bad).failure, EngineFailed)
    assert [live.emitted for live in _finished(driver, lives)] == expected
    assert driver.turns.rebuilds == 0


def _finished(driver: Driver, lives: list[Any]) -> list[Any]:
    driver.run()
    assert isinstance(driver.turns, Turns)
    return lives
