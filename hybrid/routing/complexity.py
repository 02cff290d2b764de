"""How much the larger model is needed: a number from 0 to 1, and the threshold it is compared with.

`Scorer` is the place of every router; `StructuralScorer` is the first one: a formula written by hand. Its score ranks
requests; it is no probability and it is not calibrated.
"""

from dataclasses import dataclass
from math import exp
from typing import Protocol

from .features import Features
from .signals import LEAVING, curve

NEAR = 0.08
"""Distance from the threshold below which a decision says that it was close."""

TOP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a scorer says about one request.

    value: 0..1.  top: the largest contributions by name, the largest first.  p_ok, gain, novelty: None where a scorer
    does not know them.
    """

    value: float
    top: tuple[tuple[str, float], ...] = ()
    p_ok: float | None = None
    gain: float | None = None
    novelty: float | None = None


class Scorer(Protocol):
    """Something that scores requests. Same features, same score."""

    @property
    def name(self) -> str:
        """Name and version, as shown in decisions."""

    @property
    def calibrated(self) -> bool:
        """Whether ``p_ok`` was fitted to the local model in use."""

    def score(self, features: Features) -> Score:
        """Score one request."""

    def threshold(self, need: float) -> float:
        """Return the score from which the node pays, for a gain of ``need``; must not fall as ``need`` grows."""


BIAS = -3.0
WEIGHTS = {
    # name: (weight per unit, most units that count)
    "length": (0.90, 5.0),
    "lines": (0.15, 4.0),
    "numbers": (0.35, 4.0),
    "operators": (0.20, 4.0),
    "code_marks": (0.40, 4.0),
    "maths_marks": (0.45, 4.0),
    "options": (1.20, 1.0),
    "questions": (0.30, 3.0),
    "asks": (0.60, 3.0),
    "steps": (0.80, 3.0),
    "constraints": (0.30, 4.0),
    "items": (0.25, 3.0),
    "output": (0.35, 4.0),
    "context": (0.80, 1.0),
}
"""The formula: score = 1 / (1 + exp(-(BIAS + sum of weight * min(value, most)))). Every weight is positive."""

NEED_CURVE = ((-0.60, 0.30), (LEAVING, 0.55), (0.30, 0.85), (0.60, 1.01))
"""From the gain at which the node pays to a threshold. At neutral prices, where leaving is all that costs, 0.55."""


@dataclass(frozen=True, slots=True)
class StructuralScorer:
    """The documented formula over structural features. Nothing in it was fitted."""

    name: str = "structural-0"
    calibrated: bool = False

    def score(self, features: Features) -> Score:
        """Score one request, with the exact contribution of its three strongest features."""
        parts = [(name, weight * min(features.values[name], most)) for name, (weight, most) in WEIGHTS.items()]
        total = BIAS + sum(v for _, v in parts)
        strongest = sorted((p for p in parts if p[1] > 0), key=lambda p: (-p[1], p[0]))[:TOP]
        return Score(
            value=round(1 / (1 + exp(-total)), 4),
            top=tuple((name, round(value, 2)) for name, value in strongest),
        )

    def threshold(self, need: float) -> float:
        """Read `NEED_CURVE`."""
        return round(curve(NEED_CURVE, need), 4)
