"""Will a model fit, and how much context with it: arithmetic over files and numbers, nothing is loaded or measured.

need = weights + cache + chunk work + reserve + prefix cache, compared with two marks of the room the machine has.
The same lines are shown to the person whom a refusal stops. Source: device design 6.0.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SOFT = 0.85  # of the room: admit nothing new beyond it
HARD = 0.95  # of the room: what ``force`` may use
KV_STEP = 256  # caches grow in steps of so many tokens
BANDS = (2_048, 8_192)  # most tokens of the first two length bands; the third has no limit of its own
RESERVE_BYTES = 500_000_000  # interpreter, libraries, tokenizer, allocator slack
STARTER_RESERVE_BYTES = 150_000_000  # the same beside a model under a gigabyte, measured
SMALL_MODEL_BYTES = 1_000_000_000
PREFIX_SHARE = 0.10  # of the room left after the weights
WORK_PER_TOKEN = 130_000  # bytes per chunk token, for 512: 67 MB; attention on CPU took 50 for 128 on 3,600 of context
PACKED_BITS = 4.5  # per weight of a 4-bit model with its scales

Verdict = Literal["fits", "forced", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model's ``config.json`` the arithmetic needs. params: total weights, 0 where it cannot be told."""

    layers: int
    kv_heads: int
    head_dim: int
    context_tokens: int
    params: int = 0

    def kv_token_bytes(self, value_bytes: int) -> int:
        """Bytes of keys and values that one token of context takes, ``value_bytes`` for each number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * value_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes by purpose."""

    weights: int
    cache: int
    work: int
    reserve: int
    prefix: int = 0

    @property
    def total(self) -> int:
        """Sum of all purposes."""
        return self.weights + self.cache + self.work + self.reserve + self.prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The answer, with its arithmetic in words. context_tokens: what it was computed for."""

    need_bytes: int
    room_bytes: int
    verdict: Verdict
    text: str
    context_tokens: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Read the shape from a parsed ``config.json``; a nested ``text_config`` wins.

    Raises KeyError for a missing key.
    """
    flat = {**config, **config.get("text_config", {})}
    heads = int(flat["num_attention_heads"])
    return Shape(
        layers=int(flat["num_hidden_layers"]),
        kv_heads=int(flat.get("num_key_value_heads") or heads),
        head_dim=int(flat.get("head_dim") or flat["hidden_size"] // heads),
        context_tokens=int(flat.get("max_position_embeddings") or 2048),
        params=_params(flat),
    )


def _params(flat: Mapping[str, Any]) -> int:
    """Count the weights of a dense model of the Llama family; 0 for mixtures of experts and others."""
    if any("expert" in key for key in flat) or "intermediate_size" not in flat:
        return 0
    hidden, layers, heads = int(flat["hidden_size"]), int(flat["num_hidden_layers"]), int(flat["num_attention_heads"])
    head_dim = int(flat.get("head_dim") or hidden // heads)
    kv = int(flat.get("num_key_value_heads") or heads) * head_dim
    block = 2 * hidden * heads * head_dim + 2 * hidden * kv + 3 * hidden * int(flat["intermediate_size"]) + 2 * hidden
    tables = 1 if flat.get("tie_word_embeddings", True) else 2
    return layers * block + tables * int(flat["vocab_size"]) * hidden + hidden


def f32_bytes(params: int, packed_bytes: int) -> int:
    """Bytes of the weights as f32; estimated from the packed size where the count is unknown."""
    return 4 * (params or math.ceil(packed_bytes * 8 / PACKED_BITS))


def in_steps(tokens: int) -> int:
    """Round a length up to whole steps of the cache."""
    return KV_STEP * math.ceil(tokens / KV_STEP)


def kv_bytes(*, rows: int, tokens: int, kv_token_bytes: int) -> int:
    """Bytes of the cache rectangle of ``rows`` requests of which the longest has ``tokens``."""
    return rows * in_steps(tokens) * kv_token_bytes


def band_of(tokens: int) -> int:
    """Return the length band of a context: 0, 1 or 2."""
    return sum(tokens > end for end in BANDS)


def banded_bytes(lengths: Iterable[tuple[int, int]], *, kv_token_bytes: int) -> int:
    """Bytes that requests together may come to take: the sum over bands of rows x longest, in whole steps.

    lengths: of each request the tokens it holds by its next step, and the tokens it may end with. A request grows
    through the bands in between, and may meet the others' length in each; the last one is its widest. Never less than
    what they take at any time before the longest has ended. Source: node design 3.5.
    """
    requests = list(lengths)
    widths = [0] * (len(BANDS) + 1)
    for now, most in requests:
        for band in range(band_of(now), band_of(most) + 1):
            widths[band] = max(widths[band], min(most, (*BANDS, most)[band]))
    return sum(kv_bytes(rows=1, tokens=widths[band_of(most)], kv_token_bytes=kv_token_bytes) for _, most in requests)


def prefix_bytes(*, room_bytes: int, weights_bytes: int) -> int:
    """Bytes the cache of finished conversations may take."""
    return max(0, int(PREFIX_SHARE * (SOFT * room_bytes - weights_bytes)))


def need(
    *,
    weights_bytes: int,
    kv_token_bytes: int,
    context_tokens: int,
    rows: int = 1,
    chunk_tokens: int = 512,
    prefix: int = 0,
) -> Need:
    """Add up what a model with so much context takes, by purpose."""
    return Need(
        weights=weights_bytes,
        cache=kv_bytes(rows=rows, tokens=context_tokens, kv_token_bytes=kv_token_bytes),
        work=chunk_tokens * WORK_PER_TOKEN,
        reserve=STARTER_RESERVE_BYTES if weights_bytes < SMALL_MODEL_BYTES else RESERVE_BYTES,
        prefix=prefix,
    )


def fits(
    *,
    model_id: str,
    weights_bytes: int,
    kv_token_bytes: int,
    context_tokens: int,
    room_bytes: int,
    rows: int = 1,
    chunk_tokens: int = 512,
    force: bool = False,
) -> Fit:
    """Decide whether a model fits with its context, and say why.

    weights_bytes: as they will lie in memory.  kv_token_bytes: see :meth:`Shape.kv_token_bytes`.
    room_bytes: what the machine can give this process, its present use included.  force: pass the soft mark.
    """
    wanted = need(
        weights_bytes=weights_bytes,
        kv_token_bytes=kv_token_bytes,
        context_tokens=context_tokens,
        rows=rows,
        chunk_tokens=chunk_tokens,
    )
    soft, hard = int(SOFT * room_bytes), int(HARD * room_bytes)
    verdict: Verdict = "fits" if wanted.total <= soft else "forced" if force and wanted.total <= hard else "refused"
    mark, share = (hard, HARD) if force else (soft, SOFT)
    text = _sum_in_words(model_id, wanted, context_tokens, kv_token_bytes)
    if verdict == "refused":
        most = most_context(wanted, mark, rows=rows, kv_token_bytes=kv_token_bytes)
        text += f"; limit {_gb(mark)} GB ({share:.0%} of the {_gb(room_bytes)} free). " + _advice(most)
    return Fit(
        need_bytes=wanted.total, room_bytes=room_bytes, verdict=verdict, text=text, context_tokens=context_tokens
    )


def most_context(wanted: Need, mark: int, *, rows: int, kv_token_bytes: int) -> int:
    """Return the largest context, in whole cache steps, that stays under the mark; 0 where not even one step does."""
    left = mark - (wanted.total - wanted.cache)
    return max(0, left // (rows * KV_STEP * kv_token_bytes) * KV_STEP)


def _sum_in_words(model_id: str, wanted: Need, context_tokens: int, kv_token_bytes: int) -> str:
    cache = f"cache {_gb(wanted.cache)} ({context_tokens:,} tokens x {kv_token_bytes / 1024:.0f} KiB)"
    parts = [f"weights {_gb(wanted.weights)}", cache, f"work {_gb(wanted.work)}", f"reserve {_gb(wanted.reserve)}"]
    return f"{model_id}: {' + '.join(parts)} = {_gb(wanted.total)} GB"


def _advice(most: int) -> str:
    return f"Fits with context {most:,}." if most else "Does not fit with any context; choose a smaller model."


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.2f}"
