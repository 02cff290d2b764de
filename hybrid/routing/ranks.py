"""Increasing tables between numbers: from a standard score to a gain, from a gain to a rank in the reference mix."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Table:
    """Straight lines between points. xs: strictly increasing; ys: never falling. Outside it the end values hold.

    Raises ValueError for anything else.
    """

    xs: tuple[float, ...] = field(repr=False)
    ys: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no increasing table."""
        if len(self.xs) != len(self.ys) or len(self.xs) < 2:  # noqa: PLR2004 - a line has two ends
            raise ValueError("a table needs two points or more, with as many values")
        if not all(a < b for a, b in pairwise(self.xs)) or not all(a <= b for a, b in pairwise(self.ys)):
            raise ValueError("a table must increase")

    @classmethod
    def of(cls, xs: Sequence[float], ys: Sequence[float]) -> "Table":
        """Build a table from two lists of numbers."""
        return cls(tuple(map(float, xs)), tuple(map(float, ys)))

    def __call__(self, x: float) -> float:
        """Return the value at x."""
        xs, ys = self.xs, self.ys
        if x <= xs[0]:
            return ys[0]
        if x >= xs[-1]:
            return ys[-1]
        n = bisect_right(xs, x)
        part = (x - xs[n - 1]) / (xs[n] - xs[n - 1])
        return ys[n - 1] + part * (ys[n] - ys[n - 1])

    def inverse(self) -> "Table":
        """Return the way back: from a value to the least x that has it. Raises ValueError where all values are one."""
        rising = {y: x for x, y in reversed(list(zip(self.xs, self.ys, strict=True)))}
        ys = sorted(rising)
        return Table(tuple(ys), tuple(rising[y] for y in ys))
