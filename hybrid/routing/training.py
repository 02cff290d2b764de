"""Refitting the router to one user's outcomes, on the device: routing design C10. Numbers in, numbers out.

From the decision log alone, which holds no features, only the calibrator and the offset of the gain are refitted; they
move scores and never their order. With kept examples the linear head and the cascade follow, pulled to the shipped
weights and held by the reservoir. Trees are never refitted. Nothing is drawn: same rows, same candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .cascade import After, after_model_of, log_odds
from .complexity import LearnedScorer
from .evidence import Lesson, Lessons
from .features import extract
from .linear_fit import (
    RESERVOIR_WEIGHT,
    ROOM,
    Table,
    dense,
    fit_linear,
    gains_of,
    ranks_of,
    shifted,
    within,
)
from .log import STEPS
from .logistic import Numbers, logistic, newton, sigmoid
from .personal import MOST_ADDED, MOST_SLOPE, Personal, digest, logit
from .reservoir import FeatureRow, Reservoir

LEAST_OUTCOMES = 50
LEAST_CALIBRATED = 500
"""Outcomes of the local model from which its P(adequate) is called a probability. The routing design (C4) asks for 300
at least; on unseen kinds its ECE was 0.050 with so many, 0.047 with these."""

DAY_SHARE = 0.20
"""The most that outcomes of one day may weigh in all."""

NEWEST = 0.2
"""The newest outcomes, by which a candidate is judged and to which it is not fitted."""

PLATT_PULL = 1.0
"""L2 pull of the calibrator to the identity, in outcomes."""

AFTER_PULL = 20.0
"""L2 pull of the cascade's additions to none, in outcomes."""

OFFSET_SPREAD = 0.05
"""Standard deviation of the pull of the offset to none."""

DAY_S = 86_400


