"""R8 where a machine is slow: a chunk passes through some of the layers in each turn."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device import runtime
from device.errors import EngineFailed
from device.reading import CHUNK_MIN, LEAST_COST, in_parts

from .driving import Driver, prompt, sink

pytestmark = pytest.mark.mlx

LAYERS = 4
NO_TIME = 1e-9  # s: each layer is a part
LENGTH = 3 * CHUNK_MIN + 1


@pytest.fixture(scope="module")
def deep(make_tiny: Callable[..., Path]) -> Path:
    return make_tiny(layers=LAYERS)


@pytest.fixture
def slow(deep: Path) -> Iterator[Driver]:
    made = Driver(deep, max_stall_s=NO_TIME, max_rows=10)
    yield made
    made.close()


@pytest.fixture
def fast(deep: Path) -> Iterator[Driver]:
    made = Driver(deep, chunk_tokens=CHUNK_MIN, max_stall_s=1e9, max_rows=10)
    yield made
    made.close()


def _answers(driver: Driver) -> list[Any]:
    lives = [driver.submit(prompt(20, start), max_tokens=100) for start in range(3)]
    driver.run(until=lambda: all(live.emitted for live in lives))
    return lives


@given(st.lists(st.integers(), min_size=1, max_size=80), st.integers(-1, 100))
def test_parts_are_all_layers_in_order_and_of_one_size(layers: list[int], count: int) -> None:
    parts = in_parts(layers, count)
    sizes = {len(part) for part in parts}
    assert [layer for part in parts for layer in part] == layers
    assert len(parts) == min(max(count, 1), len(layers))
    assert max(sizes) - min(sizes) <= 1


def test_in_each_turn_a_part_is_read_and_each_answer_gets_a_token(slow: Driver) -> None:
    lives = _answers(slow)
    long = slow.submit(prompt(LENGTH), max_tokens=4)
    with slow.watched() as calls:
        for turn in range(3 * LAYERS):
            before = [len(live.emitted) for live in lives]
            slow.turns.turn()
            assert [len(live.emitted) - was for live, was in zip(lives, before, strict=True)] == [1] * 3, turn
    chunk = [(1, CHUNK_MIN), *[(3, 1)] * LAYERS]
    assert calls == 3 * chunk
    assert [item.progress for item in sink(long).items] == [(32, LENGTH), (64, LENGTH), (96, LENGTH)]


def test_a_fast_machine_reads_a_chunk_in_one_turn(fast: Driver) -> None:
    """The control."""
    _answers(fast)
    fast.submit(prompt(LENGTH), max_tokens=4)
    with fast.watched() as calls:
        for _ in range(2):
            fast.turns.turn()
    assert calls == 2 * [(1, CHUNK_MIN), (3, 1)]


def test_a_part_computes_its_own_layers_and_no_others(slow: Driver) -> None:
    """What the parts rest on: MLX computes what it is asked for, and keeps what the rest needs."""
    core = runtime.mlx()
    slow.submit(prompt(LENGTH), max_tokens=4)
    slow.turns.turn()
    (reading,) = slow.turns._readings
    for layer in reading.cache[1:]:
        before = core.get_active_memory()
        slow.turns.turn()
        assert core.get_active_memory() - before > layer.nbytes / 2
    before = core.get_active_memory()
    core.eval([layer.state for layer in reading.cache])  # the control: there was nothing left
    assert core.get_active_memory() == before


def test_parts_change_no_token(slow: Driver, fast: Driver) -> None:
    answers = []
    for driver in (fast, slow):
        lives = [driver.submit(prompt(LENGTH), max_tokens=24)]
        driver.turns.turn()
        lives += [driver.submit(prompt(70, start), max_tokens=3) for start in range(3)]  # they go between its parts
        driver.run()
        answers.append([live.emitted for live in lives])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("answers", "kept"), [(False, 2 * CHUNK_MIN), (True, 0)])
def test_what_is_cut_between_two_parts_is_kept_with_its_chunk_where_no_answer_waits(
    deep: Path, *, answers: bool, kept: int
) -> None:
    undisturbed = Driver(deep, max_stall_s=NO_TIME)
    expected = undisturbed.submit(prompt(LENGTH), max_tokens=24)
    undisturbed.run()
    undisturbed.close()
    driver = Driver(deep, max_stall_s=NO_TIME, stateless=False)
    if answers:
        _answers(driver)
    first = driver.submit(prompt(LENGTH), partition="one")
    for _ in range(LAYERS + 2):
        driver.turns.turn()
    driver.turns.cancel(first)
    again = driver.submit(prompt(LENGTH), max_tokens=24, partition="one")
    driver.run()
    assert (again.cached, again.emitted) == (kept, expected.emitted)
    driver.close()


def test_the_last_few_tokens_are_divided_too(slow: Driver) -> None:
    """A token costs nearly as much as sixteen: by tokens alone it would be one part."""
    reader = slow.turns._reader
    reader.prefill_tps, reader._aim_s = 100.0, LEAST_COST / 100.0 / LAYERS
    slow.submit(prompt(2), max_tokens=4)
    with slow.watched() as calls:
        for _ in range(LAYERS - 1):
            slow.turns.turn()
    assert calls == [(1, 1)]
    assert slow.turns.queued_tokens == 1


def test_a_cut_between_two_parts_leaves_nothing(slow: Driver) -> None:
    long = slow.submit(prompt(LENGTH), max_tokens=4)
    for _ in range(LAYERS + 2):
        slow.turns.turn()
    slow.turns.cancel(long)
    slow.turns.turn()
    assert (slow.cache_bytes, slow.turns.used_bytes, slow.turns.queued_tokens) == (0, 0, 0)


def test_a_part_that_fails_concerns_no_answer(slow: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    lives = _answers(slow)
    bad = slow.submit(prompt(LENGTH), max_tokens=4)
    slow.turns.turn()
    monkeypatch.setattr(slow.turns._reader, "_compute", _failing)
    slow.turns.turn()
    monkeypatch.undo()
    assert isinstance(sink(bad).failure, EngineFailed)
    slow.run()
    assert [len(live.emitted) for live in lives] == [100] * 3


def _failing(_layers: Any) -> None:
    raise RuntimeError("planted between two parts")
