"""Whether a retrained correction may take the place of the one in use: every rail of routing design C10, by name.

A candidate is judged as it would be kept, by labels it was not fitted to: those of the reservoir, and the newest fifth
of the user's own outcomes. All rails must hold; otherwise the old model stays.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.wire.types import Route

from . import evaluation
from .budget import Budget, step, threshold
from .cascade import After, AfterModel, after_model_of
from .complexity import LearnedScorer
from .evidence import Lesson
from .features import extract
from .labels import Labels, Source, from_source, typed, unlabelled
from .linear_fit import MOST_MOVED
from .logistic import Numbers
from .personal import Personal
from .recognisers.recognise import RECOGNISERS, private, recognise
from .reservoir import Reservoir
from .signals import LEAVING
from .taint import derived
from .training import Candidate, shipped_odds, unshifted

LEVEL = 0.90
"""One-sided confidence of "not lower"."""

NOISE = 0.02
"""A difference in APGR below this is noise (routing design, bars): what the reservoir may seem to lose."""

ROUNDING = 1e-9
LEAST_PLAUSIBLE = 0.45
"""0.5 is chance; a log for which the shipped scores are surely worse than this says the opposite of them."""

MOST_ECE = 0.05
MOST_BUDGET_ERROR = 0.03
SHARES = (0.1, 0.2, 0.3, 0.5)
BUDGET_RUNS = 10
MOST_BYTES = 128 * 1024
MOST_SECONDS = 0.001
"""What scoring 2,000 characters may take; on a slower machine, a quarter more than the shipped weights take there."""

SLOWER = 1.25
TIMED_CALLS = 50
DRAWS = 1000
CHANCES = 50
RUN = evaluation.SETTLE + evaluation.WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One condition. name: stable.  ok: whether it holds.  text: what was measured, for people; numbers only."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every rail, in a fixed order."""

    rails: tuple[Rail, ...]

    @property
    def ok(self) -> bool:
        """Whether all of them hold."""
        return all(rail.ok for rail in self.rails)

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of those that do not."""
        return tuple(rail.name for rail in self.rails if not rail.ok)


def judge(
    candidate: Candidate,
    current: Personal | None,
    reservoir: Reservoir,
    shipped: bytes,
    *,
    suites: str,
    seed: int = 0,
    draws: int = DRAWS,
    clock: Callable[[], float] = time.perf_counter,
) -> Verdict:
    """Judge a candidate against the correction in use. current: None is the shipped weights as they are.

    suites: `suites_digest` from before the candidate was fitted.  clock: seconds, for the latency rail.
    """
    new, plain = (LearnedScorer.from_bytes(shipped, each) for each in (candidate.personal, None))
    old = LearnedScorer.from_bytes(shipped, current) if current else plain
    scores = {id(each): _scores(each, reservoir) for each in (new, plain)}
    if current:
        scores[id(old)] = _scores(old, reservoir)
    public = [_mixed(reservoir, scores[id(each)]) for each in (new, old)]
    own = [_own(each, candidate.newest) for each in (new, old)]
    return Verdict(
        (
            _not_lower("apgr_reservoir", *public, least=-NOISE, seed=seed, draws=draws),
            _not_lower("apgr_own", *own, least=0.0, seed=seed, draws=draws),
            _cascade(candidate, reservoir, shipped, new, old, seed=seed, draws=draws),
            _plausible(plain, candidate, seed=seed, draws=draws),
            _calibrated(candidate, current, reservoir, plain, seed),
            _budget(scores[id(new)], new, seed),
            _moved(scores[id(new)], (scores[id(old)], scores[id(plain)])),
            _monotone(new, candidate.personal),
            _suites(suites),
            _size(candidate.personal),
            _latency(new, plain, clock),
        )
    )


# --- ranking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows to rank: scores, quality of both models, and how much each counts."""

    scores: Numbers
    weak: Numbers
    strong: Numbers
    weights: Numbers


