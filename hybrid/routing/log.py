"""One row of the decision log: what may be remembered of a decision, and nothing by which its text can be found again.

Routing design C7. Of the text itself a row holds three things: its length in powers of 4, the score in 16 steps, the
types of what labels and recognisers found. What a text could move besides, such as prices, is as coarse. A row holds a
length or what the cascade saw, never both: together they would single a text out. Times, tokens and costs belong to the
answer. Words that could come from outside are checked against the shape of a code before they are kept.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hybrid.wire.types import Route

from .decision import Decision, Layer
from .policy import Mode

STEPS = 16
"""Scores and thresholds are kept in steps of 1/16."""

SHORTEST, LONGEST = 4, 6
"""Lengths are kept as powers of 4, from 256 characters and less to more than 1,024: beyond these ends too few texts
share a power with the same score (tests/routing/test_log.py counts them)."""

QUARTERS = 4

Verdict = Literal["good", "bad"]

_CODE = re.compile(r"[a-z][a-z0-9_+]{0,63}")
_TYPE = re.compile(r"[A-Z][A-Z_]{0,31}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
OTHER = "other"
"""What stands for a word that is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a decision. None and False mean: not known, or not yet.

    route: who answered in the end.  verdict: what the person said of the answer.  overridden: the route the person
    took instead.  reasked, regenerated: within two minutes.  tool_failed: a tool call or schema came out broken.
    agreed: whether the node's answer said the same as the local one that the cascade doubted.
    seconds, first_s: the whole answer, its first text.  energy_j: joules.  money: in the unit of the node's prices.
    Numbers are rounded to ten steps a decade when they are kept.  tokens: of the answer, kept as a power of 4.
    """

    route: Route | None = None
    verdict: Verdict | None = None
    overridden: Route | None = None
    reasked: bool = False
    regenerated: bool = False
    tool_failed: bool = False
    agreed: bool | None = None
    seconds: float | None = None
    first_s: float | None = None
    energy_j: float | None = None
    money: float | None = None
    tokens: int | None = None

    def merged(self, later: "Outcome") -> "Outcome":
        """Return this with everything that is known later; what is known stays known."""
        news = {f.name: value for f in fields(later) if (value := getattr(later, f.name)) not in (None, False)}
        return replace(self, **news | ({"agreed": False} if later.agreed is False else {}))

    def coarse(self) -> "Outcome":
        """Return what may be kept of it."""
        return replace(
            self,
            seconds=two_digits(self.seconds),
            first_s=two_digits(self.first_s),
            energy_j=two_digits(self.energy_j),
            money=two_digits(self.money),
            tokens=None if self.tokens is None else 4 ** power_of_4(self.tokens),
        )

    @property
    def quality(self) -> float | None:
        """1 for an answer nobody complained about, 0 for one that somebody did; None when nobody answered.

        A person's own word counts before what is inferred. A proxy, and called one wherever it is shown.
        """
        if self.route is None:
            return None
        if self.verdict is not None:
            return float(self.verdict == "good")
        doubted = self.agreed is False and self.route is Route.ON_DEVICE
        return float(not (self.overridden or self.reasked or self.regenerated or self.tool_failed or doubted))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision as it is kept. Made by `of`, which rounds; every field is as coarse as it may be.

    id: random.  minute: Unix minutes.  length: n for at most 4 ** n characters, `SHORTEST`..`LONGEST`, None where
    cascade is kept.  cascade: the score after the first tokens, in 4 steps, kept for close calls.  score: 0..15,
    threshold: 0..16, in steps of 1/16.  label: why the text may not leave, empty when it may.  types: what recognisers
    found.  counterfactual: what would have had to change, ``comparison`` for all that score and threshold decide.
    device, cloud: prices in steps of 0.05.  battery: in quarters.  open: whether both routes were open, so that score
    and threshold decided.  eligible: whether it counts towards the budget.  propensity: the chance of the route that
    was taken.  policy, model, calibrator, table: versions.
    """

    id: str
    minute: int
    route: Route
    mode: str
    reasons: tuple[str, ...]
    open: bool
    eligible: bool
    length: int | None
    score: int
    threshold: int
    propensity: float = 1.0
    label: str = ""
    types: tuple[str, ...] = ()
    counterfactual: str = ""
    cascade: int | None = None
    device: float = 0.0
    cloud: float = 0.0
    battery: float | None = None
    thermal: str = ""
    memory: str = ""
    offline: bool = False
    policy: str = ""
    model: str = ""
    calibrator: str = ""
    table: str = ""
    outcome: Outcome = Outcome()

    def __post_init__(self) -> None:
        """Refuse what is finer than a row may be, and words that are no codes. Raises ValueError naming the field."""
        for name, holds in self._checks().items():
            if not holds:
                raise ValueError(f"no row of a decision log: {name}")

    def _checks(self) -> dict[str, bool]:
        words = (self.mode, self.label, self.counterfactual, self.thermal, self.memory, *self.reasons)
        versions = (self.policy, self.model, self.calibrator, self.table)
        return {
            "id is 1 to 64 letters, digits, - and _": bool(_ID.fullmatch(self.id)),
            "minute": type(self.minute) is int,
            "reasons": bool(self.reasons),
            "words": all(_code(word) == word for word in words),
            "types": _types(self.types) == self.types,
            "versions": all(_version(word) == word for word in versions),
            "score": self.score in range(STEPS),
            "threshold": self.threshold in range(STEPS + 1),
            "length": self.length is None or self.length in range(SHORTEST, LONGEST + 1),
            "cascade": self.cascade is None or self.cascade in range(QUARTERS),
            "length or cascade": (self.length is None) != (self.cascade is None),
            "prices": all(_twentieths(price) == price for price in (self.device, self.cloud)),
            "battery": self.battery in {None, 0.0, 0.25, 0.5, 0.75, 1.0},
            "propensity": 0.0 < self.propensity <= 1.0,
            "outcome": self.outcome.coarse() == self.outcome,
            "verdict": self.outcome.verdict in {None, "good", "bad"},
        }

    @classmethod
    def of(
        cls,
        decision: Decision,
        *,
        id: str,  # noqa: A002 - the name of the field
        at: float,
        chars: int,
        after: float | None = None,
        outcome: Outcome = Outcome(),
    ) -> "DecisionRecord":
        """Return what may be kept of a decision.

        at: Unix seconds.  chars: of the whole request.  after: the cascade's score, 0..1, where there is one.
        """
        seen = decision.signals
        seen_after = _quarter(decision, after)
        privacy, price = seen.get("privacy", {}), seen.get("price", {})
        return cls(
            id=id,
            minute=int(at // 60),
            route=decision.route,
            mode=_code(seen.get("mode", "")),
            reasons=_codes(decision),
            open=both_open(decision),
            eligible=eligible(decision),
            length=min(LONGEST, max(SHORTEST, power_of_4(chars))) if seen_after is None else None,
            score=score_step(decision.score),
            threshold=threshold_step(decision.threshold),
            propensity=round(float(seen.get("propensity", 1.0)), 4),
            label=_code(privacy.get("by", "")),
            types=_types((*privacy.get("types", ()), *privacy.get("cleared", ()))),
            counterfactual=_change(decision),
            cascade=seen_after,
            device=_twentieths(price.get("device", 0.0)),
            cloud=_twentieths(price.get("cloud", 0.0)),
            battery=None if seen.get("battery") is None else round(4 * seen["battery"]) / 4,
            thermal=_code(seen.get("thermal", "")),
            memory=_code(seen.get("memory", "")),
            offline=bool(seen.get("offline", False)),
            **_versions(seen),
            outcome=outcome.coarse(),
        )

    def ended(self, outcome: Outcome) -> "DecisionRecord":
        """Return it with what became known later."""
        return replace(self, outcome=self.outcome.merged(outcome.coarse()))

    @property
    def day(self) -> int:
        """Days since 1970, UTC."""
        return self.minute // (24 * 60)

    def to_row(self) -> dict[str, Any]:
        """Return plain values for a table: texts, numbers and None, the outcome's beside the decision's."""
        return {name: _plain(value) for name, value in self._flat().items()}

    def _flat(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "outcome"}
        return own | {_OUTCOME[f.name]: getattr(self.outcome, f.name) for f in fields(self.outcome)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "DecisionRecord":
        """Read what `to_row` wrote. Raises ValueError for anything else."""
        try:
            outcome = Outcome(**{name: _READ.get(name, _same)(row[column]) for name, column in _OUTCOME.items()})
            own = {f.name: _READ.get(f.name, _same)(row[f.name]) for f in fields(cls) if f.name != "outcome"}
            record = cls(**own, outcome=outcome)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no row of a decision log: {type(error).__name__}") from None
        if record.to_row() != dict(row):
            raise ValueError("no row of a decision log")
        return record

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, for people's own programs."""
        row = self._flat() | {"at": 60 * self.minute, "length": self.length and 4**self.length}
        row |= {"score": self.score / STEPS, "threshold": self.threshold / STEPS, "quality": self.outcome.quality}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


_OUTCOME = {f.name: {"route": "answered"}.get(f.name, f.name) for f in fields(Outcome)}
COLUMNS = (*(f.name for f in fields(DecisionRecord) if f.name != "outcome"), *_OUTCOME.values())
"""The names of `DecisionRecord.to_row`, in order."""


def eligible(decision: Decision) -> bool:
    """Whether a decision counts towards the budget: it might have gone to the node and nobody pinned its route (C9)."""
    return both_open(decision) and decision.signals.get("mode") == Mode.AUTO


_FORCING = {Layer.PRIVACY, Layer.AVAILABILITY, Layer.PERSON}
_HARD_RULES = {"thermal_critical", "memory_critical"}
_NOT_FORCING = {"user_cleared"}


def both_open(decision: Decision) -> bool:
    """Whether both routes were open when score, price or mode decided."""
    first = decision.reasons[0]
    if first.code == "mode":
        return decision.signals.get("mode") in {Mode.PREFER_ON_DEVICE, Mode.PREFER_PRIVATE_CLOUD}
    return first.layer not in _FORCING and first.code not in _HARD_RULES


def power_of_4(count: int) -> int:
    """Return the least n with count <= 4 ** n."""
    return 0 if count <= 1 else -(-(count - 1).bit_length() // 2)


def score_step(score: float) -> int:
    """Return a score in 0..1 as 0..15: rounded down, so that comparing with a multiple of 1/16 stays exact."""
    return min(STEPS - 1, max(0, int(score * STEPS)))


def threshold_step(threshold: float) -> int:
    """Return a threshold in 0..1.01 as 0..16, to the nearest 1/16."""
    return min(STEPS, max(0, round(threshold * STEPS)))


def two_digits(value: float | None) -> float | None:
    """Round to the nearest of ten steps a decade, in two digits: 1.0, 1.3, 1.6, 2.0, 2.5 and so on (ISO 3, R 10)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{10 ** (round(10 * math.log10(value)) / 10):.1e}") if value > 0 else 0.0


def _quarter(decision: Decision, after: float | None) -> int | None:
    """Return the cascade's score in 4 steps where an answer of the device was a close call, by what is kept of both."""
    close = abs(score_step(decision.score) - threshold_step(decision.threshold)) <= 1
    if after is None or not close or decision.route is not Route.ON_DEVICE:
        return None
    return min(QUARTERS - 1, max(0, int(QUARTERS * after)))


def _change(decision: Decision) -> str:
    """Return the first change that leads to the other route; which price or score would is known too finely."""
    if decision.counterfactual is None:
        return ""
    return "comparison" if both_open(decision) else _code(decision.counterfactual.change.split("+")[0])


def _twentieths(price: float) -> float:
    return round(round(20 * price) / 20, 2)


def _codes(decision: Decision) -> tuple[str, ...]:
    """Return the codes of the reasons, without those that would tell the score more finely than it is kept."""
    return tuple(dict.fromkeys(_code(code) for code in decision.codes if code not in _FINER))


_FINER = {"near_threshold", "novel"}


def _types(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name if _TYPE.fullmatch(name) else OTHER.upper() for name in found}))


def _code(word: object) -> str:
    text = str(word)
    return text if not text or _CODE.fullmatch(text) else OTHER


def _versions(seen: Mapping[str, Any]) -> dict[str, str]:
    given = {**seen, **seen.get("versions", {})}
    return {name: _version(given.get(name, "")) for name in ("policy", "model", "calibrator", "table")}


def _version(word: object) -> str:
    text = str(word)
    return text if not text or _VERSION.fullmatch(text) else OTHER


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, tuple):
        return ",".join(value)
    return int(value) if isinstance(value, bool) else str(value) if isinstance(value, str) else value


def _same(value: Any) -> Any:
    return value


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.split(",")) if value else ()


def _route(value: str | None) -> Route | None:
    return None if value is None else Route(value)


def _maybe(value: int | None) -> bool | None:
    return None if value is None else bool(value)


_READ: Mapping[str, Callable[[Any], Any]] = {
    "route": _route,
    "overridden": _route,
    "reasons": _words,
    "types": _words,
    "open": bool,
    "eligible": bool,
    "offline": bool,
    "reasked": bool,
    "regenerated": bool,
    "tool_failed": bool,
    "agreed": _maybe,
}
