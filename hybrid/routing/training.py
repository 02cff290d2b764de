"""Refitting the router to one user's outcomes, on the device: routing design C10. Numbers in, numbers out.

From the decision log alone, which holds no features, only the calibrator and the offset of the gain are refitted; they
move scores and never their order. With kept examples the linear head and the cascade follow, pulled to the shipped
weights and held by the reservoir. Trees are never refitted. Nothing is drawn: same rows, same candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .cascade import After, after_model_of, log_odds
from .complexity import LearnedScorer
from .evidence import Lesson, Lessons
from .features import CONVERSATION, extract
from .log import STEPS
from .logistic import Numbers, logistic, newton, sigmoid
from .personal import BUCKETS, MOST_ADDED, MOST_SLOPE, Personal, digest, logit
from .personal import STEPS as KEPT_STEPS
from .reservoir import FeatureRow, Reservoir

LEAST_OUTCOMES = 50
LEAST_CALIBRATED = 500
"""Outcomes of the local model from which its P(adequate) is called a probability. The routing design (C4) asks for 300
at least; on unseen kinds its ECE was 0.050 with so many, 0.047 with these."""

DAY_SHARE = 0.20
"""The most that outcomes of one day may weigh in all."""

NEWEST = 0.2
"""The newest outcomes, by which a candidate is judged and to which it is not fitted."""

RESERVOIR_WEIGHT = 200.0
"""What the reservoir weighs beside the outcomes, and how many outcomes the pull to the shipped offset is worth."""

PULL = 0.001
"""L2 pull of the linear head's additions to none, beside a mean loss."""

PLATT_PULL = 1.0
"""L2 pull of the calibrator to the identity, in outcomes."""

AFTER_PULL = 20.0
"""L2 pull of the cascade's additions to none, in outcomes."""

MOST_MOVED = 0.25
"""The most that any score of the reservoir may move (guardrail of C10)."""

ROOM = 0.23
"""What a candidate uses of it, since scores and additions are rounded a little more when they are kept."""

OFFSET_SPREAD = 0.05
"""Standard deviation of the pull of the offset to none."""

MOST_BUCKETS = 4096
"""Additions that are kept, the largest first."""

LEAST_SHARED = 3
"""Kept questions that must hold a bucket for it to get an addition: the correction is in clear and does not expire, so
no single question may be looked up in it."""

ROUNDS = 150
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
    linear = _fit_linear(held, own, reservoir, old, weights)
    offset = _fit_offset(scorer, own, linear, (*old, *given.quiet), np.r_[weights, [q.weight for q in given.quiet]])
    linear = _within(scorer, held, linear, offset)
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


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as the linear head sees them: the heads' sum is ``z`` with no additions, z + scale * their sum with them.

    buckets: of all rows one after the other.  owner: the row of each.  around: gain from what is around the text.
    """

    z: Numbers
    scale: Numbers
    buckets: NDArray[np.int64]
    owner: NDArray[np.int64]
    around: Numbers

    @classmethod
    def of(cls, scorer: LearnedScorer, rows: Sequence[FeatureRow]) -> "Table":
        """Take rows apart. scorer: of the shipped weights, with no correction."""
        both = [sorted(row.words | row.pairs) for row in rows]
        sizes = [len(each) for each in both]
        model = scorer.model
        doubt = np.array([model.novel(model.linear.novelty(row.words)) for row in rows])
        around = [sum(w * row.values[n] for n, w in zip(CONVERSATION, model.around, strict=True)) for row in rows]
        return cls(
            z=np.array([scorer.standard(row.values, row.words, row.pairs) for row in rows], dtype=np.float64),
            scale=(1.0 - doubt) / np.sqrt(np.maximum(1, sizes)),
            buckets=np.array([bucket for each in both for bucket in each], dtype=np.int64),
            owner=np.repeat(np.arange(len(rows)), sizes),
            around=np.array(around, dtype=np.float64),
        )

    def plus(self, other: "Table") -> "Table":
        """Return these rows, then others."""
        return Table(
            z=np.r_[self.z, other.z],
            scale=np.r_[self.scale, other.scale],
            buckets=np.r_[self.buckets, other.buckets],
            owner=np.r_[self.owner, other.owner + len(self.z)],
            around=np.r_[self.around, other.around],
        )

    def sums(self, additions: Numbers) -> Numbers:
        """Return the heads' sums with additions by bucket, shape (65536,)."""
        parts = np.bincount(self.owner, weights=additions[self.buckets], minlength=len(self.z))
        return np.asarray(self.z + self.scale * parts)

    def gains(self, scorer: LearnedScorer, additions: Numbers) -> Numbers:
        """Return the expected gains that a scorer with these additions would give, without offset."""
        table = scorer.model.gain
        return np.asarray(np.interp(self.sums(additions), table.xs, table.ys) + self.around)


def _dense(linear: Mapping[int, float]) -> Numbers:
    additions = np.zeros(BUCKETS)
    additions[list(linear)] = list(linear.values())
    return additions


def _ranks(scorer: LearnedScorer, gains: Numbers) -> Numbers:
    table = scorer.model.rank
    return np.interp(gains, table.xs, table.ys).clip(0.0, 1.0)


def _gains(scorer: LearnedScorer, ranks: Numbers) -> Numbers:
    table = scorer.model.back
    return np.asarray(np.interp(ranks, table.xs, table.ys), dtype=np.float64)


def _shifted(ranks: Numbers, offset: float) -> Numbers:
    """Move ranks as `Personal.shifted` does."""
    return ranks + 4.0 * offset * ranks * (1.0 - ranks)


