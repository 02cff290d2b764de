"""What the results page says of a router: ranking with intervals, calibration, and budgets on a shifted mix."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from _sets import PAIRS
from _unseen import Part, Said

from hybrid.routing import evaluation
from hybrid.routing.budget import Budget, step, threshold
from hybrid.routing.evaluation import Curve, Numbers, Scored
from hybrid.routing.logistic import logistic
from hybrid.routing.personal import Personal
from hybrid.routing.training import LEAST_CALIBRATED, PLATT_PULL, logit

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
RUNS = 20
NEAR = 0.03
EASY_SHARES = {"hard only": 0.0, "half assistant": 0.5, "nine tenths assistant": 0.9}
JUMP = "assistant only, then hard only"
GRID = np.linspace(0, 1, 201)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval; the interval is None where there is none to give."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Show it with three digits."""
        return f"{self.value:.3f}" if self.low is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well one router ranks: APGR by set, their mean, the mean CPT50 in per cent, and mixed traffic."""

    sets: Mapping[str, Figure]
    mean: Figure
    cpt50: float
    mixed: Figure


def figure(value: float, draws: Numbers) -> Figure:
    """Return a figure with the interval of its bootstrap draws."""
    return Figure(value, *evaluation.interval(draws))


def ranking(hard: Mapping[str, Scored], easy: Sequence[float]) -> Ranking:
    """Judge scores of the labelled sets and of assistant utterances."""
    draws = {name: evaluation.bootstrap(*columns) for name, columns in hard.items()}
    curves = {name: evaluation.pgr_curve(*columns) for name, columns in hard.items()}
    scores, weak, strong, weights, strata = evaluation.mix(hard, easy)
    drawn = evaluation.bootstrap(scores, weak, strong, weights=weights, strata=strata)
    return Ranking(
        sets={name: figure(curves[name].area, draws[name]) for name in hard},
        mean=figure(float(np.mean([c.area for c in curves.values()])), np.mean(list(draws.values()), axis=0)),
        cpt50=float(np.mean([c.cpt(0.5) for c in curves.values()])),
        mixed=figure(evaluation.apgr(scores, weak, strong, weights=weights), drawn),
    )


def oracle(sets: Mapping[str, Said], easy: Said) -> Ranking:
    """Return the ranking by strong - weak, which no router can beat."""
    return ranking({n: (s.strong - s.weak, s.weak, s.strong) for n, s in sets.items()}, [0.0] * len(easy.rows))


def columns(said: Said) -> Scored:
    """Return scores from the prompt alone, with both qualities."""
    return said.score, said.weak, said.strong


def with_after(said: Said) -> Scored:
    """Return scores with signals of the answer, with both qualities; of rows that have them."""
    known = ~np.isnan(said.after)
    return said.after[known], said.weak[known], said.strong[known]


def mean_curve(hard: Mapping[str, Scored]) -> Numbers:
    """Return the mean PGR over the sets, at every share of `GRID`."""
    return np.mean([at_grid(evaluation.pgr_curve(*each)) for each in hard.values()], axis=0)


def mixed_curve(hard: Mapping[str, Scored], easy: Sequence[float]) -> Numbers:
    """Return the PGR on mixed traffic, at every share of `GRID`."""
    scores, weak, strong, weights, _ = evaluation.mix(hard, easy)
    return at_grid(evaluation.pgr_curve(scores, weak, strong, weights=weights))


def at_grid(curve: Curve) -> Numbers:
    return np.array([curve.at(share) for share in GRID])


def ece(p: Numbers, y: Numbers) -> Figure:
    """Return the ECE with its interval over resampled rows."""
    rng = np.random.default_rng(0)
    picks = (rng.integers(0, len(p), len(p)) for _ in range(evaluation.DRAWS))
    return figure(evaluation.ece(p, y), np.array([evaluation.ece(p[at], y[at]) for at in picks]))


def calibrated(said: Said, *, seed: int) -> tuple[Numbers, Numbers]:
    """Fit the calibrator to some outcomes of this local model; return what it says of the others, and the truth."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(said.rows))
    fit, rest = order[:LEAST_CALIBRATED], order[LEAST_CALIBRATED:]
    odds, ones = np.array([logit(p) for p in said.p_ok]), np.ones(len(fit))
    line = logistic(odds[fit], said.weak[fit], ones, prior=(0.0, 1.0), pull=PLATT_PULL)
    personal = Personal(base="", version=1, day=0, p_ok=(line[0], max(0.0, line[1])))
    return np.array([personal.adequate(p) for p in said.p_ok[rest]]), said.weak[rest]


def on_the_device(sets: Mapping[str, Said]) -> dict[str, float]:
    """Return the mean ECE by set after calibration, over `RUNS` draws of the outcomes; sets large enough alone."""
    large = {name: said for name, said in sets.items() if len(said.rows) >= 3 * LEAST_CALIBRATED}
    return {
        name: float(np.mean([evaluation.ece(*calibrated(said, seed=seed)) for seed in range(RUNS)]))
        for name, said in large.items()
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """How well a budget was kept in one kind of traffic.

    mean, worst: error of all runs.  within: share of runs within 3 points.  over: the most that went above the budget.
    fixed: the largest error of a fixed threshold.
    """

    mean: float
    worst: float
    within: float
    over: float
    fixed: float


def budgets(split: Mapping[str, Part]) -> dict[str, Kept]:
    """Run the controller over traffic of unseen rows that differs from the reference mix, by kind of traffic."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name in PAIRS:
        for kind in (*EASY_SHARES, JUMP):
            for share in SHARES:
                for run in range(RUNS):
                    stream = traffic(split[name], kind, random.Random(f"{name}/{kind}/{share}/{run}"))  # noqa: S311
                    found.setdefault(kind, []).append(errors(stream, split[name].floor, share))
    return {kind: _kept(pairs) for kind, pairs in found.items()}


def _kept(runs: Sequence[tuple[float, float, float]]) -> Kept:
    ours, over, fixed = (np.array(side) for side in zip(*runs, strict=True))
    return Kept(
        float(ours.mean()), float(ours.max()), float((ours <= NEAR).mean()), float(over.max()), float(fixed.max())
    )


def traffic(part: Part, kind: str, rng: random.Random) -> list[float]:
    """Return scores of requests in order; before a jump there are 500 assistant requests."""
    (hard,) = part.sets.values()
    n = evaluation.SETTLE + evaluation.WINDOW
    if kind == JUMP:
        return rng.choices(part.easy.score.tolist(), k=500) + rng.choices(hard.score.tolist(), k=n)
    easy = EASY_SHARES[kind]
    return [rng.choice(part.easy.score if rng.random() < easy else hard.score) for _ in range(n)]


def errors(stream: Sequence[float], floor: float, share: float) -> tuple[float, float, float]:
    """Return three figures of the last 500 requests.

    The controller's budget error, by how much it went above the budget, and the error of a threshold of 1 - share.
    """
    budget, sent = Budget(share=share), []
    for score in stream:
        sent.append(score >= max(floor, threshold(budget)))
        budget = step(budget, score=score, floor=floor)
    last = evaluation.SETTLE + evaluation.WINDOW
    demand = [score >= floor for score in stream]
    fixed = [score >= max(floor, 1 - share) for score in stream]
    ours, plain = (evaluation.budget_error(way[-last:], demand[-last:], share) for way in (sent, fixed))
    return ours, max(0.0, float(np.mean(sent[-evaluation.WINDOW :])) - share), plain
