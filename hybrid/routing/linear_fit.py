"""The linear head's share of a correction: what is added to its buckets, and how far that may move a score."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .complexity import LearnedScorer
from .evidence import Lesson
from .features import CONVERSATION
from .logistic import Numbers, logistic, sigmoid
from .personal import BUCKETS, MOST_ADDED
from .personal import STEPS as KEPT_STEPS
from .reservoir import FeatureRow, Reservoir

RESERVOIR_WEIGHT = 200.0
"""What the reservoir weighs beside the outcomes, and how many outcomes the pull to the shipped offset is worth."""

PULL = 0.001
"""L2 pull of the linear head's additions to none, beside a mean loss."""

MOST_MOVED = 0.25
"""The most that any score of the reservoir may move (guardrail of C10)."""

ROOM = 0.23
"""What a candidate uses of it, since scores and additions are rounded a little more when they are kept."""

MOST_BUCKETS = 4096
"""Additions that are kept, the largest first."""

LEAST_SHARED = 3
"""Kept questions that must hold a bucket for it to get an addition: the correction is in clear and does not expire, so
no single question may be looked up in it. One that was asked again on the same day counts once."""

SAME = 0.8
"""Share of their buckets that two questions of one day have in common from which they are one, asked again."""

ROUNDS = 150


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as the linear head sees them: the heads' sum is ``z`` with no additions, z + scale * their sum with them.

    buckets: of all rows one after the other.  owner: the row of each.  around: gain from what is around the text.
    """

    z: Numbers
    scale: Numbers
    buckets: NDArray[np.int64]
    owner: NDArray[np.int64]
    around: Numbers

    @classmethod
    def of(cls, scorer: LearnedScorer, rows: Sequence[FeatureRow]) -> "Table":
        """Take rows apart. scorer: of the shipped weights, with no correction."""
        both = [sorted(row.words | row.pairs) for row in rows]
        sizes = [len(each) for each in both]
        model = scorer.model
        doubt = np.array([model.novel(model.linear.novelty(row.words)) for row in rows])
        around = [sum(w * row.values[n] for n, w in zip(CONVERSATION, model.around, strict=True)) for row in rows]
        return cls(
            z=np.array([scorer.standard(row.values, row.words, row.pairs) for row in rows], dtype=np.float64),
            scale=(1.0 - doubt) / np.sqrt(np.maximum(1, sizes)),
            buckets=np.array([bucket for each in both for bucket in each], dtype=np.int64),
            owner=np.repeat(np.arange(len(rows)), sizes),
            around=np.array(around, dtype=np.float64),
        )

    def plus(self, other: "Table") -> "Table":
        """Return these rows, then others."""
        return Table(
            z=np.r_[self.z, other.z],
            scale=np.r_[self.scale, other.scale],
            buckets=np.r_[self.buckets, other.buckets],
            owner=np.r_[self.owner, other.owner + len(self.z)],
            around=np.r_[self.around, other.around],
        )

    def sums(self, additions: Numbers) -> Numbers:
        """Return the heads' sums with additions by bucket, shape (65536,)."""
        parts = np.bincount(self.owner, weights=additions[self.buckets], minlength=len(self.z))
        return np.asarray(self.z + self.scale * parts)

    def gains(self, scorer: LearnedScorer, additions: Numbers) -> Numbers:
        """Return the expected gains that a scorer with these additions would give, without offset."""
        table = scorer.model.gain
        return np.asarray(np.interp(self.sums(additions), table.xs, table.ys) + self.around)


def dense(linear: Mapping[int, float]) -> Numbers:
    """Return additions by bucket, shape (65536,)."""
    additions = np.zeros(BUCKETS)
    additions[list(linear)] = list(linear.values())
    return additions


def ranks_of(scorer: LearnedScorer, gains: Numbers) -> Numbers:
    """Return the ranks, 0..1, of expected gains."""
    table = scorer.model.rank
    return np.interp(gains, table.xs, table.ys).clip(0.0, 1.0)


def gains_of(scorer: LearnedScorer, ranks: Numbers) -> Numbers:
    """Return the expected gains of ranks."""
    table = scorer.model.back
    return np.asarray(np.interp(ranks, table.xs, table.ys), dtype=np.float64)


def shifted(ranks: Numbers, offset: float) -> Numbers:
    """Move ranks as `Personal.shifted` does."""
    return ranks + 4.0 * offset * ranks * (1.0 - ranks)


