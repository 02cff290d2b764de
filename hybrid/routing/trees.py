"""Small boosted trees as flat tuples: complete trees, so that a node's children need no pointers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Node = tuple[int, float, float]
"""Column, threshold (go right above it) and value; a leaf's column is -1."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Sum of trees. start: the value with no tree; trees: nodes of each, children of n at 2n+1 and 2n+2."""

    start: float
    trees: tuple[tuple[Node, ...], ...] = field(repr=False)

    def value(self, row: Sequence[float]) -> float:
        """Return the sum of the leaves that a row falls into."""
        total = self.start
        for tree in self.trees:
            at = 0
            column, threshold, value = tree[0]
            while column >= 0:
                at += at + (2 if row[column] > threshold else 1)
                column, threshold, value = tree[at]
            total += value
        return total

    def add_parts(self, row: Sequence[float], parts: list[float]) -> None:
        """Share the value out over the columns, onto ``parts``: a split's column gets what the step below it adds."""
        for tree in self.trees:
            at = 0
            column, threshold, value = tree[0]
            while column >= 0:
                at += at + (2 if row[column] > threshold else 1)
                before, asked = value, column
                column, threshold, value = tree[at]
                parts[asked] += value - before


def forest(
    columns: Sequence[int], thresholds: Sequence[float], values: Sequence[float], depth: int, start: float
) -> Forest:
    """Build a forest from flat lists: 2^depth - 1 columns and thresholds and 2^(depth+1) - 1 values for each tree.

    Raises ValueError when their lengths do not fit.
    """
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    count, over = divmod(len(values), nodes)
    if over or len(columns) != count * inner or len(thresholds) != count * inner:
        raise ValueError("a forest's lists do not fit together")
    trees = []
    for n in range(count):
        splits = slice(n * inner, (n + 1) * inner)
        padded = [*map(int, columns[splits]), *[-1] * (nodes - inner)]
        above = [*map(float, thresholds[splits]), *[0.0] * (nodes - inner)]
        trees.append(tuple(zip(padded, above, map(float, values[n * nodes : (n + 1) * nodes]), strict=True)))
    return Forest(start, tuple(trees))
