"""What another threshold or mode would have done, from one's own decision log. Routing design C8.

Routes are recomputed exactly in steps of 1/16. What they would have been worth is estimated two ways: by a model of
the outcomes, which always has an answer and may be wrong, and off-policy from the chances with which exploration took
the other route, which is right on average, says how sure it is, and says so where the log cannot tell.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hybrid.wire.types import Route

from .log import STEPS, DecisionRecord, threshold_step
from .policy import Mode

CLIP = 100.0
"""Largest inverse propensity. Exploration of 0.01 and more is not clipped; what is clipped widens the interval."""

FEWEST = 10
"""So many explored requests must have gone where the policy would send them before an interval means anything."""

RARE = 0.5
"""The rarer of two routes has less than this chance."""

NORMAL_95 = 1.959964
PRIOR = 2.0  # rows at the mean that steady the model of outcomes where it has seen little

NOT_IDENTIFIABLE = "not identifiable"
TOO_LITTLE = "too little"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a policy costs and yields, over all rows. None: not known from this log.

    share: of requests answered by the node.  quality: mean, 0..1, see `Outcome.quality`.  seconds: mean of an answer.
    bytes: sent in all, from lengths kept as powers of 4, so within a factor of 2.  money: in all.
    """

    share: float
    quality: float | None
    seconds: float | None
    bytes: int
    money: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Mean quality by one off-policy method, with its 95 % interval.

    why: empty, or `NOT_IDENTIFIABLE` or `TOO_LITTLE`: then there are no numbers.
    """

    method: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One policy over one log.

    n: rows.  held: rows whose route labels, availability or a person settled; no policy moves them.  changed: rows
    with another route than happened.  unsupported: changed rows whose route nothing could have led to.
    explored: rows on which exploration did what this policy would do, with an outcome.
    """

    threshold: float | None
    mode: str
    n: int
    held: int
    changed: int
    unsupported: int
    explored: int
    happened: Account
    would: Account
    estimates: tuple[Estimate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row with an outcome, as the estimators see it.

    reward: 0..1.  matched: whether what happened is what the policy would do.  chance: that what the policy would do
    happened.  expected: the model's reward of what the policy would do.
    """

    reward: float
    matched: bool
    chance: float
    expected: float

    @property
    def weight(self) -> float:
        """The inverse propensity, clipped; 0 where something else happened."""
        return min(CLIP, 1.0 / self.chance) if self.matched else 0.0


def on_grid(threshold: float) -> float:
    """Return the multiple of 1/16 nearest to a threshold: with those the kept scores compare exactly."""
    return threshold_step(threshold) / STEPS


def route_under(row: DecisionRecord, *, threshold: float | None = None, mode: Mode | None = None) -> Route:
    """Return the route a row would take. threshold: None keeps the row's own.  mode: None keeps the row's own."""
    if held(row):
        return row.route
    asked = mode or (Mode(row.mode) if row.mode in _MODES else Mode.AUTO)
    if asked.preferred is not None:
        return asked.preferred
    if threshold is None and row.mode == Mode.AUTO:
        return row.route
    step = row.threshold if threshold is None else threshold_step(threshold)
    return Route.PRIVATE_CLOUD if row.score >= step else Route.ON_DEVICE


_MODES = frozenset(Mode)


def held(row: DecisionRecord) -> bool:
    """Whether something stronger than mode and threshold settled the route: a label, availability, a person."""
    return not row.open and row.reasons[:1] != ("mode",)


def what_if(rows: Sequence[DecisionRecord], *, threshold: float | None = None, mode: Mode | None = None) -> Report:
    """Replay a policy over a log. threshold: rounded to 1/16; it decides under ``auto`` only."""
    threshold = None if threshold is None else on_grid(threshold)
    routes = [route_under(row, threshold=threshold, mode=mode) for row in rows]
    model = outcome_model(rows)
    samples = [sample for row, route in zip(rows, routes, strict=True) if (sample := _sample(row, route, model))]
    changed = [_chance(row, route) for row, route in zip(rows, routes, strict=True) if route is not row.route]
    unsupported = sum(chance <= 0.0 for chance in changed)
    explored = sum(s.matched and s.chance < RARE for s in samples)
    leans = any(chance < RARE for chance in changed)
    why = NOT_IDENTIFIABLE if unsupported else TOO_LITTLE if not samples or (leans and explored < FEWEST) else ""
    return Report(
        threshold=threshold,
        mode=str(mode) if mode else "",
        n=len(rows),
        held=sum(map(held, rows)),
        changed=len(changed),
        unsupported=unsupported,
        explored=explored,
        happened=_account(rows, [row.route for row in rows], model),
        would=_account(rows, routes, model),
        estimates=tuple(Estimate(method=name, why=why) if why else METHODS[name](samples) for name in METHODS),
    )


def sweep(rows: Sequence[DecisionRecord]) -> tuple[tuple[float, Account], ...]:
    """Return what every threshold on the grid would have cost and yielded under ``auto``."""
    model = outcome_model(rows)
    grid = [step / STEPS for step in range(STEPS + 1)]
    under = ([route_under(row, threshold=threshold, mode=Mode.AUTO) for row in rows] for threshold in grid)
    return tuple((threshold, _account(rows, routes, model)) for threshold, routes in zip(grid, under, strict=True))


# --- off-policy estimates -----------------------------------------------------------------------------------------


def inverse_propensity(samples: Sequence[Sample]) -> Estimate:
    """Horvitz and Thompson 1952: the mean of reward times inverse propensity."""
    terms = [s.weight * s.reward for s in samples]
    mean = sum(terms) / len(terms)
    return _with_interval("ips", mean, [t - mean for t in terms], samples)


def self_normalised(samples: Sequence[Sample]) -> Estimate:
    """Hajek 1971; Swaminathan and Joachims 2015: weights that sum to one. Interval by linearisation."""
    total = sum(s.weight for s in samples)
    mean = sum(s.weight * s.reward for s in samples) / total
    influence = [s.weight * (s.reward - mean) * len(samples) / total for s in samples]
    return _with_interval("snips", mean, influence, samples)


def doubly_robust(samples: Sequence[Sample]) -> Estimate:
    """Dudik, Langford and Li 2011: the model's value, corrected by the weighted errors of the model."""
    terms = [s.expected + s.weight * (s.reward - s.expected) for s in samples]
    mean = sum(terms) / len(terms)
    return _with_interval("dr", mean, [t - mean for t in terms], samples)


METHODS: dict[str, Callable[[Sequence[Sample]], Estimate]] = {
    "ips": inverse_propensity,
    "snips": self_normalised,
    "dr": doubly_robust,
}


def _clipped(samples: Sequence[Sample]) -> float:
    """Return the most that clipping can have cost a mean reward of 0..1."""
    return sum(max(0.0, 1.0 - CLIP * s.chance) for s in samples) / len(samples)


def _with_interval(method: str, mean: float, influence: Sequence[float], samples: Sequence[Sample]) -> Estimate:
    """Return a mean of 0..1 with Student's interval; freedom by Satterthwaite: a few large terms make most of it.

    One half complaint at the largest weight is added, so that a few explored answers, all good, are no certainty.
    """
    n = len(influence)
    terms = [*influence, max(s.weight for s in samples) / 2]
    squares, fourth = sum(x * x for x in terms), sum(x**4 for x in terms)
    freedom = squares * squares / fourth - 1.0 if fourth else 0.0
    half = student_95(freedom) * math.sqrt(squares) / n + _clipped(samples)
    low, value, high = (min(1.0, max(0.0, x)) for x in (mean - half, mean, mean + half))
    return Estimate(method=method, value=value, low=low, high=high)


def student_95(freedom: float) -> float:
    """Return the 0.975 quantile of Student's t, within 0.02 for 3 degrees of freedom and more.

    Cornish and Fisher's expansion: Abramowitz and Stegun 26.7.5.
    """
    z, v = NORMAL_95, max(3.0, freedom)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


# --- the model of outcomes ------------------------------------------------------------------------------------------

Model = Callable[[DecisionRecord, Route], float | None]


def outcome_model(rows: Iterable[DecisionRecord]) -> Model:
    """Fit quality as a line over the score, one for each route; None for a route that never answered."""
    seen: dict[Route, list[tuple[float, float]]] = {}
    for row in rows:
        if (quality := row.outcome.quality) is not None:
            seen.setdefault(row.route, []).append((row.score / STEPS, quality))
    lines = {route: _line(points) for route, points in seen.items()}

    def predict(row: DecisionRecord, route: Route) -> float | None:
        if route not in lines:
            return None
        centre, level, slope = lines[route]
        return min(1.0, max(0.0, level + slope * (row.score / STEPS - centre)))

    return predict


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return centre, level and slope of the least-squares line, its slope drawn a little towards none."""
    n = len(points)
    centre = sum(x for x, _ in points) / n
    level = sum(y for _, y in points) / n
    spread = sum((x - centre) ** 2 for x, _ in points) + PRIOR / STEPS
    return centre, level, sum((x - centre) * (y - level) for x, y in points) / spread


def _sample(row: DecisionRecord, route: Route, model: Model) -> Sample | None:
    reward = row.outcome.quality
    if reward is None:
        return None
    expected = model(row, route)
    return Sample(
        reward=reward,
        matched=route is row.route,
        chance=_chance(row, route),
        expected=0.5 if expected is None else expected,
    )


def _chance(row: DecisionRecord, route: Route) -> float:
    """Return the chance with which a row could have taken a route: 0 where nothing was left to chance."""
    return row.propensity if route is row.route else round(1.0 - row.propensity, 4)


# --- accounts -------------------------------------------------------------------------------------------------------


def _account(rows: Sequence[DecisionRecord], routes: Sequence[Route], model: Model) -> Account:
    pairs = list(zip(rows, routes, strict=True))
    remote = [row for row, route in pairs if _answers(row, route) is Route.PRIVATE_CLOUD]
    return Account(
        share=len(remote) / len(rows) if rows else 0.0,
        quality=_mean([_worth(row, route, model) for row, route in pairs if row.outcome.quality is not None]),
        seconds=_mean(_times(pairs)),
        bytes=sum(map(_sizes(rows), remote)),
        money=_money(rows, remote),
    )


def _answers(row: DecisionRecord, route: Route) -> Route:
    """Return who answers on a route: who did, where it is the one that was taken."""
    return (row.outcome.route or route) if route is row.route else route


def _worth(row: DecisionRecord, route: Route, model: Model) -> float | None:
    return row.outcome.quality if route is row.route else model(row, route)


def _times(pairs: Sequence[tuple[DecisionRecord, Route]]) -> list[float | None]:
    """Return each row's seconds, those of the mean of the other route where it would have changed."""
    seen: dict[Route, list[float]] = {}
    for row, _ in pairs:
        if row.outcome.seconds is not None:
            seen.setdefault(row.route, []).append(row.outcome.seconds)
    means = {route: sum(times) / len(times) for route, times in seen.items()}
    known = [(row, route) for row, route in pairs if row.outcome.seconds is not None]
    return [row.outcome.seconds if route is row.route else means.get(route) for row, route in known]


def _money(rows: Sequence[DecisionRecord], remote: Sequence[DecisionRecord]) -> float | None:
    """Return the money of these rows: what was paid, the mean for those that were not sent; None without a price."""
    paid = [row.outcome.money for row in rows if row.outcome.money is not None]
    if not paid:
        return None
    mean = sum(paid) / len(paid)
    return sum(mean if row.outcome.money is None else row.outcome.money for row in remote)


def _sizes(rows: Sequence[DecisionRecord]) -> Callable[[DecisionRecord], int]:
    """Return what gives a row's characters: the middle of its power of 4, the mean where its length was not kept."""
    known = [4 ** (row.length - 0.5) for row in rows if row.length is not None]
    mean = sum(known) / len(known) if known else 0.0
    return lambda row: round(mean if row.length is None else 4 ** (row.length - 0.5))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
