"""One attempt to fit the router to its user: evidence in, a judged correction out. Routing design C10.

Everything stays on this device. The old model stays unless every guardrail holds, and what was decided is remembered
in `learning`'s history, with its reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import learning
from .decision_log import DecisionLog
from .examples_store import Example, ExampleStore
from .learning import History, Version
from .routing.complexity import LearnedScorer
from .routing.evidence import Kept
from .routing.features import extract
from .routing.log import DecisionRecord
from .routing.personal import PersonalError, digest
from .routing.reservoir import FeatureRow, Reservoir
from .weights import shipped
from .wire.types import Route

if TYPE_CHECKING:
    from .routing.evidence import Lessons
    from .routing.guardrails import Rail, Verdict
    from .routing.training import Candidate

FILE = "reservoir-1.json"
DAY_S = 86_400
CLOCK_SLACK_S = 600
AGREES = 0.8
"""Likeness from which two answers say the same: F1 of their words (Rajpurkar et al. 2016)."""

MOST_REPLAYED = 20
"""Stored questions that are asked again in one attempt."""

_WORD = re.compile(r"\w+")

Ask = Callable[[str], str]
"""Answers one question with the local model alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How an attempt ended.

    reason: a stable word: promoted, dry_run, rails, too_few, one_class, out_of_range, too_soon, clock.  text: one
    sentence.  version: of the correction in use now, 0 for the shipped weights.  outcomes, new: outcomes known, and
    those not learned from before.  featured: of those that were fitted, how many had kept features.
    """

    reason: str
    text: str
    version: int = 0
    outcomes: int = 0
    new: int = 0
    featured: int = 0
    replayed: int = 0
    evidence: Mapping[str, int] = field(default_factory=dict)
    rails: "tuple[Rail, ...]" = ()

    @property
    def promoted(self) -> bool:
        """Whether another correction is in use now."""
        return self.reason == "promoted"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rails = [{"name": rail.name, "ok": rail.ok, "text": rail.text} for rail in self.rails]
        named = ("reason", "text", "version", "outcomes", "new", "featured", "replayed")
        plain = {name: getattr(self, name) for name in named}
        return {"promoted": self.promoted, **plain, "evidence": dict(self.evidence), "rails": rails}


@cache
def reservoir() -> Reservoir:
    """Return the installed reservoir. Raises FileNotFoundError or ReservoirError for an incomplete installation."""
    return Reservoir.from_bytes(files("hybrid.routing").joinpath("weights", FILE).read_bytes())


def retrain(
    folder: Path,
    log: DecisionLog,
    *,
    now: float,
    store: ExampleStore | None = None,
    ask: Ask | None = None,
    dry_run: bool = False,
    seed: int = 0,
) -> Report:
    """Try to fit a correction to what is logged, and promote it if every guardrail holds.

    folder: the state folder.  now: Unix seconds.  store: kept questions, None without opt-in.  ask: the local model for
    idle replay, None where the machine is busy or on battery.  dry_run: judge, and change nothing.
    Raises ConfigurationError for files that can't be read or written, UnavailableError without the store's keychain.
    """
    learning.review(folder, log.rows)
    before = learning.history(folder)
    if early := _too_early(before, now, dry_run=dry_run):
        return early if dry_run else _ended(folder, before, early, ran_at=int(now) if early.reason == "clock" else None)
    replayed = _replay(store, ask) if store and ask else 0
    kept = _kept(store.examples()) if store else {}
    report, candidate = _attempt(folder, log.rows(), kept, before, now=now, seed=seed)
    report = replace(report, replayed=replayed)
    if dry_run:
        return replace(report, reason="dry_run") if report.promoted else report
    if candidate is None:
        return _ended(folder, before, report)
    used_until = max(lesson.minute for lesson in candidate.given)
    return _settled(folder, log.rows(), candidate, report, ran_at=int(now), used_until=used_until, now=now)


def calibrate(
    folder: Path, log: DecisionLog, recorded: Iterable[tuple[str, str, float]], *, now: float, dry_run: bool = False
) -> Report:
    """Fit P(device adequate) to recordings of the local model, and promote it if every guardrail holds.

    recorded: id, prompt and quality 0..1 of each answer, as ``hybrid eval record`` writes them.  Order and level of
    scores stay.  Raises ConfigurationError for files that can't be read or written.
    """
    from .routing import guardrails, training

    before, weights, suites = learning.history(folder), shipped(), guardrails.suites_digest()
    used = learning.current(folder, base=digest(weights))
    lessons = [training.recording(name, prompt, right, now=now) for name, prompt, right in recorded]
    about: dict[str, Any] = {"outcomes": len(lessons), "new": len(lessons)}
    try:
        candidate = training.calibrate(lessons, reservoir(), weights, used, version=before.highest + 1, now=now)
    except training.NotEnoughError as error:
        return _kept_old(before, error.reason, str(error), **about)
    verdict = guardrails.judge(candidate, used, reservoir(), weights, suites=suites)
    report = _judged(before, candidate, verdict, about)
    if dry_run:
        return replace(report, reason="dry_run") if report.promoted else report
    return _settled(folder, log.rows(), candidate, report, ran_at=before.ran_at, used_until=before.used_until, now=now)


def _too_early(before: History, now: float, *, dry_run: bool) -> Report | None:
    if before.ran_at is None:
        return None
    if now < before.ran_at - CLOCK_SLACK_S:
        return _kept_old(before, "clock", "the clock was set back since the last attempt; try again in a day")
    if now - before.ran_at < DAY_S and not dry_run:
        return _kept_old(before, "too_soon", "the last attempt was less than a day ago")
    return None


def _kept_old(before: History, reason: str, text: str, **more: Any) -> Report:
    return Report(reason=reason, text=text, version=before.used.version if before.used else 0, **more)


def _attempt(
    folder: Path,
    records: Sequence[DecisionRecord],
    kept: Mapping[str, Kept],
    before: History,
    *,
    now: float,
    seed: int,
) -> "tuple[Report, Candidate | None]":
    """Fit and judge; None where nothing was fitted. The report says promoted where every rail holds."""
    from .routing import evidence, guardrails, training

    given = evidence.lessons(records, kept, now=now, offsets=learning.offsets(before))
    about = _about(given, before)
    if given.future:
        text = f"{given.future} decisions claim to be from the future: the clock was set back"
        return _kept_old(before, "clock", text, **about), None
    if about["new"] < training.LEAST_OUTCOMES:
        text = f"{about['new']} new outcomes; {training.LEAST_OUTCOMES} are needed"
        return _kept_old(before, "too_few", text, **about), None
    weights, suites = shipped(), guardrails.suites_digest()
    used = learning.current(folder, base=digest(weights))
    p_ok = used.p_ok if used else None
    try:
        candidate = training.retrain(given, reservoir(), weights, version=before.highest + 1, now=now, p_ok=p_ok)
    except training.NotEnoughError as error:
        return _kept_old(before, error.reason, str(error), **about), None
    except PersonalError as error:
        return _kept_old(before, "out_of_range", str(error), **about), None
    verdict = guardrails.judge(candidate, used, reservoir(), weights, suites=suites, seed=seed)
    return _judged(before, candidate, verdict, about | {"featured": candidate.featured}), candidate


def _judged(before: History, candidate: "Candidate", verdict: "Verdict", about: dict[str, Any]) -> Report:
    about |= {"rails": verdict.rails}
    if not verdict.ok:
        return _kept_old(before, "rails", f"the old model stays: {', '.join(verdict.broken)}", **about)
    return Report(reason="promoted", text="every guardrail holds", version=candidate.personal.version, **about)


def _about(given: "Lessons", before: History) -> dict[str, Any]:
    counts = Counter(str(lesson.evidence) for lesson in given.outcomes)
    return {
        "outcomes": len(given.outcomes),
        "new": sum(lesson.minute > before.used_until for lesson in given.outcomes),
        "evidence": dict(sorted(counts.items())),
    }


# --- what is remembered of it -----------------------------------------------------------------------------------------


def _ended(folder: Path, before: History, report: Report, *, ran_at: int | None = None) -> Report:
    """Remember why the old model stays."""
    with learning.changing(folder) as now_kept:
        learning.save(folder, replace(now_kept, last=report.reason, ran_at=ran_at or now_kept.ran_at))
    learning.tell("learning_kept_old", reason=report.reason, version=before.highest)
    return report


def _settled(
    folder: Path,
    records: Sequence[DecisionRecord],
    candidate: "Candidate",
    report: Report,
    *,
    now: float,
    ran_at: int | None,
    used_until: int,
) -> Report:
    """Remember a fit, and put its correction in use where every rail held and no other process was faster."""
    with learning.changing(folder) as kept:
        if kept.highest >= candidate.personal.version and report.promoted:
            return _kept_old(kept, "too_soon", "another process has just promoted a correction")
        after = replace(kept, ran_at=ran_at, used_until=used_until, last=report.reason)
        if report.promoted:
            after = learning.promoted(folder, after, candidate.personal, _version(candidate, records, now))
        learning.save(folder, after)
    broken = ",".join(rail.name for rail in report.rails if not rail.ok)
    learning.tell("learning_" + ("promoted" if report.promoted else "kept_old"), reason=report.reason, rails=broken)
    return report


def _version(candidate: "Candidate", records: Sequence[DecisionRecord], now: float) -> Version:
    """Return what is kept beside a correction: with the overrides before it, by which it is reviewed."""
    personal = candidate.personal
    return Version(
        version=personal.version,
        sha256=digest(personal.to_bytes()),
        at=int(now),
        model=LearnedScorer.from_bytes(shipped(), personal).version,
        offset=personal.offset,
        requests=len(records),
        overrides=sum(record.outcome.overridden is not None for record in records),
    )


# --- the opt-in store -------------------------------------------------------------------------------------------------


def _kept(examples: Iterable[Example]) -> dict[str, Kept]:
    return {each.request_id: Kept(row=_row(each), after=each.after, agrees=each.agrees) for each in examples}


def _row(example: Example) -> FeatureRow:
    features = extract(example.text)
    return FeatureRow.of(replace(features, values={**features.values, **_known(example, features.values)}))


def _known(example: Example, names: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in example.around.items() if name in names}


def _replay(store: ExampleStore, ask: Ask) -> int:
    """Let the local model answer questions that had gone to the node; returns how many it was asked.

    What it says is compared and forgotten; whether it agrees is noted beside the question.
    """
    waiting = [each for each in store.examples() if each.route is Route.PRIVATE_CLOUD and each.answer]
    chosen = [each for each in waiting if each.agrees is None][:MOST_REPLAYED]
    for example in chosen:
        store.note(replace(example, agrees=agree(ask(example.text), example.answer or "")))
    return len(chosen)


def agree(one: str, other: str) -> bool:
    """Whether two answers say the same: the F1 of their words, each as often as it occurs, is `AGREES` or more."""
    a, b = (Counter(_WORD.findall(text.casefold())) for text in (one, other))
    common = (a & b).total()
    return common > 0 and 2 * common / (a.total() + b.total()) >= AGREES
