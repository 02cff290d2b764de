"""The heads of the prompt model, fitted in numpy: rows as numbers, ridge regressions, forests, and their average.

Squared error throughout, fixed seeds, one thread. Recipe: routing design C4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import _trees
import numpy as np
from _sets import Row, fold
from _trees import Growth, Tree

from hybrid.routing.features import STRUCTURAL, extract
from hybrid.routing.linear import buckets
from hybrid.routing.personal import BUCKETS

GAIN = Growth(trees=80, depth=4, rate=0.06, least=60.0, ridge=20.0)
WRONG = Growth(trees=80, depth=3, rate=0.05, least=60.0, ridge=20.0)
ADEQUATE = Growth(trees=60, depth=3, rate=0.12, least=40.0, ridge=10.0)
TASK = Growth(trees=50, depth=3, rate=0.12, least=40.0, ridge=10.0)
RIDGE_WORDS, RIDGE_LINE = 8.0, 30.0
ROUNDS = 25
"""Conjugate-gradient rounds of a linear head."""

AVERAGE = {"gain trees": 2.0, "gain words": 0.5, "wrong trees": 0.5, "wrong words": 0.5, "wrong line": 0.5}
"""Weights of the heads. ``gain`` heads are fitted to strong - weak. ``wrong`` heads are fitted to "the local answer is
wrong" less the mean of its set: what makes a question hard carries over to unseen sets better than the gain does."""

TASK_FROM, TASK_TO, TASK_WORTH = 0.0, 0.6, 3.0
"""From a request that is surely work to one that surely is not, the sum falls by TASK_WORTH standard scores."""

HARD_SHARE, EASY_SHARE = 0.3, 0.2
"""Weight of unlabelled hard rows and of dressed easy ones in the task head, where each labelled side has 1."""

UTTERANCE, UNLABELLED, DRESSED, OPEN = -1, -2, -3, -4
"""Kinds of rows besides the labelled sets, which count from 0: utterances, hard and easy rows of the task head, open
work, such as plans and essays, which has no right answer to count."""

OPEN_GAIN, OPEN_SHARE = 0.25, 1.0
"""Assumed: open work gains from a larger model what the labelled sets gain in the mean. Its total weight in the gain
heads, where each set has 1. Without it a plan to write would look like small talk, since no labelled set has one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as numbers.

    x: (rows, counts).  hashed: sorted buckets of row i at starts[i]:starts[i+1].  y: gain to fit.  gain: as labelled.
    ok: quality of the local model.  weight: 0 for rows that only the task head sees.  kind: number of the set, or one
    of UTTERANCE, UNLABELLED, DRESSED, OPEN.  fold: 0..4.
    """

    x: np.ndarray
    starts: np.ndarray
    hashed: np.ndarray
    y: np.ndarray
    gain: np.ndarray
    ok: np.ndarray
    weight: np.ndarray
    kind: np.ndarray
    fold: np.ndarray

    def only(self, keep: np.ndarray) -> "Rows":
        """Return the rows where ``keep`` is true."""
        sizes = np.diff(self.starts)
        rest = [column[keep] for column in (self.y, self.gain, self.ok, self.weight, self.kind, self.fold)]
        starts = np.concatenate([[0], np.cumsum(sizes[keep])])
        return Rows(self.x[keep], starts, self.hashed[np.repeat(keep, sizes)], *rest)


