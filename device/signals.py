"""What the model's own numbers say about an answer, for the router's cascade.

Rows are made lazily inside the sampler and read one step later, so they never wait behind the step in flight. Margin
and entropy cost a pass over all scores; the cascade asks for the first token's only.
Values are of the model's own distribution, before penalties and temperature, in nats. Source: device design 4.3,
routing design C5.
"""

import math
from collections.abc import Sequence
from typing import Any

from hybrid.wire.types import TokenSignals

RECORDED = 128  # tokens for which scores are normalised a second time, where something changes them before the choice
MIN_FOR_Q50 = 2
MIN_FOR_Q10 = 10


def row(core: Any, scores: Any, token: Any, *, full: bool) -> Any:
    """Return a lazy row: log-probability of the chosen token, and with ``full`` margin and entropy.

    core: mlx.core.  scores: log-probabilities (1, vocabulary).  token: (1,) the choice.  Returns (1,) or (3,) f32.
    """
    chosen = core.take_along_axis(scores, token[:, None].astype(core.int32), axis=-1).reshape(-1)
    if not full:
        return chosen.astype(core.float32)
    best = core.argmax(scores, axis=-1, keepdims=True)
    others = core.put_along_axis(scores, best, core.array(-math.inf, scores.dtype), axis=-1)
    margin = core.max(scores, axis=-1) - core.max(others, axis=-1)
    finite = core.where(scores > -math.inf, scores, 0.0)
    entropy = -core.sum(core.exp(scores) * finite, axis=-1)
    return core.concatenate([chosen, margin, entropy]).astype(core.float32)


def normalised(core: Any, scores: Any) -> Any:
    """Return log-probabilities of scores (1, vocabulary) that come straight from the model."""
    scores = scores.astype(core.float32)
    return scores - core.logsumexp(scores, axis=-1, keepdims=True)


class SignalLog:
    """The rows of one answer, as plain numbers."""

    def __init__(self) -> None:
        self._lps: list[float] = []
        self._margin: float | None = None
        self._entropy: float | None = None

    def add(self, values: Sequence[float]) -> None:
        """Take the row of the next token. Values that are no finite number become None."""
        self._lps.append(values[0])
        if len(values) > 1:
            self._margin, self._entropy = _finite(values[1]), _finite(values[2])

    def summary(self) -> TokenSignals:
        """Sum up the tokens so far."""
        lps = sorted(self._lps)
        return TokenSignals(
            lp_first=_finite(self._lps[0]) if lps else None,
            margin_first=self._margin,
            entropy_first=self._entropy,
            lp_q10=_finite(quantile(lps, 0.1)) if len(lps) >= MIN_FOR_Q10 else None,
            lp_q50=_finite(quantile(lps, 0.5)) if len(lps) >= MIN_FOR_Q50 else None,
            lp_min=_finite(lps[0]) if lps else None,
        )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate linearly between the two nearest ranks of an ascending sequence."""
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