def fit_linear(
    held: Table, own: Table, reservoir: Reservoir, old: Sequence[Lesson], weights: Numbers
) -> dict[int, float]:
    """Fit additions to the linear head by logistic regression of "the larger model was needed" on the heads' sum.

    Intercept and slope come from the reservoir with no addition. The rows are the outcomes with features, and the
    reservoir's with what the shipped weights say of them, not with their labels (learning without forgetting: Li and
    Hoiem 2016); those are for judging. The outcomes have an intercept of their own, so that a local model that is worse
    all over does not end in the words. Empty where nothing with features tells anything.
    """
    told = [(lesson.wrong, w) for lesson, w in zip(old, weights, strict=True) if lesson.row]
    if len({wrong for wrong, _ in told}) < 2:  # noqa: PLR2004 - right and wrong
        return {}
    needed = np.array([max(0.0, each.strong - each.weak) for each in reservoir.rows])
    line = logistic(held.z, needed, np.ones(len(needed)), prior=(0.0, 1.0), pull=1.0)
    count = len(held.z)
    asked = np.r_[np.zeros(count, np.bool_), first_asked(old)]
    shipped = sigmoid(line[0] + line[1] * held.z)
    target = np.r_[shipped, [wrong for wrong, _ in told]]
    weight = np.r_[np.full(count, RESERVOIR_WEIGHT / count), [w for _, w in told]]
    weight /= weight.sum()
    return _descend(held.plus(own), line, target, weight, own=np.arange(len(target)) >= count, asked=asked)


def first_asked(given: Sequence[Lesson]) -> NDArray[np.bool_]:
    """Tell of each outcome with features whether none before it on that day was nearly the same question.

    What is asked again because its answer would not do is one question. Alike: Jaccard similarity of the buckets.
    """
    held: dict[int, list[frozenset[int]]] = defaultdict(list)
    first = []
    for lesson in given:
        if row := lesson.row:
            buckets = row.words | row.pairs
            first.append(not any(_alike(buckets, other) for other in held[lesson.day]))
            held[lesson.day].append(buckets)
    return np.array(first, dtype=np.bool_)


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    return len(one & other) >= SAME * len(one | other)


def _descend(
    rows: Table,
    line: tuple[float, float],
    target: Numbers,
    weight: Numbers,
    *,
    own: NDArray[np.bool_],
    asked: NDArray[np.bool_],
) -> dict[int, float]:
    """Minimise sum of weight * log loss + PULL / 2 * |additions|^2 by Nesterov's accelerated gradient.

    A row's buckets share one over the root of their number, so its squared norm is at most 1 and the loss is smooth
    with L <= (slope^2 + 1) / 4 + PULL: the step 1 / L needs no search. Nesterov 1983; O'Donoghue and Candes 2015 for
    starting the momentum anew when it points uphill. Only buckets that `LEAST_SHARED` questions hold get an addition.
    own: which rows are outcomes.  asked: which of them are a question of their own.
    """
    names, place = np.unique(rows.buckets, return_inverse=True)
    shared = np.bincount(place, weights=asked[rows.owner], minlength=len(names)) >= LEAST_SHARED
    intercept, slope = line
    step = 1.0 / ((slope**2 + 1.0) / 4.0 + PULL)
    at = ahead = np.zeros(len(names) + 1)  # the last one is the intercept of the outcomes
    momentum = 0.0
    for _ in range(ROUNDS):
        sums = rows.z + rows.scale * np.bincount(rows.owner, weights=ahead[place], minlength=len(rows.z))
        error = weight * (sigmoid(intercept + slope * sums + ahead[-1] * own) - target)
        slopes = slope * np.bincount(place, weights=(error * rows.scale)[rows.owner], minlength=len(names))
        downhill = -np.r_[(slopes + PULL * ahead[:-1]) * shared, error[own].sum()]
        after = ahead + step * downhill
        momentum = 0.0 if downhill @ (after - at) < 0 else momentum + 1.0
        ahead = after + momentum / (momentum + 3.0) * (after - at)
        at = after
    largest = np.argsort(-np.abs(at[:-1]), kind="stable")[:MOST_BUCKETS]
    return {int(names[n]): float(at[n].clip(-MOST_ADDED, MOST_ADDED)) for n in sorted(largest) if at[n]}


def within(scorer: LearnedScorer, held: Table, linear: Mapping[int, float], offset: float) -> dict[int, float]:
    """Shrink additions until, as they are kept and with the offset, they move no score of the reservoir too far.

    Those of the buckets of a row that moves too far are shrunk by as much as the row needs, again and again; the others
    stay as they are.
    """
    before = ranks_of(scorer, held.gains(scorer, np.zeros(BUCKETS)))
    additions = dense(linear)
    for _ in range(ROUNDS):
        kept = _rounded(additions)
        after = shifted(ranks_of(scorer, held.gains(scorer, kept)), offset)
        too_far = np.maximum(1.0, np.abs(after - before) / ROOM)
        if too_far.max() <= 1.0:
            return {int(n): float(kept[n]) for n in np.flatnonzero(kept)}
        shrink = np.ones(BUCKETS)
        np.minimum.at(shrink, held.buckets, np.where(too_far > 1.0, 0.98 / too_far, 1.0)[held.owner])
        additions = additions * shrink
    return {}


def _rounded(additions: Numbers) -> Numbers:
    unit = np.abs(additions).max() / KEPT_STEPS
    return np.asarray(np.round(additions / unit) * unit) if unit else additions
