"""Attention on CPU against the library's own: the same sums, however heads, context and masks lie."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from device import attention, runtime

pytestmark = [pytest.mark.mlx, pytest.mark.linux]

NEAR = 2e-5  # in f64 the exact sums lie 5e-6 from the library and 3e-6 from ours
SHAPES = [(1, 4, 4, 1, 1), (1, 4, 2, 1, 300), (3, 9, 3, 1, 40), (1, 9, 3, 8, 600), (2, 4, 1, 16, 16), (1, 2, 2, 33, 70)]
MASKS = ["none", "causal", "seen", "seen of each row", "added", "added for each head"]


def _mask(core: Any, kind: str, shape: tuple[int, ...]) -> Any:
    rows, heads, _, tokens, context = shape
    if kind in ("none", "causal"):
        return None if kind == "none" else "causal"
    seen = core.arange(context)[None] <= core.arange(context - tokens, context)[:, None]
    if kind == "seen":
        return seen
    if kind == "seen of each row":  # as a batch of prompts of different lengths has it
        padding = core.arange(rows)[:, None, None, None] % context
        return seen[None, None] & (core.arange(context)[None, None, None] >= padding)
    every = core.random.normal((1, heads, tokens, context), key=core.random.key(5))
    return every[0, 0] if kind == "added" else core.where(seen, every, float("-inf"))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_it_is_the_librarys_to_rounding(shape: tuple[int, ...], kind: str) -> None:
    core = runtime.mlx()
    rows, heads, groups, tokens, context = shape
    keys = [core.random.key(number) for number in range(3)]
    queries = 3 * core.random.normal((rows, heads, tokens, 64), key=keys[0])
    held, values = (core.random.normal((rows, groups, context, 64), key=key) for key in keys[1:])
    mask = _mask(core, kind, shape)
    theirs = core.fast.scaled_dot_product_attention(queries, held, values, scale=0.125, mask=mask)
    ours = attention.attention(core, queries, held, values, scale=0.125, mask=mask)
    assert ours.shape == theirs.shape
    assert core.max(core.abs(ours - theirs)).item() < NEAR


def test_a_query_that_sees_nothing_gets_a_number() -> None:
    """Rows of padding are such; what they get is thrown away, but a NaN would spread."""
    core = runtime.mlx()
    ones = core.ones((1, 1, 2, 4))
    for mask in (core.array([[True, True], [False, False]]), core.array([[0.0, 0.0], [-3.4e38, -3.4e38]])):
        ours = attention.attention(core, ones, ones, ones, scale=1.0, mask=mask)
        assert core.all(core.isfinite(ours)).item()


@pytest.mark.parametrize("odd", ["sinks", "bits", "half"])
def test_what_is_not_plain_is_the_librarys(odd: str) -> None:
    core, asked = runtime.mlx(), []

    class Cache:
        bits = 4

    ours = attention.cheaper(core, lambda *_, **named: asked.append(named))
    ones = core.ones((1, 1, 2, 4), core.float16 if odd == "half" else core.float32)
    how = {"scale": 1.0, "mask": None, "sinks": core.ones((1,)) if odd == "sinks" else None}
    ours(ones, ones, ones, cache=Cache() if odd == "bits" else None, **how)
    assert len(asked) == 1
    ours(ones.astype(core.float32), ones, ones, cache=None, scale=1.0, mask=None)
    assert len(asked) == 1


def test_it_is_called_like_the_librarys() -> None:
    base = importlib.import_module("mlx_lm.models.base")
    ours = inspect.signature(attention.cheaper(runtime.mlx(), base.scaled_dot_product_attention)).parameters
    assert ours["sinks"].default is None
    source = (Path(base.__file__).parent / "base.py").read_text("utf-8")
    (theirs,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "scaled_dot_product_attention")
    assert isinstance(theirs, ast.FunctionDef)
    assert [each.arg for each in theirs.args.args] == list(ours)  # also where a model gives them by position


def test_models_use_it_on_cpu() -> None:
    models = runtime.mlx_lm("models.llama")
    base = importlib.import_module("mlx_lm.models.base")
    assert runtime.describe().path.startswith("cpu")
    assert models.scaled_dot_product_attention is base.scaled_dot_product_attention
    assert base.scaled_dot_product_attention.__module__ == "device.attention"
