"""R7: what is promised is never less than what is taken; contexts of unlike lengths do not pay for each other."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device import fit
from device.fit import KV_STEP, band_of, banded_bytes, in_steps

from .driving import Driver, prompt

NARROW = (KV_STEP, 3 * KV_STEP)  # bands that a small model reaches in a second


def _taken(rows: list[tuple[int, int]], ages: list[int]) -> int:
    """Return tokens of all rectangles when each (prompt, most) has answered so many tokens; -1 has ended."""
    held = [min(start + age + 1, most) for (start, most), age in zip(rows, ages, strict=True) if age >= 0]
    widths = [[tokens for tokens in held if band_of(tokens) == band] for band in range(3)]
    return sum(len(row) * in_steps(max(row)) for row in widths if row)


def _draw(chance: random.Random, most_context: int) -> tuple[int, int]:
    start = chance.randrange(1, chance.choice([100, 2_100, most_context]))
    return start, min(most_context, start + chance.randrange(1, 2_500))


def test_what_is_promised_covers_every_moment_of_500_random_mixes() -> None:
    chance = random.Random(11)  # noqa: S311 - repeatable mixes, no secret
    for _ in range(500):
        rows = [_draw(chance, 16_384) for _ in range(chance.randrange(1, 17))]
        promised = banded_bytes([(min(start + 1, most), most) for start, most in rows], kv_token_bytes=1)
        for _ in range(20):
            ages = [chance.randrange(-1, most - start + 1) for start, most in rows]
            assert _taken(rows, ages) <= promised


def test_counting_each_request_at_its_end_alone_would_promise_too_little() -> None:
    """The control: on its way up a context stretches the band of the short ones."""
    rows = [(1_900, 2_500), *[(20, 100)] * 15]
    by_end = 15 * in_steps(100) + in_steps(2_500)
    assert _taken(rows, [147, *[0] * 15]) > by_end
    assert banded_bytes([(start + 1, most) for start, most in rows], kv_token_bytes=1) > by_end


def test_one_maximum_context_beside_fifteen_short_ones_costs_its_own_length() -> None:
    short, long = (21, 100), (8_500, 16_384)
    together = banded_bytes([long, *[short] * 15], kv_token_bytes=1)
    assert together == 16_384 + 15 * KV_STEP
    assert together < fit.kv_bytes(rows=16, tokens=16_384, kv_token_bytes=1) / 12  # one rectangle


@pytest.mark.parametrize(("tokens", "band"), [(1, 0), (2_048, 0), (2_049, 1), (8_192, 1), (8_193, 2), (10**6, 2)])
def test_bands_end_where_they_say(tokens: int, band: int) -> None:
    assert band_of(tokens) == band


# --- the real generators, with bands a small model reaches soon ------------------------------------------------


@pytest.fixture
def driver(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Driver]]:
    monkeypatch.setattr(fit, "BANDS", NARROW)
    made: list[Driver] = []

    def make(**options: Any) -> Driver:
        made.append(Driver(tiny, **{"chunk_tokens": 64, "max_rows": 16, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _mixes(driver: Driver, count: int) -> None:
    chance = random.Random(5)  # noqa: S311 - as above
    most_taken = 0

    def look() -> None:
        nonlocal most_taken
        assert driver.cache_bytes <= promised
        most_taken = max(most_taken, driver.cache_bytes)

    for mix in range(count):
        for at in range(chance.randrange(1, 9)):
            length = chance.choice([8, 200, 250, 255, 256, 257, 500, 760, 768, 900])
            driver.submit(prompt(length, mix * 9 + at), max_tokens=chance.randrange(1, 40))
        promised = driver.turns._banded(driver.turns.waiting)
        driver.run(each=look)
        assert driver.cache_bytes == 0
    assert most_taken > 0


@pytest.mark.mlx
def test_the_generators_take_what_was_promised_at_most(driver: Callable[..., Driver]) -> None:
    _mixes(driver(), 6)


@pytest.mark.mlx
@pytest.mark.soak
def test_the_generators_take_what_was_promised_at_most_in_500_mixes(driver: Callable[..., Driver]) -> None:
    _mixes(driver(), 500)


@pytest.mark.mlx
def test_an_answer_that_outgrows_its_bands_says_what_it_says_alone(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = driver()
    lives = [driven.submit(prompt(length, length), max_tokens=600) for length in (240, 250, 30)]
    seen: set[tuple[int, ...]] = set()
    driven.run(each=lambda: seen.add(driven.turns.rows))
    assert {(3, 0, 0), (1, 2, 0), (0, 1, 2)} <= seen  # over both borders, each when it is due
    monkeypatch.setattr(fit, "BANDS", (10**9, 10**9))
    for live in lives:
        alone = driven.submit(live.ids, max_tokens=600)
        driven.run()
        assert alone.emitted == live.emitted


@pytest.mark.mlx
def test_a_sampled_answer_moves_without_losing_its_place(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = driver()
    said = []
    for _ in range(2):
        live = driven.submit(prompt(250), max_tokens=30, temperature=0.9, seed=4, repetition_penalty=1.1)
        driven.run()
        said.append(live.emitted)
        monkeypatch.setattr(fit, "BANDS", (10**9, 10**9))
    assert said[0] == said[1]


@pytest.mark.mlx
def test_short_answers_do_not_grow_with_a_long_one_beside_them(driver: Callable[..., Driver]) -> None:
    driven = driver()
    driven.submit(prompt(3_000), max_tokens=30)
    shorts = [driven.submit(prompt(20, start), max_tokens=200) for start in range(15)]
    driven.run(until=lambda: driven.turns.rows == (15, 0, 1))
    token = driven.loaded.plan.kv_token_bytes
    assert driven.cache_bytes <= (15 * KV_STEP + in_steps(3_030)) * token
    driven.run()
    assert all(len(live.emitted) == 200 for live in shorts)


@pytest.mark.mlx
def test_a_request_waits_while_its_worst_case_does_not_fit(driver: Callable[..., Driver]) -> None:
    token = driver().loaded.plan.kv_token_bytes
    driven = driver(budget_bytes=4 * KV_STEP * token)
    lives = [driven.submit(prompt(20, start), max_tokens=100) for start in range(6)]
    driven.turns.turn()
    assert (len(driven.turns.running), len(driven.turns.waiting)) == (4, 2)
    driven.run(each=lambda: driven.turns.promised_bytes <= 4 * KV_STEP * token or pytest.fail("too much promised"))
    assert all(len(live.emitted) == 100 for live in lives)


@pytest.mark.mlx
def test_beside_one_that_will_outgrow_their_band_nobody_takes_more_than_promised(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "BANDS", (KV_STEP, 2 * KV_STEP))
    driven = driver()
    driven.submit(prompt(150), max_tokens=550)
    for start in range(1, 13):
        driven.submit(prompt(150, start), max_tokens=100)

    def look() -> None:
        assert driven.cache_bytes <= driven.turns.promised_bytes

    driven.run(until=lambda: driven.turns.rows[0] == 0 and driven.turns.rows[1] == 1, each=look)


@pytest.mark.mlx
def test_what_is_used_is_counted_as_the_arrays_are(driver: Callable[..., Driver]) -> None:
    driven = driver()
    for start in range(5):
        driven.submit(prompt(100 * start + 40, start), max_tokens=60)

    def look() -> None:
        assert driven.cache_bytes <= driven.turns.used_bytes

    driven.run(each=look)
