"""Rules of one's own on top of the trust policy, combined in Python: ``Policy(require=AllOf(...))``.

Judged last, as the check ``policy.require``, over what the other checks computed. A rule can only refuse.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from hybrid.errors import ConfigurationError

from .facts import NodeFacts

_T = TypeVar("_T")


class Verdict(NamedTuple):
    """Whether a rule holds, and what it asks for, in words that complete "expected …"."""

    ok: bool
    words: str


class Rule(Protocol):
    """One demand on a node. Pure: the same facts give the same verdict."""

    def judge(self, facts: NodeFacts) -> Verdict:
        """Judge one node serving one model."""


class AllOf:
    """Holds when every rule holds."""

    __slots__ = ("rules",)

    def __init__(self, *rules: Rule) -> None:
        """Raise ConfigurationError without a rule: an empty demand is a slip, not a policy."""
        self.rules = _some(rules)

    def judge(self, facts: NodeFacts) -> Verdict:
        """Name the rules that don't hold, or all of them."""
        verdicts = [rule.judge(facts) for rule in self.rules]
        broken = [verdict.words for verdict in verdicts if not verdict.ok]
        return Verdict(not broken, " and ".join(broken or [verdict.words for verdict in verdicts]))

    def __repr__(self) -> str:
        """Spell the rule as it was written."""
        return f"AllOf({', '.join(map(repr, self.rules))})"


class AnyOf:
    """Holds when at least one rule holds."""

    __slots__ = ("rules",)

    def __init__(self, *rules: Rule) -> None:
        """Raise ConfigurationError without a rule: nothing could ever hold."""
        self.rules = _some(rules)

    def judge(self, facts: NodeFacts) -> Verdict:
        """Name the rule that holds, or all of them."""
        verdicts = [rule.judge(facts) for rule in self.rules]
        held = [verdict.words for verdict in verdicts if verdict.ok]
        return Verdict(bool(held), held[0] if held else " or ".join(verdict.words for verdict in verdicts))

    def __repr__(self) -> str:
        """Spell the rule as it was written."""
        return f"AnyOf({', '.join(map(repr, self.rules))})"


@dataclass(frozen=True, slots=True)
class TierAtLeast:
    """Holds for a node of this tier or a higher one."""

    tier: int

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare the computed tier."""
        return Verdict(facts.tier >= self.tier, f"tier {self.tier} or higher")


class MeasurementIn:
    """Holds for a node whose launch measurement is one of these, in hexadecimal."""

    __slots__ = ("measurements",)

    def __init__(self, *measurements: str) -> None:
        """Raise ConfigurationError without a measurement."""
        self.measurements = tuple(value.lower() for value in _some(measurements))

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare the measurement that the evidence proved."""
        return Verdict(facts.measurement in self.measurements, "a listed measurement")

    def __repr__(self) -> str:
        """Spell the rule as it was written."""
        return f"MeasurementIn({', '.join(map(repr, self.measurements))})"


@dataclass(frozen=True, slots=True)
class ModelIs:
    """Holds for one model, and for one manifest of it when that is given in hexadecimal."""

    model_id: str
    manifest: str | None = None

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare the model this verified node stands for."""
        same = facts.model.model_id == self.model_id
        exact = self.manifest is None or facts.model.manifest.hex() == self.manifest.lower()
        return Verdict(same and exact, f"the model {self.model_id}" + (f"@{self.manifest}" if self.manifest else ""))


@dataclass(frozen=True, slots=True)
class EvidenceYoungerThan:
    """Holds when the evidence was provably made less than so many seconds ago."""

    seconds: float

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare the age; evidence of unknown age is too old."""
        age = facts.evidence_age_s
        return Verdict(age is not None and age < self.seconds, f"evidence younger than {self.seconds:g} s")


@dataclass(frozen=True, slots=True)
class LogKey:
    """Holds when the newest checkpoint is signed by this log key (``name+hash+base64``)."""

    vkey: str

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare the key that signed the newest checkpoint."""
        return Verdict(facts.log_key == self.vkey, f"the log {self.vkey.split('+', 1)[0]}")


@dataclass(frozen=True, slots=True)
class WitnessQuorum:
    """Holds when so many witnesses of the log policy cosigned the newest checkpoint."""

    witnesses: int

    def judge(self, facts: NodeFacts) -> Verdict:
        """Compare how many valid cosignatures were found."""
        return Verdict(facts.witnesses >= self.witnesses, f"{self.witnesses} witnesses or more")


def _some(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ConfigurationError("a rule of the trust policy lists nothing")
    return values
