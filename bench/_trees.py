"""Small boosted regression trees in numpy, the same to the bit on every run.

Targets are rounded to whole units of 2^-20 before every sum, so that sums of them are exact in a float64 whatever the
order of adding: no thread count and no instruction set changes a split. Squared error, histograms, complete trees.
"""

from dataclasses import dataclass

import numpy as np

Numbers = np.ndarray
UNIT = float(2**20)
BINS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How a forest is grown. rate: shrinkage; least: total weight under which no leaf is made; ridge: added to it."""

    trees: int = 120
    depth: int = 3
    rate: float = 0.06
    least: float = 60.0
    ridge: float = 20.0
    columns: float = 0.4
    rows: float = 0.6


@dataclass(frozen=True, slots=True)
class Tree:
    """A complete tree: for node n the children are 2n+1 and 2n+2; go right where the value is above the threshold."""

    feature: Numbers
    threshold: Numbers
    value: Numbers


@dataclass(frozen=True, slots=True)
class _Data:
    """What one tree sees. bins: (rows, its columns).  cuts: of all columns.  gradient, weight: in whole units."""

    bins: Numbers
    cuts: list[Numbers]
    gradient: Numbers
    weight: Numbers


def edges(x: Numbers) -> list[Numbers]:
    """Return for each column at most 31 rounded cut points between its quantiles."""
    q = np.linspace(0, 1, BINS + 1)[1:-1]
    return [np.unique(np.round(np.quantile(column, q, method="lower"), 4)) for column in x.T]


def binned(x: Numbers, cuts: list[Numbers]) -> Numbers:
    """Return the bin of every value, as whole numbers (rows, columns)."""
    return np.stack([np.searchsorted(c, column, side="left") for c, column in zip(cuts, x.T, strict=True)], axis=1)


def grow(x: Numbers, y: Numbers, weight: Numbers, how: Growth, *, seed: int) -> tuple[float, list[Tree]]:
    """Fit a forest to ``y``: start value and trees whose values are to be added. x: (rows, columns); weight: mean 1."""
    rng = np.random.default_rng(seed)
    cuts = edges(x)
    bins = binned(x, cuts).astype(np.int64)
    weight = np.round(weight * UNIT) / UNIT
    start = float(np.sum(np.round(weight * y * UNIT)) / np.sum(np.round(weight * UNIT)))
    rest = y - start
    forest: list[Tree] = []
    for _ in range(how.trees):
        rows = np.flatnonzero(rng.random(len(y)) < how.rows)
        columns = np.sort(rng.choice(x.shape[1], max(1, int(how.columns * x.shape[1])), replace=False))
        gradient, whole = np.round(rest * weight * UNIT)[rows], np.round(weight * UNIT)[rows]
        tree = _tree(_Data(bins[rows][:, columns], cuts, gradient, whole), columns, how)
        forest.append(tree)
        rest -= predict_one(tree, x)
    return start, forest


def predict_one(tree: Tree, x: Numbers) -> Numbers:
    """Return the value of one tree for every row."""
    at = np.zeros(len(x), dtype=np.int64)
    rows = np.arange(len(x))
    for _ in range(int(np.log2(len(tree.value) + 1)) - 1):
        at = 2 * at + 1 + (x[rows, tree.feature[at]] > tree.threshold[at])
    return tree.value[at]


def predict(forest: list[Tree], x: Numbers, start: float = 0.0) -> Numbers:
    """Return the value of a forest for every row."""
    total = np.full(len(x), start)
    for tree in forest:
        total = total + predict_one(tree, x)
    return total


def _tree(data: _Data, at_columns: Numbers, how: Growth) -> Tree:
    """Grow one complete tree level by level; a node that no split helps sends all its rows to the left."""
    inner = 2**how.depth - 1
    feature, threshold = np.zeros(inner, dtype=np.int64), np.full(inner, np.inf)
    sums = np.zeros((2, 2 * inner + 1))
    sums[:, 0] = data.gradient.sum(), data.weight.sum()
    at = np.zeros(len(data.gradient), dtype=np.int64)
    for level in range(how.depth):
        first = 2**level - 1
        left = _histograms(data, at - first, 2**level)
        for node in range(first, 2 * first + 1):
            column, cut = _best(left[:, node - first], sums[:, node], how)
            feature[node] = at_columns[column]
            here = at == node
            right = np.zeros(len(at), dtype=bool)
            sums[:, 2 * node + 1] = sums[:, node]
            if cut >= 0:
                threshold[node] = data.cuts[feature[node]][cut]
                right = data.bins[:, column] > cut
                sums[:, 2 * node + 1] = left[:, node - first, column, cut]
            sums[:, 2 * node + 2] = sums[:, node] - sums[:, 2 * node + 1]
            at = np.where(here, 2 * at + 1 + right, at)
    value = how.rate * sums[0] / (sums[1] + how.ridge * UNIT)
    value[0] = 0.0
    return Tree(feature, threshold, np.round(value, 5))


def _histograms(data: _Data, node: Numbers, nodes: int) -> Numbers:
    """Return running sums of gradient and weight: (2, nodes, columns, bins)."""
    columns = data.bins.shape[1]
    index = (node[:, None] * (columns * BINS) + data.bins + np.arange(columns) * BINS).ravel()
    sums = [
        np.bincount(index, np.repeat(v, columns), nodes * columns * BINS).reshape(nodes, columns, BINS)
        for v in (data.gradient, data.weight)
    ]
    return np.cumsum(np.stack(sums), axis=3)


def _best(left: Numbers, whole: Numbers, how: Growth) -> tuple[int, int]:
    """Return the column and the bin after which a split helps most; bin -1: none does. left: (2, columns, bins)."""
    right = whole[:, None, None] - left
    ridge, least = how.ridge * UNIT, how.least * UNIT
    gain = left[0] ** 2 / (left[1] + ridge) + right[0] ** 2 / (right[1] + ridge)
    gain = np.where((left[1] >= least) & (right[1] >= least), gain, -1.0)
    column, cut = divmod(int(np.argmax(gain)), BINS)
    if gain[column, cut] <= whole[0] ** 2 / (whole[1] + ridge):
        return column, -1
    return column, cut
