"""R8: what it costs the running answers that another one joins or leaves them, in bytes written instead of seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device import runtime
from device.fit import KV_STEP, in_steps
from device.lane import LaneCache, lanes

from .driving import Driver, prompt

pytestmark = pytest.mark.mlx

HEADS, SIZE = 3, 64
TOKEN_BYTES = 2 * HEADS * SIZE * 4
SHORT, LONG, BESIDE = 100, 960, 8


def _lone(kind: Callable[[Any], Any], length: int, value: float = 1.0) -> Any:
    core = runtime.mlx()
    layer = kind(runtime.mlx_lm("models.cache").KVCache())
    keys = core.broadcast_to(core.arange(length, dtype=core.float32)[:, None] + value, (1, HEADS, length, SIZE))
    layer.update_and_fetch(keys, -keys)
    core.eval(layer.state)
    return layer


def _step(layer: Any, rows: int) -> None:
    new = runtime.mlx().ones((rows, HEADS, 1, SIZE))
    layer.update_and_fetch(new, new)
    runtime.mlx().eval(layer.state)


class Stock:
    """mlx-lm's own way, for the control."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows.merge([rows]) if not hasattr(rows, "left_padding") else rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rows, name)

    def extend(self, other: "Stock") -> None:
        self.rows.extend(other.rows)


def _written(kind: Callable[[Any], Any]) -> float:
    """Return the most memory that a join takes beyond what was there, in rectangles of the rows joined."""
    core = runtime.mlx()
    core.set_cache_limit(0)
    many = _lone(kind, SHORT)
    for _ in range(BESIDE - 1):
        many.extend(_lone(kind, SHORT))
    _step(many, BESIDE)
    long = _lone(kind, LONG)
    before = core.get_active_memory()
    core.reset_peak_memory()
    many.extend(long)
    _step(many, BESIDE + 1)
    return float(core.get_peak_memory() - before) / ((BESIDE + 1) * in_steps(LONG + 1) * TOKEN_BYTES)


def test_a_row_that_joins_is_written_into_one_new_rectangle() -> None:
    assert _written(LaneCache) < 1.05


def test_mlx_lms_own_join_writes_more_than_one() -> None:
    """The control: the measure sees arrays that are made only to be joined."""
    assert _written(Stock) > 1.4


def _held(layer: LaneCache, row: int) -> list[float]:
    plain = layer.extract(row)
    assert (plain.values.tolist(), plain.offset) == ((-plain.keys).tolist(), plain.keys.shape[2])
    numbers: list[float] = plain.keys[0, 0, :, 0].tolist()
    return numbers


def test_rows_keep_their_tokens_and_places_whoever_comes_and_goes() -> None:
    lengths = (5, 300, 40, 7, 600)
    whole = [[float(1_000 * at + token) for token in range(length)] for at, length in enumerate(lengths)]
    layer, *others = (_lone(LaneCache, length, 1_000.0 * at) for at, length in enumerate(lengths))
    for other in others:
        layer.extend(other)
    assert [_held(layer, row) for row in range(5)] == whole
    assert layer.offset.tolist() == list(lengths)
    layer.filter([0, 2, 3])
    assert [_held(layer, row) for row in range(3)] == [whole[0], whole[2], whole[3]]
    assert (layer.size(), layer.offset.tolist()) == (40, [5, 40, 7])
    assert layer.nbytes == 3 * in_steps(40) * TOKEN_BYTES  # the long ones took their width along
    layer.extend(_lone(LaneCache, 9, 1.0))
    layer.filter([1, 3])
    layer.filter([1])
    assert (_held(layer, 0), layer.offset) == ([float(1 + token) for token in range(9)], 9)
    assert layer.nbytes == in_steps(9) * TOKEN_BYTES


def test_answers_of_all_lengths_say_side_by_side_what_they_say_alone(tiny: Path) -> None:
    driver = Driver(tiny, max_rows=8)
    asked = ((1, 90), (2, 3), (255, 40), (256, 9), (300, 60), (700, 30), (20, 70))
    lives = [driver.submit(prompt(length, length), max_tokens=most) for length, most in asked]
    driver.run()
    for live in lives:
        alone = driver.submit(live.ids, max_tokens=live.max_tokens)
        driver.run()
        assert alone.emitted == live.emitted
    driver.close()


LAYERS = 32


def _rooms(layers: list[LaneCache]) -> list[int]:
    return [layer._rows.keys.shape[2] for layer in layers]


def _fed(layers: list[Any], tokens: int, rows: int = 1) -> None:
    new = runtime.mlx().ones((rows, HEADS, tokens, SIZE))
    for layer in layers:
        layer.update_and_fetch(new, new)
    runtime.mlx().eval([layer.state for layer in layers])


def _empty(count: int, most: int) -> list[Any]:
    """Return the caches of one request for a model of so many layers."""
    layers = [runtime.mlx_lm("models.cache").KVCache() for _ in range(count)]
    return lanes(None, layers, most=most)


def _grown(layers: list[Any], upto: int, tokens: int, rows: int = 1) -> list[int]:
    """Return how many layers grew in each step."""
    grown, before = [], _rooms(layers)
    while layers[0].size() < upto:
        _fed(layers, tokens, rows)
        now = _rooms(layers)
        grown.append(sum(a != b for a, b in zip(before, now, strict=True)))
        before = now
    return grown


def test_a_prompts_layers_do_not_all_grow_in_one_chunk() -> None:
    layers = _empty(LAYERS, most=2_000)
    _fed(layers, 2 * KV_STEP)
    grown = _grown(layers, upto=5 * KV_STEP, tokens=8)
    assert max(grown) <= 3
    assert sum(grown) >= 3 * LAYERS


def test_answers_side_by_side_do_not_all_grow_in_one_step() -> None:
    layers, others = (_empty(LAYERS, most=3 * KV_STEP) for _ in range(2))
    _fed(layers, 200)
    _fed(others, 20)
    for layer, other in zip(layers, others, strict=True):
        layer.extend(other)
    grown = _grown(layers, upto=2 * KV_STEP - 1, tokens=1, rows=2)
    assert max(grown) <= 2
    assert sum(grown) >= LAYERS


def test_no_layer_makes_more_room_than_was_promised() -> None:
    layers, others = _empty(LAYERS, most=700), _empty(LAYERS, most=300)
    for both in (layers, others):
        _fed(both, 270)
        _grown(both, upto=300, tokens=1)
    assert max(_rooms(layers)) <= 3 * KV_STEP
    assert max(_rooms(others)) == 2 * KV_STEP
    for layer, other in zip(layers, others, strict=True):
        layer.extend(other)
    for layer in layers:
        layer.filter([1])  # who may hold 700 has gone
    assert max(_rooms(layers)) == 2 * KV_STEP
