"""What an engine's numbers mean: admission reckons with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device import runtime
from device.fit import KV_STEP
from device.prefix import PrefixCache
from pcc_server.engines import mlx

from .driving import ROOM, Driver, prompt

pytestmark = pytest.mark.mlx


@pytest.fixture
def driver(tiny: Path) -> Iterator[Driver]:
    made = Driver(tiny)
    yield made
    made.close()


def test_the_speed_told_is_that_of_one_stream_however_many_run(driver: Driver) -> None:
    from device.core import Core
    from device.options import EngineOptions

    core = Core(Path(), EngineOptions(), lambda _phase, _pct: None)
    core._turns, core._plan, core._budget = driver.turns, driver.loaded.plan, ROOM
    for start in range(6):
        driver.submit(prompt(30, start), max_tokens=40)
    driver.run(until=lambda: driver.turns.rows == (6, 0, 0) and driver.turns.step_s > 0)
    assert mlx._load(core).decode_tps == pytest.approx(1 / driver.turns.step_s)  # type: ignore[arg-type]


def test_kept_context_grows_old_beside_an_answer_that_goes_on(driver: Driver) -> None:
    clock = [0.0]
    kept = driver.turns._prefix = PrefixCache(ROOM, cut=lambda cache, _: list(cache), age_s=5, now=lambda: clock[0])
    kept.put("a", [1, 2, 3], [])
    driver.submit(prompt(30), max_tokens=8)
    driver.turns.turn()
    assert len(kept._kept) == 1
    clock[0] = 5.0
    driver.turns.turn()
    assert driver.turns.running
    assert not kept._kept


def test_hardly_any_temperature_chooses_as_none_does(driver: Driver) -> None:
    lives = [driver.submit(prompt(30), temperature=temperature) for temperature in (0.0, 1e-300, 1e-39, 1e-5)]
    driver.run()
    assert len({tuple(live.emitted) for live in lives}) == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_kept_context_holds_nothing_of_those_it_ran_beside(tiny: Path, cancelled: bool) -> None:
    """An array that is not computed yet holds what it will be computed from: here everybody's keys and values."""
    driver = Driver(tiny, prefix_cache=True)
    core = runtime.mlx()
    core.set_cache_limit(0)
    before = core.get_active_memory()
    others = [driver.submit(prompt(900, start), max_tokens=60) for start in range(7)]
    kept = driver.submit(prompt(40, 9), max_tokens=60 if cancelled else 20, partition="a")
    driver.run(until=lambda: len(kept.emitted) >= 20)
    if cancelled:
        driver.turns.cancel(kept)
    for other in others:
        driver.turns.cancel(other)
    assert not driver.turns.running
    nbytes = driver.turns._prefix.nbytes
    assert nbytes >= 50 * driver.loaded.plan.kv_token_bytes
    assert core.get_active_memory() - before <= nbytes + 2 * KV_STEP * driver.loaded.plan.kv_token_bytes
    driver.close()