def _not_lower(name: str, new: Ranked, old: Ranked, *, least: float, seed: int, draws: int) -> Rail:
    """Compare the APGR of two routers on the same rows by a paired bootstrap.

    Broken where the new one is lower with 90 % one-sided confidence, or where it is not sure to that degree that the
    change is ``least`` or more.
    """
    if np.array_equal(new.scores, old.scores):
        return Rail(name=name, ok=True, text="no score has changed")
    rows = [(each.scores, each.weak, each.strong) for each in (new, old)]
    try:
        after, before = (evaluation.apgr(*each, weights=new.weights) for each in rows)
        drawn = [evaluation.bootstrap(*each, weights=new.weights, draws=draws, seed=seed) for each in rows]
    except evaluation.NoGapError:
        return Rail(name=name, ok=False, text="the larger model adds nothing on these rows: no order is better")
    low, high = np.nanquantile(drawn[0] - drawn[1], (1 - LEVEL, LEVEL))
    text = (
        f"APGR {before:.3f} before, {after:.3f} after; 90 % one-sided limits of the change {low:+.3f} and {high:+.3f}"
    )
    return Rail(name=name, ok=bool(high >= -ROUNDING and low >= least - ROUNDING), text=text)


def _plausible(plain: LearnedScorer, candidate: Candidate, *, seed: int, draws: int) -> Rail:
    """Refuse a log that says the opposite of what the shipped router says: that is damage or an attack, not a taste."""
    if not candidate.newest:
        return Rail(name="plausible", ok=True, text="nothing is ranked by these outcomes")
    rows = _own(plain, candidate.given)
    drawn = evaluation.bootstrap(rows.scores, rows.weak, rows.strong, weights=rows.weights, draws=draws, seed=seed)
    high = float(np.nanquantile(drawn, LEVEL))
    text = f"the shipped scores rank all outcomes with an APGR of {high:.3f} or less (one-sided 90 %)"
    return Rail(name="plausible", ok=high >= LEAST_PLAUSIBLE, text=text)


def _scores(scorer: LearnedScorer, reservoir: Reservoir) -> Numbers:
    rows = (each.row for each in reservoir.rows)
    return np.array([scorer.score_hashed(row.values, row.words, row.pairs).value for row in rows])


def _mixed(reservoir: Reservoir, scores: Numbers) -> Ranked:
    """Return the reservoir: everyday and hard requests, mixed. No candidate has seen its labels."""
    weak, strong = (np.array([getattr(each, name) for each in reservoir.rows]) for name in ("weak", "strong"))
    return Ranked(scores, weak, strong, np.ones(len(scores)))


def _own(scorer: LearnedScorer, newest: Sequence[Lesson]) -> Ranked:
    """Return the newest outcomes. The larger model is taken to be right: what it adds is what the local one lacks."""
    personal = scorer.personal
    scores = [
        scorer.score_hashed(x.row.values, x.row.words, x.row.pairs).value
        if x.row
        else personal.shifted(unshifted(x.score, x.offset))
        if personal
        else unshifted(x.score, x.offset)
        for x in newest
    ]
    weak = np.array([1.0 - x.wrong for x in newest])
    return Ranked(np.array(scores), weak, np.ones(len(weak)), np.array([x.weight for x in newest]))


def _answered(reservoir: Reservoir, candidate: Candidate, scorer: LearnedScorer, cascade: AfterModel) -> Ranked:
    """Return rows whose local answer is known: of the reservoir and of the newest outcomes."""
    found = [(x.row, x.after, x.weak, x.strong) for x in reservoir.rows if x.after]
    found += [(x.row, x.after, 1.0 - x.wrong, 1.0) for x in candidate.newest if x.row and x.after]
    told = [(scorer.score_hashed(row.values, row.words, row.pairs), After.from_dict(after)) for row, after, *_ in found]
    scores = np.array([scorer.rank(cascade.gain(score, after)) for score, after in told])
    weak, strong = (np.array([each[n] for each in found], dtype=np.float64) for n in (2, 3))
    return Ranked(scores, weak, strong, np.ones(len(found)))


