"""How well scores rank, how well probabilities are calibrated, and whether a budget is kept: the measures of a router.

Prompt i has quality ``weak[i]`` on the device and ``strong[i]`` on the larger model, both 0..1, and a score. The
prompts with the highest scores are sent. Where scores are equal the expectation over random order counts, so that a
constant score is worth exactly 0.5. Arrays are one-dimensional, of equal length n.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers: TypeAlias = NDArray[np.float64]
Scored: TypeAlias = tuple[ArrayLike, ArrayLike, ArrayLike]
"""Scores, quality of the local and of the larger model."""

DRAWS = 1000
BINS = 15
CHANCE = 0.5
"""APGR of a constant score, and of random order on average."""
SETTLE, WINDOW = 200, 500  # a budget is judged over 500 eligible requests after the first 200
LEAST_ROWS = 200
"""A set with fewer rows counts for the mean, not for the minimum: at 100 rows an interval is about ±0.11."""


class NoGapError(ValueError):
    """The larger model is no better on these rows, so a share of what it adds is not defined."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Performance gap recovered against the share sent: straight lines between these points.

    shares: 0..1, rising, first 0 and last 1.  recovered: PGR at each, first 0 and last 1; between them it may leave
    0..1. Inside a group of equal scores the curve is straight, so its n + 1 cut points lie on these lines.
    """

    shares: Numbers
    recovered: Numbers

    @property
    def area(self) -> float:
        """APGR: the area below the curve, by trapezoids."""
        return float(np.trapezoid(self.recovered, self.shares))

    def at(self, share: float) -> float:
        """Return the PGR when this share is sent."""
        return float(np.interp(share, self.shares, self.recovered))

    def cpt(self, x: float) -> float:
        """Return the least share, in per cent, that recovers x of the gap; 100 if none does."""
        reached = np.flatnonzero(self.recovered >= x)
        if not reached.size:
            return 100.0
        k = int(reached[0])
        if k == 0:
            return 0.0
        low, high = self.recovered[k - 1 : k + 1]
        return float(100 * np.interp(x, [low, high], self.shares[k - 1 : k + 1]))


def area(curve: Curve) -> float:
    """Return `Curve.area`."""
    return curve.area


@dataclass(frozen=True, slots=True)
class Reliability:
    """Stated against observed probability, one entry for each bin that holds something."""

    stated: Numbers
    observed: Numbers
    counts: Numbers

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance of the two, weighted by the rows of a bin."""
        return float(np.average(np.abs(self.stated - self.observed), weights=self.counts))


def pgr_curve(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, *, weights: ArrayLike | None = None) -> Curve:
    """Return PGR(c) = (q(c) - W) / (S - W), q(c) being the mean quality with share c sent.

    weights: how much each row counts, 1 unless given.  Raises NoGapError unless S > W; ValueError for bad arrays.
    """
    rows = _Sorted.of(scores, weak, strong)
    return rows.curve(_weights(weights, len(rows.order)))


