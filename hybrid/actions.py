"""What the core tells a driver to do next, and what a driver tells the core when a route has ended well. Values."""

from dataclasses import dataclass, field

from .errors import HybridError
from .events import Event
from .reply import Reply
from .routing.decision import Decision
from .routing.labels import Labels
from .wire.receipt import Receipt
from .wire.types import GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Hand this event to the caller."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHere:
    """Run this on the device. wished: the sampling fields the caller named."""

    request: GenerateRequest = field(repr=False)
    wished: frozenset[str]
    partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerThere:
    """Clear this at the gate, seal it, send it. request: without the turns in ``withheld``, which are names."""

    request: GenerateRequest = field(repr=False)
    labels: Labels = field(repr=False)
    withheld: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Raise this; nothing follows."""

    error: HybridError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The turn is over."""

    reply: Reply


Action = Show | AnswerHere | AnswerThere | Fail | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a driver knows when a route has ended well. Seconds; ``receipt`` on the private route only."""

    model: str
    receipt: Receipt | None = None
    attest_s: float = 0.0
    network_s: float = 0.0