def _cascade(
    candidate: Candidate,
    reservoir: Reservoir,
    shipped: bytes,
    new: LearnedScorer,
    old: LearnedScorer,
    *,
    seed: int,
    draws: int,
) -> Rail:
    added = [each.personal.after if each.personal else {} for each in (new, old)]
    if added[0] == added[1]:
        return Rail(name="apgr_cascade", ok=True, text="no coefficient of the cascade has changed")
    rows = [
        _answered(reservoir, candidate, scorer, after_model_of(shipped, own))
        for scorer, own in zip((new, old), added, strict=True)
    ]
    return _not_lower("apgr_cascade", *rows, least=-NOISE, seed=seed, draws=draws)


# --- numbers that are read as what they say ---------------------------------------------------------------------------


def _calibrated(
    candidate: Candidate, current: Personal | None, reservoir: Reservoir, plain: LearnedScorer, seed: int
) -> Rail:
    """Compare stated and observed probabilities over all outcomes, less what chance alone would show.

    With few rows a perfect calibrator has an ECE above zero, too: the mean of outcomes drawn from its own
    probabilities is taken off (consistency resampling: Broecker and Smith 2007).
    """
    name, p_ok = "ece", candidate.personal.p_ok
    if p_ok is None or p_ok == (current.p_ok if current else None):
        text = "no probability is stated" if p_ok is None else "the calibrator has not changed"
        return Rail(name=name, ok=True, text=text)
    given = (*candidate.given, *candidate.quiet)
    odds = shipped_odds(plain, reservoir, given)
    stated = 1.0 / (1.0 + np.exp(-(p_ok[0] + p_ok[1] * odds)))
    weights = np.array([each.weight for each in given])
    raw = weighted_ece(stated, np.array([1.0 - each.wrong for each in given]), weights)
    rng = np.random.default_rng(seed)
    chance = float(np.mean([weighted_ece(stated, rng.random(len(stated)) < stated, weights) for _ in range(CHANCES)]))
    text = f"ECE {raw:.3f} over {len(candidate.given)} outcomes, {chance:.3f} of it expected by chance"
    return Rail(name=name, ok=raw - chance <= MOST_ECE, text=text)


