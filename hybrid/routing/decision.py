"""The decision: a value that explains itself.

Texts are made from codes, names of kinds and numbers, never from a prompt, a source or an answer.
Codes are stable English identifiers; `docs/routing.md` lists them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hybrid.wire.types import Route


class Layer(StrEnum):
    """The layer of the router a reason comes from, in the order they run."""

    PRIVACY = "privacy"
    AVAILABILITY = "availability"
    DEVICE = "device"
    COMPLEXITY = "complexity"
    CASCADE = "cascade"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason for a route: a stable code, the layer it comes from, a sentence for people."""

    code: str
    layer: Layer
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """The smallest change that would have led to the other route.

    change: what has to change, several joined by ``+`` where one alone is not enough.
    before, after: its value now and the value that flips the route, joined in the same order.
    """

    route: Route
    change: str
    before: str
    after: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """Return it under the keys of the routing design, C6."""
        return {
            "route": str(self.route),
            "change": self.change,
            "from": self.before,
            "to": self.after,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Which route answers and why. Made by `hybrid.routing.decide` alone.

    score, threshold: 0..1 and 0..1.01; the node is asked when the score reaches the threshold and nothing else binds.
    reasons: the binding one first, never empty.  signals: what was looked at, plain values.
    counterfactual: None only when a single route is configured.
    """

    route: Route
    score: float
    threshold: float
    reasons: tuple[Reason, ...]
    signals: Mapping[str, Any]
    counterfactual: Counterfactual | None

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the reasons, the binding one first."""
        return tuple(r.code for r in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values under the six keys of the routing design, C6; every key is always present."""
        return {
            "route": str(self.route),
            "score": self.score,
            "threshold": self.threshold,
            "reasons": [{"code": r.code, "layer": str(r.layer), "text": r.text} for r in self.reasons],
            "signals": dict(self.signals),
            "counterfactual": self.counterfactual.to_dict() if self.counterfactual else None,
        }
