"""Attention on CPU with a cheaper exponential; what mlx-lm's models call, in place of the library's own.

MLX's exponential takes three times as long as its power of two on x86-64 (``bench/attention.py``). At some thousand
tokens of context the exponentials are most of what reading a prompt costs, so scores are scaled by log2(e) and raised
over 2. Source: measured, docs/decisions.md 41.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

LOG2_E = math.log2(math.e)
NEVER = -3e38  # the score of a key that a query does not see; finite, so that a row without any is no NaN

Attention = Callable[..., Any]


def installed(core: Any) -> Attention:
    """Have mlx-lm's models of this process use it, and return it; those imported before keep the library's."""
    base: Any = importlib.import_module("mlx_lm.models.base")
    base.scaled_dot_product_attention = ours = cheaper(core, base.scaled_dot_product_attention)
    return ours


def cheaper(core: Any, library: Attention) -> Attention:
    """Wrap mlx-lm's function: what is not plain f32 attention is still the library's."""

    def scaled_dot_product_attention(  # noqa: PLR0917 - mlx-lm's signature, and some of its models call by position
        queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None
    ) -> Any:
        if hasattr(cache, "bits") or sinks is not None or queries.dtype != core.float32:
            return library(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
        return attention(core, queries, keys, values, scale=scale, mask=mask)

    return scaled_dot_product_attention


def attention(core: Any, queries: Any, keys: Any, values: Any, *, scale: float, mask: Any) -> Any:
    """Return softmax(q k^T scale + mask) v, f32, (rows, heads, tokens, size), like the queries.

    keys, values: (rows, groups, context, size); several heads may share a group.  mask: None, ``"causal"``, or an array
    that fits (rows, heads or 1, tokens, context): true where a query sees a key, or what is added to the score.
    """
    rows, heads, tokens, size = queries.shape
    groups, context = keys.shape[1:3]
    queries = (queries * (scale * LOG2_E)).reshape(rows, groups, heads // groups, tokens, size)
    scores = queries @ core.swapaxes(keys[:, :, None], -1, -2)
    if mask is not None:
        scores = _masked(core, scores, _causal(core, tokens, context) if isinstance(mask, str) else mask)
    weights = core.power(2.0, scores - core.max(scores, axis=-1, keepdims=True))
    summed = (weights @ values[:, :, None]) / core.sum(weights, axis=-1, keepdims=True)
    return summed.reshape(rows, heads, tokens, values.shape[-1])


def _causal(core: Any, tokens: int, context: int) -> Any:
    return core.arange(context)[None] <= core.arange(context - tokens, context)[:, None]


def _masked(core: Any, scores: Any, mask: Any) -> Any:
    """Apply a mask to scores (rows, groups, heads of a group, tokens, context)."""
    if mask.ndim > 2 and mask.shape[-3] > 1:  # noqa: PLR2004 - one of each head's
        mask = mask.reshape(*mask.shape[:-3], *scores.shape[1:3], *mask.shape[-2:])
    elif mask.ndim > 2:  # noqa: PLR2004
        mask = core.expand_dims(mask, -3)
    if mask.dtype == core.bool_:
        return core.where(mask, scores, NEVER)
    return scores + core.maximum(mask * LOG2_E, NEVER)
