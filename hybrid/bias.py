"""The local bias alarm: nodes as they were drawn and as they answered, against what their weights foretell.

Draws are this device's own, so a skew among them is a defect here; a skew among the answers is how steering by a
router, or a node that keeps failing, shows (SPEC 4). Pure: counts in, verdict out. Numbers say nothing about content.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALARM_P = 1e-4  # looked at now and then for years: a p of 0.01 would cry wolf every few weeks
LEAST_EXPECTED = 5.0  # the usual floor of Pearson's test; rarer nodes are judged together
LEAST_CELLS = 2


@dataclass(slots=True)
class NodeCount:
    """One node's share. expected: sum over requests of its chance to be drawn first, by weight.

    first: drawn first.  offered: among the candidates.  answered.  failed: attempts it was in that ended unopened.
    due: as ``expected``, over answered requests alone.
    """

    expected: float = 0.0
    first: int = 0
    offered: int = 0
    due: float = 0.0
    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """One comparison. p: chance of a skew this large without any cause; 1.0 while there is too little to judge by."""

    what: str
    total: int
    p: float
    node: str = ""
    got: int = 0
    expected: float = 0.0

    @property
    def alarm(self) -> bool:
        """Whether chance is no explanation."""
        return self.p < ALARM_P

    @property
    def words(self) -> str:
        """One sentence for people."""
        if self.p >= 1.0 and not self.node:
            return f"{self.total} so far: too few nodes or answers to judge"
        if not self.alarm:
            return f"{self.total} as the weights foretell (p = {self.p:.2g})"
        return f"node {self.node[:8]} {self.what} {self.got} of {self.total} where {self.expected:.0f} are due"


def judge(counts: Mapping[str, NodeCount]) -> tuple[Skew, Skew]:
    """Compare draws, then answers, with what the weights foretell."""
    drawn = _skew("drawn first", [(name, c.first, c.expected) for name, c in counts.items()])
    answered = _skew("answered", [(name, c.answered, c.due) for name, c in counts.items()])
    return drawn, answered


def _skew(what: str, cells: Sequence[tuple[str, int, float]]) -> Skew:
    total = sum(got for _, got, _ in cells)
    pooled = _pooled(cells)
    if len(pooled) < LEAST_CELLS:
        return Skew(what=what, total=total, p=1.0)
    statistic = sum((got - due) ** 2 / due for _, got, due in pooled)
    name, got, due = max(pooled, key=lambda cell: (cell[1] - cell[2]) ** 2 / cell[2])
    p = chi_square_tail(statistic, len(pooled) - 1)
    return Skew(what=what, total=total, p=p, node=name, got=got, expected=due)


def _pooled(cells: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """Put nodes that are due too rarely together, rarest first, until each cell is due often enough."""
    done: list[tuple[str, int, float]] = []
    name, got, due = "", 0, 0.0
    for one in sorted(cells, key=lambda cell: cell[2]):
        name, got, due = name or one[0], got + one[1], due + one[2]
        if due >= LEAST_EXPECTED:
            done.append((name, got, due))
            name, got, due = "", 0, 0.0
    if done and (got or due):
        last = done.pop()
        done.append((last[0], last[1] + got, last[2] + due))
    return done


def chi_square_tail(x: float, freedom: int) -> float:
    """Return P(X >= x) of the chi-square distribution, exactly, by the finite sums of Abramowitz and Stegun 26.4.4-5.

    freedom: 1 or more.
    """
    half = x / 2
    if half <= 0:
        return 1.0
    start, total = (0.5, math.erfc(math.sqrt(half))) if freedom % 2 else (0.0, 0.0)
    steps = freedom // 2
    for n in range(steps):
        power = n + start
        total += math.exp(power * math.log(half) - half - math.lgamma(power + 1))
    return min(1.0, total)