def apgr(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the area under `pgr_curve`: constant 0.5 exactly, random 0.5 on average. Raises as `pgr_curve`."""
    return pgr_curve(scores, weak, strong, weights=weights).area


def cpt(x: float, scores: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> float:
    """Return the least share in per cent that recovers x of the gap, see `Curve.cpt`. Raises as `pgr_curve`."""
    return pgr_curve(scores, weak, strong).cpt(x)


def oracle(weak: ArrayLike, strong: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the APGR of ranking by strong - weak: no score does better. May exceed 1. Raises as `pgr_curve`."""
    return apgr(_numbers(strong) - _numbers(weak), weak, strong, weights=weights)


def gap_closed(score: float, best: float) -> float:
    """Return (APGR - 0.5) / (oracle - 0.5): 0 is chance, 1 the oracle; 0 where no order is better than chance."""
    return (score - CHANCE) / (best - CHANCE) if best > CHANCE else 0.0


def bootstrap(
    scores: ArrayLike,
    weak: ArrayLike,
    strong: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    strata: Sequence[int] | None = None,
    figure: Callable[[Curve], float] = area,
    draws: int = DRAWS,
    seed: int = 0,
) -> Numbers:
    """Return a figure, the APGR unless said otherwise, of that many resamples of the prompts, shape (draws,).

    strata: sizes of the blocks of rows that are resampled each by itself; default one block. Same seed and sizes, same
    resamples: the difference of two routers' arrays is a paired bootstrap. A resample without a gap is nan.
    Raises as `pgr_curve` for the rows themselves.
    """
    rows = _Sorted.of(scores, weak, strong)
    plain = _weights(weights, len(rows.order))
    rows.curve(plain)
    resample = _resampler(strata or (plain.size,), seed)

    def once() -> float:
        try:
            return figure(rows.curve(plain * resample()))
        except NoGapError:
            return float("nan")

    return np.array([once() for _ in range(draws)])


def interval(draws: Numbers, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws."""
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mix(hard: Mapping[str, Scored], easy: ArrayLike) -> tuple[Numbers, Numbers, Numbers, Numbers, list[int]]:
    """Return scores, weak, strong, weights and strata of mixed traffic.

    Half are assistant requests, right for both models (easy: their scores), half hard ones, the sets in equal parts.
    Rows are weighted rather than drawn: the figure is what random draws have on average.
    """
    sets = [tuple(map(_numbers, hard[name])) for name in sorted(hard)]
    ones = np.ones(len(_numbers(easy)))
    sets.append((_numbers(easy), ones, ones))
    parts = [0.5 / len(hard)] * len(hard) + [0.5]
    weights = [np.full(len(s[0]), part / len(s[0])) for s, part in zip(sets, parts, strict=True)]
    scores, weak, strong = (np.concatenate([s[k] for s in sets]) for k in range(3))
    return scores, weak, strong, np.concatenate(weights), [len(w) for w in weights]


def mixed_apgr(hard: Mapping[str, Scored], easy: ArrayLike) -> float:
    """Return the APGR on mixed traffic, see `mix`. Raises as `pgr_curve`."""
    scores, weak, strong, weights, _ = mix(hard, easy)
    return apgr(scores, weak, strong, weights=weights)


def reliability(p: ArrayLike, y: ArrayLike, *, bins: int = BINS) -> Reliability:
    """Sort stated probabilities p, 0..1, into equal-width bins beside what was observed, y, 0..1."""
    stated, observed = _numbers(p), _numbers(y)
    if stated.size == 0 or stated.shape != observed.shape or not ((stated >= 0) & (stated <= 1)).all():
        raise ValueError("p and y must be of one length, not empty, and p within 0..1")
    place = np.minimum((stated * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    said, seen = (np.bincount(place, weights=v, minlength=bins)[held] / counts[held] for v in (stated, observed))
    return Reliability(said, seen, counts[held].astype(np.float64))


def ece(p: ArrayLike, y: ArrayLike, *, bins: int = BINS) -> float:
    """Return the expected calibration error: sum over bins of (n_b / n) * |mean p - mean y|. Raises ValueError."""
    return reliability(p, y, bins=bins).ece


def budget_error(sent: ArrayLike, demand: ArrayLike, share: float) -> float:
    """Return how far the realised share was from the budget, 0..1, over `WINDOW` requests after `SETTLE`.

    sent: which eligible requests went to the node, in order.  demand: which would have without a budget.  A budget is a
    ceiling: where demand stayed below it, only what exceeds it counts.  Raises ValueError for fewer requests.
    """
    if len(_numbers(sent)) < SETTLE + WINDOW or len(_numbers(demand)) < SETTLE + WINDOW:
        raise ValueError(f"a budget is judged over {SETTLE + WINDOW} requests or more")
    realised, wanted = (float(_numbers(v)[SETTLE : SETTLE + WINDOW].mean()) for v in (sent, demand))
    return abs(realised - share) if wanted > share else max(0.0, realised - share)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Rows in falling order of score; starts: where each group of equal scores begins."""

    order: NDArray[np.int64]
    gains: Numbers
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> "_Sorted":
        score, low, high = _numbers(scores), _numbers(weak), _numbers(strong)
        if score.size == 0 or not score.shape == low.shape == high.shape:
            raise ValueError("scores, weak and strong must be of one length and not empty")
        if np.isnan(score).any():
            raise ValueError("a score is not a number")
        order = np.argsort(-score, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
        return cls(order, (high - low)[order], starts)

    def curve(self, weights: Numbers) -> Curve:
        shares, gains = self._sums(weights)
        if not gains[-1] > 0:
            raise NoGapError("the larger model is no better on these rows: there is no gap to recover")
        return Curve(shares / shares[-1], gains / gains[-1])

    def _sums(self, weights: Numbers) -> tuple[Numbers, Numbers]:
        """Return weight and gain of all that is sent, after each group of equal scores, from nothing on."""
        weight = weights[self.order]
        parts = (np.add.reduceat(v, self.starts) for v in (weight, weight * self.gains))
        shares, gains = (np.r_[0.0, np.cumsum(p)] for p in parts)
        return shares, gains


def _resampler(strata: Sequence[int], seed: int) -> Callable[[], Numbers]:
    """Return a function that draws how often each row is taken, block by block, with replacement."""
    rng = np.random.default_rng(seed)

    def draw() -> Numbers:
        return np.concatenate([np.bincount(rng.integers(0, n, n), minlength=n) for n in strata]).astype(np.float64)

    return draw


def _weights(weights: ArrayLike | None, n: int) -> Numbers:
    return np.ones(n) if weights is None else _numbers(weights)


def _numbers(values: ArrayLike) -> Numbers:
    return np.asarray(values, dtype=np.float64)