def weighted_ece(stated: Numbers, right: NDArray[Any], weights: Numbers, *, bins: int = evaluation.BINS) -> float:
    """Return the expected calibration error of rows that count differently: `evaluation.ece` with weights."""
    place = np.minimum((stated * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=weights * (stated - right), minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def _budget(scores: Numbers, scorer: LearnedScorer, seed: int) -> Rail:
    """Let the budget controller run over the reservoir's scores in random order, at the price of a calm machine."""
    floor, rng = scorer.threshold(LEAVING), np.random.default_rng(seed)
    demand = scores >= floor
    errors = {}
    for share in SHARES:
        runs = [rng.integers(0, len(scores), RUN) for _ in range(BUDGET_RUNS)]
        found = [evaluation.budget_error(_sent(scores[run], share, floor), demand[run], share) for run in runs]
        errors[share] = float(np.mean(found))
    worst = max(errors, key=lambda share: (errors[share], share))
    text = f"at most {100 * errors[worst]:.1f} points off, with a budget of {worst:.0%}"
    return Rail(name="budget", ok=errors[worst] <= MOST_BUDGET_ERROR, text=text)


def _sent(scores: Numbers, share: float, floor: float) -> list[bool]:
    budget, sent = Budget(share=share), []
    for score in scores:
        sent.append(bool(score >= max(floor, threshold(budget))))
        budget = step(budget, score=float(score), floor=floor)
    return sent


def _moved(new: Numbers, others: Iterable[Numbers]) -> Rail:
    most = max(float(np.abs(new - other).max()) for other in others)
    return Rail(name="moved", ok=most <= MOST_MOVED, text=f"no score of the reservoir moves by more than {most:.3f}")


def _monotone(scorer: LearnedScorer, personal: Personal) -> Rail:
    """Look at every curve a correction can bend: more gain, need or probability must never mean less."""
    gains = [n / 200 for n in range(-200, 201)]
    curves = {
        "rank": [scorer.rank(g) for g in gains],
        "threshold": [scorer.threshold(g) for g in gains],
        "offset": [personal.shifted(n / 200) for n in range(201)],
        "p_ok": [personal.adequate(n / 200) for n in range(201)],
    }
    bent = [name for name, values in curves.items() if any(b < a for a, b in pairwise(values))]
    return Rail(name="monotone", ok=not bent, text=f"falls: {', '.join(bent)}" if bent else "every curve rises")


# --- what learning must not touch -------------------------------------------------------------------------------------

PROBES: Mapping[str, bool] = {
    "my card is 4111 1111 1111 1111": True,
    "mail jane.doe@example.com about it": True,
    "IBAN DE89 3704 0044 0532 0130 00": True,
    "call me at +1 415 555 2671 tonight": True,
    "my social security number is 536-90-4399": True,
    "password: hunter2Xy9!kQ": True,
    "set an alarm for seven": False,
    "what is 17 times 23": False,
    "order 4111 of 1111 arrived in 2024": False,
    "compare 3.14, 2.71 and 1.41": False,
}
"""Texts, made up, and whether they must stay on the device."""


def suites_digest() -> str:
    """Return a digest of what recognisers and labels are and say: names in their order, findings, labels."""
    said = [f"{each.__module__}.{each.__qualname__}" for each in RECOGNISERS]
    said += [repr(recognise(text, strict=strict)) for text in PROBES for strict in (False, True)]
    said += [f"{name} {route}" for name, route in _labels().items()]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _labels() -> dict[str, Route]:
    mail = from_source(Source(label="mail", text="m", kind="mail"))
    return {
        "typed": typed("a").max_route,
        "mail": mail.max_route,
        "unlabelled": unlabelled("a").max_route,
        "derived": derived("b", Labels((typed("a"), mail))).max_route,
        "nothing": Labels().strictest(),
    }


_EXPECTED = {name: Route.PRIVATE_CLOUD if name == "typed" else Route.ON_DEVICE for name in _labels()}


def _suites(before: str) -> Rail:
    wrong = sum(private(recognise(text)) is not stays for text, stays in PROBES.items())
    wrong += sum(_EXPECTED[name] is not route for name, route in _labels().items())
    same = suites_digest() == before
    text = f"{len(PROBES) + len(_EXPECTED) - wrong} of {len(PROBES) + len(_EXPECTED)} checks hold"
    return Rail(name="suites", ok=same and not wrong, text=text + ("" if same else "; they are not what they were"))


def _size(personal: Personal) -> Rail:
    size = len(personal.to_bytes())
    return Rail(name="size", ok=size <= MOST_BYTES, text=f"{size} bytes")


def _latency(new: LearnedScorer, plain: LearnedScorer, clock: Callable[[], float]) -> Rail:
    """Time both on one text in turns: the median must be short, or not much longer than with the shipped weights."""
    features = extract("Why does the balance of my account differ by 17 from what it was? " * 30)
    taken: dict[int, list[float]] = {id(new): [], id(plain): []}
    for scorer in (new, plain) * TIMED_CALLS:
        start = clock()
        scorer.score(features)
        taken[id(scorer)].append(clock() - start)
    own, shipped = (statistics.median(taken[id(each)]) for each in (new, plain))
    text = f"{1000 * own:.2f} ms for 2,000 characters, {1000 * shipped:.2f} ms with the shipped weights"
    return Rail(name="latency", ok=own <= max(MOST_SECONDS, SLOWER * shipped), text=text)