@cache
def numbers(prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts and the sorted buckets of one prompt."""
    features = extract(prompt)
    words, pairs = buckets(features.words)
    return np.array([features.values[n] for n in STRUCTURAL]), np.array(sorted(words | pairs), dtype=np.int64)


def rows_of(named: Sequence[tuple[int, Row, float]], target: Mapping[str, float] | None = None) -> Rows:
    """Turn (kind, row, weight) into numbers. target: gains to fit by row id, where they are not the row's own."""
    both = [numbers(row.prompt) for _, row, _ in named]
    gain = np.array([row.gain for _, row, _ in named], dtype=float)
    return Rows(
        x=np.stack([x for x, _ in both]),
        starts=np.concatenate([[0], np.cumsum([len(h) for _, h in both])]),
        hashed=np.concatenate([h for _, h in both]),
        y=np.array([(target or {}).get(row.id, g) for (_, row, _), g in zip(named, gain, strict=True)]),
        gain=gain,
        ok=np.array([row.weak for _, row, _ in named], dtype=float),
        weight=np.array([w for _, _, w in named], dtype=float),
        kind=np.array([k for k, _, _ in named]),
        fold=np.array([fold(row.group) for _, row, _ in named]),
    )


@dataclass(frozen=True, slots=True)
class Words:
    """Ridge regression on hashed words, each text's vector of length 1."""

    weights: np.ndarray
    bias: float

    def value(self, rows: Rows) -> np.ndarray:
        """Return the head's value for every row."""
        return self.bias + _times(self.weights, rows)


@dataclass(frozen=True, slots=True)
class Line:
    """Ridge regression on clipped counts."""

    weights: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    bias: float

    def value(self, rows: Rows) -> np.ndarray:
        """Return the head's value for every row."""
        return self.bias + np.sum((np.clip(rows.x, self.low, self.high) - self.mean) * self.weights, axis=1)


@dataclass(frozen=True, slots=True)
class Grown:
    """A forest and its start value."""

    start: float
    trees: list[Tree]

    def value(self, rows: Rows) -> np.ndarray:
        """Return the head's value for every row."""
        return _trees.predict(self.trees, rows.x, self.start)


@dataclass(frozen=True, slots=True)
class Heads:
    """All heads by the names of AVERAGE, their mean and spread in the even mix, and the two of the task."""

    of: Mapping[str, Words | Line | Grown]
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    task_trees: Grown
    task_words: Words

    def scale(self, name: str) -> float:
        """Return what a head's values are multiplied with."""
        return AVERAGE[name] / sum(AVERAGE.values()) / self.spreads[name]

    def z(self, rows: Rows) -> np.ndarray:
        """Return the sum in standard scores for every row."""
        total = task_worth(self.task(rows))
        for name, head in self.of.items():
            total = total + self.scale(name) * (head.value(rows) - self.means[name])
        return total

    def task(self, rows: Rows) -> np.ndarray:
        """Return for every row about 1 where it is work for a larger model, about 0 where it is an everyday request."""
        return 0.5 * self.task_trees.value(rows) + 0.5 * self.task_words.value(rows)


def task_worth(task: np.ndarray) -> np.ndarray:
    """Return what the task head adds to the sum: from -TASK_WORTH to 0."""
    return np.interp(task, [TASK_FROM, TASK_TO], [-TASK_WORTH, 0.0])


def fit_heads(rows: Rows, *, seed: int = 0) -> Heads:
    """Fit all heads."""
    labelled, gained = _mean_one(rows.only(rows.kind >= UTTERANCE)), _with_open_work(rows)
    wrong = replace(labelled, y=_centred(1 - labelled.ok, labelled))
    of: dict[str, Words | Line | Grown] = {
        "gain trees": _grown(gained, GAIN, seed),
        "gain words": fit_words(gained),
        "wrong trees": _grown(wrong, WRONG, seed + 1),
        "wrong words": fit_words(wrong),
        "wrong line": fit_line(wrong),
    }
    weight, values = mix_weights(labelled), {name: head.value(labelled) for name, head in of.items()}
    means = {name: float(np.sum(weight * v)) for name, v in values.items()}
    spreads = {name: float(np.sqrt(np.sum(weight * (v - means[name]) ** 2))) for name, v in values.items()}
    task = _task_rows(rows)
    return Heads(of, means, spreads, _grown(task, TASK, seed + 2), fit_words(task))


def fit_adequate(rows: Rows, *, seed: int = 0) -> Grown:
    """Fit the trees of P(local answer adequate)."""
    labelled = _mean_one(rows.only(rows.kind >= UTTERANCE))
    return _grown(replace(labelled, y=labelled.ok), ADEQUATE, seed + 3)


def mix_weights(rows: Rows, easy: float = 0.5) -> np.ndarray:
    """Return weights that sum to 1: utterances ``easy`` of it, the labelled sets the rest in equal parts."""
    kinds = np.unique(rows.kind[rows.kind >= 0])
    weight = np.where(rows.kind == UTTERANCE, easy / max(1, int(np.sum(rows.kind == UTTERANCE))), 0.0)
    for kind in kinds:
        weight[rows.kind == kind] = (1 - easy) / len(kinds) / np.sum(rows.kind == kind)
    return weight / weight.sum()


def _mean_one(rows: Rows) -> Rows:
    return replace(rows, weight=rows.weight / rows.weight.mean())


def _with_open_work(rows: Rows) -> Rows:
    """Return the labelled rows and open work, which gets the gain that is assumed of it."""
    work = rows.kind == OPEN
    weight = np.where(work, OPEN_SHARE / max(1, int(np.sum(work))), rows.weight)
    assumed = replace(rows, y=np.where(work, OPEN_GAIN, rows.y), weight=weight)
    return _mean_one(assumed.only(work | (rows.kind >= UTTERANCE)))


def _centred(y: np.ndarray, rows: Rows) -> np.ndarray:
    centred = y.copy()
    for kind in np.unique(rows.kind):
        centred[rows.kind == kind] -= np.mean(y[rows.kind == kind])
    return centred


def _task_rows(rows: Rows) -> Rows:
    """Return all rows with the target of the task head: 1 for work, 0 for everyday requests."""
    weight = mix_weights(rows) * 2
    for kind, share in ((UNLABELLED, HARD_SHARE / 2), (OPEN, HARD_SHARE / 2), (DRESSED, EASY_SHARE)):
        weight[rows.kind == kind] = share / max(1, int(np.sum(rows.kind == kind)))
    work = (rows.kind >= 0) | np.isin(rows.kind, (UNLABELLED, OPEN))
    return _mean_one(replace(rows, y=work.astype(float), weight=weight))


def _grown(rows: Rows, how: Growth, seed: int) -> Grown:
    return Grown(*_trees.grow(rows.x, rows.y, rows.weight, how, seed=seed))


def fit_words(rows: Rows) -> Words:
    """Ridge regression by conjugate gradients; mean weight 1. Source: Hestenes and Stiefel 1952."""
    bias = float(np.sum(rows.weight * rows.y) / np.sum(rows.weight))
    right = _back(rows.weight * (rows.y - bias), rows)
    w, r = np.zeros(BUCKETS), right
    p, size = r, float(np.sum(r * r))
    for _ in range(ROUNDS):
        if not size:
            break
        q = _back(rows.weight * _times(p, rows), rows) + RIDGE_WORDS * p
        step = size / float(np.sum(p * q))
        w, r = w + step * p, r - step * q
        now = float(np.sum(r * r))
        p, size = r + (now / size) * p, now
    return Words(w, bias)


def _times(w: np.ndarray, rows: Rows) -> np.ndarray:
    sizes = np.diff(rows.starts)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(owner, w[rows.hashed], len(sizes)) / np.sqrt(np.maximum(1, sizes))


def _back(v: np.ndarray, rows: Rows) -> np.ndarray:
    sizes = np.diff(rows.starts)
    return np.bincount(rows.hashed, np.repeat(v / np.sqrt(np.maximum(1, sizes)), sizes), BUCKETS)


def fit_line(rows: Rows) -> Line:
    """Ridge regression on counts clipped to their 1st and 99th percentile, in standard scores; mean weight 1."""
    weight = rows.weight / rows.weight.sum()
    low, high = np.quantile(rows.x, 0.01, axis=0), np.quantile(rows.x, 0.99, axis=0)
    clipped = np.clip(rows.x, low, high)
    mean = np.sum(weight[:, None] * clipped, axis=0)
    sd = np.sqrt(np.sum(weight[:, None] * (clipped - mean) ** 2, axis=0)) + 1e-6
    s = (clipped - mean) / sd
    bias = float(np.sum(weight * rows.y))
    square = np.einsum("ni,nj->ij", s * weight[:, None], s) + np.eye(s.shape[1]) * RIDGE_LINE / len(weight)
    beta = np.linalg.solve(square, np.sum((weight * (rows.y - bias))[:, None] * s, axis=0))
    return Line(beta / sd, low, high, mean, bias)
