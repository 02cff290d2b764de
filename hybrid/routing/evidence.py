"""What the decision log and kept questions say about the local model: outcomes, their labels and weights.

The table of routing design C10, read row by row; nothing is fitted here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from hybrid.wire.types import Route

from .log import STEPS, DecisionRecord
from .reservoir import FeatureRow

MOST_RATIO = 10.0
"""Inverse-propensity weights are clipped here."""

QUIET = 0.05
"""What an answer of the device counts that nobody said anything of, as right, for the calibrator and the offset alone:
people complain more often than they praise, and without it every probability would be that of a complaint."""

CLOCK_SLACK_MIN = 10


class Evidence(StrEnum):
    """What an outcome rests on; `WEIGHTS` says how much it counts."""

    OVERRIDE = "override"
    VERDICT = "verdict"
    DOUBT_CONFIRMED = "doubt_confirmed"
    DOUBT_DENIED = "doubt_denied"
    REPLAY = "replay"
    FAILED = "failed"
    AGAIN = "again"


WEIGHTS: Mapping[Evidence, float] = {
    Evidence.OVERRIDE: 1.0,
    Evidence.VERDICT: 1.0,
    Evidence.DOUBT_CONFIRMED: 0.7,
    Evidence.DOUBT_DENIED: 0.7,
    Evidence.REPLAY: 0.7,
    Evidence.FAILED: 0.5,
    Evidence.AGAIN: 0.3,
}

NO_OFFSETS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One outcome as training sees it.

    minute: Unix minutes.  score: 0..1, the middle of its step of the log.  offset: that was in this score.
    wrong: 1.0 where the local answer was not good enough, 0.0 where it was.  weight: of its evidence, times the clipped
    inverse propensity.  evidence: None for an answer of the device that nobody said anything of.
    row, after: what was kept with opt-in, else None.
    """

    id: str
    minute: int
    score: float
    wrong: float
    weight: float
    evidence: Evidence | None
    offset: float = 0.0
    row: FeatureRow | None = field(default=None, repr=False)
    after: Mapping[str, float] | None = field(default=None, repr=False)

    @property
    def day(self) -> int:
        """Days since 1970, UTC."""
        return self.minute // (24 * 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the opt-in store adds to a row of the log. agrees: idle replay's finding, None where there is none."""

    row: FeatureRow
    after: Mapping[str, float] | None = None
    agrees: bool | None = None


def evidence(record: DecisionRecord, agrees: bool | None = None) -> tuple[Evidence, bool] | None:
    """Return what an outcome rests on and whether the local answer was wrong; None where nothing says so.

    A person's own word comes before what is inferred. What is said of the node's answer says nothing of the device's.
    agrees: whether the local model, asked again when idle, said the same as the node.
    """
    outcome = record.outcome
    local = (outcome.route or record.route) is Route.ON_DEVICE
    if outcome.overridden is not None:
        return Evidence.OVERRIDE, outcome.overridden is Route.PRIVATE_CLOUD
    if outcome.verdict is not None and local:
        return Evidence.VERDICT, outcome.verdict == "bad"
    if outcome.agreed is not None:
        return (Evidence.DOUBT_DENIED, False) if outcome.agreed else (Evidence.DOUBT_CONFIRMED, True)
    if agrees and not local:
        return Evidence.REPLAY, False
    if outcome.tool_failed and local:
        return Evidence.FAILED, True
    return (Evidence.AGAIN, True) if (outcome.regenerated or outcome.reasked) and local else None


@dataclass(frozen=True, slots=True)
class Lessons:
    """The log as training sees it, oldest first.

    outcomes: what something is known of.  quiet: answers of the device that nobody said anything of.
    future: rows left out because they claim to be from the future: the clock was set back, or was wrong before.
    """

    outcomes: tuple[Lesson, ...]
    quiet: tuple[Lesson, ...] = ()
    future: int = 0


def lessons(
    records: Iterable[DecisionRecord],
    kept: Mapping[str, Kept],
    *,
    now: float,
    offsets: Mapping[str, float] = NO_OFFSETS,
) -> Lessons:
    """Turn the log into outcomes.

    kept: what the opt-in store has, by id.  now: Unix seconds.  offsets: of earlier corrections, by model version.
    """
    ordered = sorted(records, key=lambda record: (record.minute, record.id))
    past = [record for record in ordered if record.minute <= int(now // 60) + CLOCK_SLACK_MIN]
    found = [_lesson(r, kept.get(r.id), offsets.get(r.model, 0.0)) for r in past]
    return Lessons(
        outcomes=tuple(each for each in found if each and each.evidence is not None),
        quiet=tuple(each for each in found if each and each.evidence is None),
        future=len(ordered) - len(past),
    )


def _lesson(record: DecisionRecord, kept: Kept | None, offset: float) -> Lesson | None:
    told = evidence(record, kept.agrees if kept else None)
    if told is None and (record.outcome.route or record.route) is not Route.ON_DEVICE:
        return None
    ratio = min(MOST_RATIO, 1.0 / record.propensity)
    return Lesson(
        id=record.id,
        minute=record.minute,
        score=(record.score + 0.5) / STEPS,
        wrong=float(told[1]) if told else 0.0,
        weight=(WEIGHTS[told[0]] if told else QUIET) * ratio,
        evidence=told[0] if told else None,
        offset=offset,
        row=kept.row if kept else None,
        after=kept.after if kept else None,
    )
