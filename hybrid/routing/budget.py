"""The budget controller: a ceiling on what goes to the node, never a quota. Routing design C9.

The share is of eligible requests: those that might go to the node and whose route nobody pinned. Its state is one
number, a rank: requests that score below it stay on the device. Pure; whoever keeps the number passes it in and out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .layers import MAX_THRESHOLD

RATE = 0.02
"""Step size of the controller, in ranks for each request (C9)."""

COSTS = 200
"""Mean cost is taken over so many of the last requests that went to the node (C9)."""

WINDOW = 500
"""The realised share is reported over so many of the last eligible requests (C11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may go to the node, and where the controller stands.

    share: 0..1 of eligible requests.  money_per_month: in the unit of the node's prices; its share is computed from
    what requests cost and follows with `priced`.  Give one of the two.  t: the budget threshold, a rank in
    0..MAX_THRESHOLD; None before the first step.  Raises ValueError for values that mean nothing.
    """

    share: float | None = None
    money_per_month: float | None = None
    t: float | None = None

    def __post_init__(self) -> None:
        """Refuse a budget of nothing and values out of range; NaN is out of every range."""
        if self.share is None and self.money_per_month is None:
            raise ValueError("a budget is a share of requests or money per month; give one")
        if self.share is not None and not 0.0 <= self.share <= 1.0:
            raise ValueError(f"the share of a budget must lie between 0 and 1, got {self.share}")
        if self.money_per_month is not None and not 0.0 <= self.money_per_month < math.inf:
            raise ValueError(f"the money of a budget must be 0 or more, got {self.money_per_month}")
        if self.t is not None and not 0.0 <= self.t <= MAX_THRESHOLD:
            raise ValueError(f"a budget threshold must lie between 0 and {MAX_THRESHOLD}, got {self.t}")


def as_budget(given: float | Budget | None) -> Budget | None:
    """Return what a person set as a budget: a plain number is a share."""
    return Budget(share=float(given)) if isinstance(given, int | float) else given


def threshold(budget: Budget) -> float:
    """Return the budget threshold, a rank in 0..MAX_THRESHOLD. It starts at 1 - share.

    Money without known costs does not bind: 0.
    """
    if budget.t is not None:
        return budget.t
    return 0.0 if budget.share is None else 1.0 - budget.share


def step(budget: Budget, *, score: float, floor: float, sent: bool | None = None) -> Budget:
    """Return the budget after one eligible request (C9).

    score: the request's, 0..1.  floor: the threshold that prices alone set, F(need).  sent: whether it went to the
    node in the end; None: as score and threshold say.  A budget that does not bind learns nothing: no wind-up.
    """
    t = threshold(budget)
    went = score >= max(floor, t) if sent is None else sent
    if budget.share is None or (t <= floor and not went):
        return budget
    return replace(budget, t=round(min(MAX_THRESHOLD, max(0.0, t + RATE * (went - budget.share))), 6))


def priced(budget: Budget, *, mean_cost: float | None, per_month: float) -> Budget:
    """Return a money budget with the share it pays for; a budget of shares as it is.

    mean_cost: of the last `COSTS` requests that went, None or 0 when unknown: then nothing is limited.
    per_month: eligible requests in a month.
    """
    if budget.money_per_month is None:
        return budget
    if budget.money_per_month == 0:
        return replace(budget, share=0.0)
    if not mean_cost or per_month <= 0:
        return replace(budget, share=None)
    return replace(budget, share=min(1.0, budget.money_per_month / (mean_cost * per_month)))


def realised(sent: Sequence[bool], *, window: int = WINDOW) -> float | None:
    """Return the share that went to the node among the last ``window`` eligible requests, the newest last."""
    last = sent[-window:]
    return sum(last) / len(last) if last else None


def to_state(budget: Budget) -> str:
    """Write the controller's state: one JSON number; empty before the first step that counts."""
    return "" if budget.t is None else str(budget.t)


def from_state(budget: Budget, state: str | None) -> Budget:
    """Return the budget where a kept state left it; one that is missing or means nothing starts anew."""
    try:
        return replace(budget, t=float(state) if state else None)
    except ValueError:
        return replace(budget, t=None)