class NotEnoughError(ValueError):
    """There is nothing to learn from. reason: a stable word, too_few or one_class."""

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep the stable word beside the sentence."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A correction that has not been judged yet.

    given: all outcomes, oldest first.  newest: those it was not fitted to, by which it is judged.
    quiet: answers of the device that nobody said anything of.  featured: outcomes it was fitted to that had features.
    """

    personal: Personal
    given: tuple[Lesson, ...] = field(repr=False)
    newest: tuple[Lesson, ...] = field(repr=False)
    quiet: tuple[Lesson, ...] = field(repr=False)
    featured: int


def day_capped(given: Sequence[Lesson], beside: float = RESERVOIR_WEIGHT) -> Numbers:
    """Return the weights of some outcomes with every day scaled to at most `DAY_SHARE` of all weight.

    beside: weight that belongs to no day: the reservoir's.  The cap c solves c = share * (sum of min(day, c) + beside).
    """
    weights = np.array([lesson.weight for lesson in given], dtype=np.float64)
    days, place = np.unique([lesson.day for lesson in given], return_inverse=True)
    sums = np.bincount(place, weights=weights, minlength=len(days))
    cap = float(sums.sum() + beside)
    for _ in range(200):  # converges geometrically; the fixed point is unique for share < 1
        cap = DAY_SHARE * float(np.minimum(sums, cap).sum() + beside)
    scale = np.minimum(1.0, cap / np.maximum(sums, 1e-12))
    return np.asarray(weights * scale[place])


# --- the fit ----------------------------------------------------------------------------------------------------------


def retrain(
    given: Lessons,
    reservoir: Reservoir,
    shipped: bytes,
    *,
    version: int,
    now: float,
    p_ok: tuple[float, float] | None = None,
) -> Candidate:
    """Fit a correction of the shipped weights to all but the newest fifth of the outcomes. Same inputs, same bytes.

    version: the new correction's.  now: Unix seconds.  p_ok: the calibrator in use, which stays where too few outcomes
    are known for another.  Raises NotEnoughError where nothing can be learned, PersonalError for numbers that went out
    of their range.
    """
    old, newest = split(given.outcomes)
    weights = day_capped(old)
    scorer = LearnedScorer.from_bytes(shipped)
    held = Table.of(scorer, [each.row for each in reservoir.rows])
    own = Table.of(scorer, [row for lesson in old if (row := lesson.row)])
    linear = fit_linear(held, own, reservoir, old, weights)
    offset = _fit_offset(scorer, own, linear, (*old, *given.quiet), np.r_[weights, [q.weight for q in given.quiet]])
    linear = within(scorer, held, linear, offset)
    made = Personal(
        base=digest(shipped),
        version=version,
        day=int(now // DAY_S),
        outcomes=len(old),
        offset=offset,
        p_ok=_fit_calibrator(scorer, reservoir, old, weights, given.quiet) or p_ok,
        linear=linear,
    )
    made = replace(made, after=_fit_after(shipped, made, reservoir, old, weights))
    return Candidate(
        personal=Personal.from_bytes(made.to_bytes(), base=made.base),  # what is judged is what would be kept
        given=given.outcomes,
        newest=tuple(newest),
        quiet=given.quiet,
        featured=sum(lesson.row is not None for lesson in old),
    )


def calibrate(
    recorded: Sequence[Lesson], reservoir: Reservoir, shipped: bytes, used: Personal | None, *, version: int, now: float
) -> Candidate:
    """Fit the calibrator alone, to recordings of the local model on rows with a known answer; the rest stays as it is.

    recorded: of `recording`.  used: the correction in use.  Raises NotEnoughError below `LEAST_CALIBRATED` rows.
    """
    if len(recorded) < LEAST_CALIBRATED:
        raise NotEnoughError(f"{len(recorded)} recordings; {LEAST_CALIBRATED} are needed", reason="too_few")
    scorer, weights = LearnedScorer.from_bytes(shipped), np.array([lesson.weight for lesson in recorded])
    p_ok = _fit_calibrator(scorer, reservoir, recorded, weights, ())
    plain = used or Personal(base=digest(shipped), version=version, day=0)
    made = replace(plain, version=version, day=int(now // DAY_S), outcomes=len(recorded), p_ok=p_ok)
    return Candidate(personal=made, given=tuple(recorded), newest=(), quiet=(), featured=0)


def recording(name: str, prompt: str, right: float, *, now: float) -> Lesson:
    """Return a recording as an outcome. right: 0..1, quality of the local answer."""
    return Lesson(
        id=name, minute=int(now // 60), score=0.5, wrong=1.0 - right, weight=1.0, evidence=None,
        row=FeatureRow.of(extract(prompt)),
    )  # fmt: skip


def split(given: Sequence[Lesson]) -> tuple[Sequence[Lesson], Sequence[Lesson]]:
    """Return the older outcomes and the newest fifth. Raises NotEnoughError."""
    if len(given) < LEAST_OUTCOMES:
        raise NotEnoughError(f"{len(given)} outcomes; {LEAST_OUTCOMES} are needed", reason="too_few")
    at = len(given) - round(NEWEST * len(given))
    for part, age in ((given[:at], "older"), (given[at:], "newest")):
        if not _both(part):
            raise NotEnoughError(f"the {age} outcomes are all right or all wrong", reason="one_class")
    return given[:at], given[at:]


def _both(given: Iterable[Lesson]) -> bool:
    return {lesson.wrong for lesson in given} == {0.0, 1.0}


def unshifted(score: float, offset: float) -> float:
    """Return the rank that `Personal.shifted` moved to a score: the smaller root of its parabola."""
    b = 1.0 + 4.0 * offset
    root: float = max(0.0, b * b - 16.0 * offset * score) ** 0.5
    return 2.0 * score / (b + root)


def _logged(given: Sequence[Lesson]) -> Numbers:
    """Return logged scores without the offset of their time."""
    return np.array([unshifted(lesson.score, lesson.offset) for lesson in given])


# --- the cascade ------------------------------------------------------------------------------------------------------


def _fit_after(
    shipped: bytes, made: Personal, reservoir: Reservoir, old: Sequence[Lesson], weights: Numbers
) -> dict[str, float]:
    """Fit additions to the cascade's coefficients: logistic regression of (gain + 1) / 2, its own unit.

    The reservoir's rows hold it to what the shipped coefficients say, as in `fit_linear`.
    made: the correction so far, since the prompt's gain goes in.  Empty below 50 outcomes with signals of the answer.
    """
    own = [(x.row, x.after, x.wrong, w) for x, w in zip(old, weights, strict=True) if x.row and x.after]
    if len(own) < LEAST_OUTCOMES or len({gain for _, _, gain, _ in own}) < 2:  # noqa: PLR2004 - right and wrong
        return {}
    fit = [each for each in reservoir.rows if each.after]
    beside = [(x.row, x.after, None, RESERVOIR_WEIGHT / len(fit)) for x in fit]
    scorer, model = LearnedScorer.from_bytes(shipped, made), after_model_of(shipped)
    names = ("bias", "prompt", *model.terms)
    rows, starts = [], []
    for row, after, _, _ in (*own, *beside):
        score = scorer.score_hashed(row.values, row.words, row.pairs)
        signals = After.from_dict(after or {})
        parts = model.parts(score, signals)
        rows.append([parts.get(name, 0.0) for name in names])
        starts.append(log_odds(model.gain(score, signals)))
    given = [gain for _, _, gain, _ in (*own, *beside)]
    target = np.array(
        [sigmoid(z) if gain is None else (gain + 1) / 2 for gain, z in zip(given, np.array(starts), strict=True)]
    )
    weight = np.array([w for *_, w in (*own, *beside)])
    added = newton(
        np.array(rows).T, target, weight, start=np.array(starts), prior=np.zeros(len(names)), pull=AFTER_PULL
    )
    return {
        name: round(float(value.clip(-MOST_ADDED, MOST_ADDED)), 6) for name, value in zip(names, added, strict=True)
    }


# --- what moves scores and never their order --------------------------------------------------------------------------


def _fit_offset(
    scorer: LearnedScorer, own: Table, linear: Mapping[int, float], given: Sequence[Lesson], weights: Numbers
) -> float:
    """Return the offset under which expected gains explain best what was needed, pulled to none.

    The shipped table is read as the probability that the larger model is needed; loss is its weighted log loss, plus
    (offset / OFFSET_SPREAD)^2 / 2, over a grid of hundredths up to half of `ROOM`: the other half is for the words.
    """
    ranks = _logged(given)
    has = [lesson.row is not None and lesson.evidence is not None for lesson in given]
    ranks[has] = ranks_of(scorer, own.gains(scorer, dense(linear)))
    wrong = np.array([lesson.wrong for lesson in given])

    def loss(offset: float) -> float:
        p = gains_of(scorer, shifted(ranks, offset)).clip(0.01, 0.99)
        return float(
            -(weights * np.where(wrong > 0, np.log(p), np.log1p(-p))).sum() + (offset / OFFSET_SPREAD) ** 2 / 2
        )

    grid = [n / 100 for n in range(-round(100 * ROOM / 2), round(100 * ROOM / 2) + 1)]
    return min(grid, key=lambda offset: (loss(offset), abs(offset)))


def _fit_calibrator(
    scorer: LearnedScorer, reservoir: Reservoir, old: Sequence[Lesson], weights: Numbers, quiet: Sequence[Lesson]
) -> tuple[float, float] | None:
    """Fit intercept and slope over the shipped log-odds (Platt 1999), pulled to (0, 1); None while they are too few."""
    if len(old) < LEAST_CALIBRATED:
        return None
    given = (*old, *quiet)
    right = 1.0 - np.array([lesson.wrong for lesson in given])
    odds = shipped_odds(scorer, reservoir, given)
    weight = np.r_[weights, [lesson.weight for lesson in quiet]]
    intercept, slope = logistic(odds, right, weight, prior=(0.0, 1.0), pull=PLATT_PULL)
    if slope <= 0:  # the shipped head tells nothing here: one probability for all
        intercept, slope = logistic(0 * odds, right, weight, prior=(0.0, 0.0), pull=PLATT_PULL)
    return round(intercept, 6), round(min(MOST_SLOPE, slope), 6)


def shipped_odds(scorer: LearnedScorer, reservoir: Reservoir, given: Sequence[Lesson]) -> Numbers:
    """Return the shipped log-odds of "device adequate" of some outcomes.

    The log keeps no such probability (with the score it would be a key to the text), so without features it is the mean
    of the reservoir's rows around the same score.
    """
    odds = np.zeros(len(given))
    bare = [n for n, lesson in enumerate(given) if lesson.row is None]
    if bare:
        odds[bare] = np.interp(_logged([given[n] for n in bare]), *_mean_odds(scorer, reservoir))
    for n, lesson in enumerate(given):
        if row := lesson.row:
            odds[n] = logit(scorer.score_hashed(row.values, row.words, row.pairs).p_ok or 0.0)
    return odds


def _mean_odds(scorer: LearnedScorer, reservoir: Reservoir) -> tuple[Numbers, Numbers]:
    """Return the middles of the logged steps of the score that the reservoir has, and the mean log-odds in each."""
    shown = [scorer.score_hashed(r.row.values, r.row.words, r.row.pairs) for r in reservoir.rows]
    steps = np.minimum(STEPS - 1, (np.array([s.value for s in shown]) * STEPS).astype(np.int64))
    held, place = np.unique(steps, return_inverse=True)
    return (held + 0.5) / STEPS, np.bincount(place, weights=[logit(s.p_ok or 0.0) for s in shown]) / np.bincount(place)