def unshifted(score: float, offset: float) -> float:
    """Return the rank that `Personal.shifted` moved to a score: the smaller root of its parabola."""
    b = 1.0 + 4.0 * offset
    root: float = max(0.0, b * b - 16.0 * offset * score) ** 0.5
    return 2.0 * score / (b + root)


def _logged(given: Sequence[Lesson]) -> Numbers:
    """Return logged scores without the offset of their time."""
    return np.array([unshifted(lesson.score, lesson.offset) for lesson in given])


# --- the linear head --------------------------------------------------------------------------------------------------


def _fit_linear(
    held: Table, own: Table, reservoir: Reservoir, old: Sequence[Lesson], weights: Numbers
) -> dict[int, float]:
    """Fit additions to the linear head by logistic regression of "the larger model was needed" on the heads' sum.

    Intercept and slope come from the reservoir with no addition. The rows are the outcomes with features, and the
    reservoir's with what the shipped weights say of them, not with their labels (learning without forgetting: Li and
    Hoiem 2016); those are for judging. The outcomes have an intercept of their own, so that a local model that is worse
    all over does not end in the words. Empty where nothing with features tells anything.
    """
    told = [(lesson.wrong, w) for lesson, w in zip(old, weights, strict=True) if lesson.row]
    if len({wrong for wrong, _ in told}) < 2:  # noqa: PLR2004 - right and wrong
        return {}
    needed = np.array([max(0.0, each.strong - each.weak) for each in reservoir.rows])
    line = logistic(held.z, needed, np.ones(len(needed)), prior=(0.0, 1.0), pull=1.0)
    count = len(held.z)
    shipped = sigmoid(line[0] + line[1] * held.z)
    target = np.r_[shipped, [wrong for wrong, _ in told]]
    weight = np.r_[np.full(count, RESERVOIR_WEIGHT / count), [w for _, w in told]]
    return _descend(held.plus(own), line, target, weight / weight.sum(), np.arange(len(target)) >= count)


def _descend(
    rows: Table, line: tuple[float, float], target: Numbers, weight: Numbers, own: NDArray[np.bool_]
) -> dict[int, float]:
    """Minimise sum of weight * log loss + PULL / 2 * |additions|^2 by Nesterov's accelerated gradient.

    A row's buckets share one over the root of their number, so its squared norm is at most 1 and the loss is smooth
    with L <= (slope^2 + 1) / 4 + PULL: the step 1 / L needs no search. Nesterov 1983; O'Donoghue and Candes 2015 for
    starting the momentum anew when it points uphill. Only buckets that `LEAST_SHARED` outcomes hold get an addition.
    """
    names, place = np.unique(rows.buckets, return_inverse=True)
    shared = np.bincount(place, weights=own[rows.owner], minlength=len(names)) >= LEAST_SHARED
    intercept, slope = line
    step = 1.0 / ((slope**2 + 1.0) / 4.0 + PULL)
    at = ahead = np.zeros(len(names) + 1)  # the last one is the intercept of the outcomes
    momentum = 0.0
    for _ in range(ROUNDS):
        sums = rows.z + rows.scale * np.bincount(rows.owner, weights=ahead[place], minlength=len(rows.z))
        error = weight * (sigmoid(intercept + slope * sums + ahead[-1] * own) - target)
        slopes = slope * np.bincount(place, weights=(error * rows.scale)[rows.owner], minlength=len(names))
        downhill = -np.r_[(slopes + PULL * ahead[:-1]) * shared, error[own].sum()]
        after = ahead + step * downhill
        momentum = 0.0 if downhill @ (after - at) < 0 else momentum + 1.0
        ahead = after + momentum / (momentum + 3.0) * (after - at)
        at = after
    largest = np.argsort(-np.abs(at[:-1]), kind="stable")[:MOST_BUCKETS]
    return {int(names[n]): float(at[n].clip(-MOST_ADDED, MOST_ADDED)) for n in sorted(largest) if at[n]}


# --- the cascade ------------------------------------------------------------------------------------------------------


def _fit_after(
    shipped: bytes, made: Personal, reservoir: Reservoir, old: Sequence[Lesson], weights: Numbers
) -> dict[str, float]:
    """Fit additions to the cascade's coefficients: logistic regression of (gain + 1) / 2, its own unit.

    The reservoir's rows hold it to what the shipped coefficients say, as in `_fit_linear`.
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
    ranks[has] = _ranks(scorer, own.gains(scorer, _dense(linear)))
    wrong = np.array([lesson.wrong for lesson in given])

    def loss(offset: float) -> float:
        p = _gains(scorer, _shifted(ranks, offset)).clip(0.01, 0.99)
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


def _within(scorer: LearnedScorer, held: Table, linear: Mapping[int, float], offset: float) -> dict[int, float]:
    """Shrink additions until, as they are kept and with the offset, they move no score of the reservoir too far.

    Those of the buckets of a row that moves too far are shrunk by as much as the row needs, again and again; the others
    stay as they are.
    """
    before = _ranks(scorer, held.gains(scorer, np.zeros(BUCKETS)))
    additions = _dense(linear)
    for _ in range(ROUNDS):
        kept = _rounded(additions)
        after = _shifted(_ranks(scorer, held.gains(scorer, kept)), offset)
        too_far = np.maximum(1.0, np.abs(after - before) / ROOM)
        if too_far.max() <= 1.0:
            return {int(n): float(kept[n]) for n in np.flatnonzero(kept)}
        shrink = np.ones(BUCKETS)
        np.minimum.at(shrink, held.buckets, np.where(too_far > 1.0, 0.98 / too_far, 1.0)[held.owner])
        additions = additions * shrink
    return {}


def _rounded(additions: Numbers) -> Numbers:
    unit = np.abs(additions).max() / KEPT_STEPS
    return np.asarray(np.round(additions / unit) * unit) if unit else additions
