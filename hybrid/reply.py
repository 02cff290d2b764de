"""What a caller holds after one turn. ``Reply.to_dict()`` is the object of ``hybrid ask --json``."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .routing.cascade import Finding
    from .routing.decision import Decision
    from .wire.receipt import Receipt
    from .wire.types import FinishReason, Route, Usage

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds and tokens per second of one turn, as the caller met them.

    ttft: from the call to the first text; None when there was none.  total: the whole turn.
    queue, prefill_tps, decode_tps: the answering engine's own figures.  attest: fetching and verifying evidence.
    network: the sealed exchange less the node's own work.
    """

    ttft: float | None = None
    total: float = 0.0
    decode_tps: float = 0.0
    queue: float = 0.0
    prefill_tps: float = 0.0
    attest: float = 0.0
    network: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the times as plain values."""
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One piece of what left, or was kept back: where it came from and how large it was, never what it said."""

    source: str
    max_route: str
    chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What left the device in one turn. Absent (``None``) when no byte derived from the request did.

    verified_at: Unix time of the verification.  bytes_plain: the request before sealing.
    bytes_wire: every byte derived from it that was handed to the network.  receipt_id: hex, empty without one.
    """

    node: str
    tier: int
    tier_words: str
    measurement: str
    verified_at: float
    bytes_plain: int
    bytes_wire: int
    segments: tuple[Segment, ...] = ()
    withheld: tuple[str, ...] = ()
    receipt_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self) | {"segments": [asdict(s) for s in self.segments], "withheld": list(self.withheld)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One route that was tried in this turn. error: the class name of what ended it, empty when it answered."""

    route: str
    error: str = ""
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUsed:
    """A source an answer was made from, under its label."""

    label: str
    kind: str
    max_route: str
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer and everything there is to know about how it came to be.

    cascade: what was seen in an answer of the device while it came; None where nothing looked.
    """

    text: str = field(repr=False)
    route: "Route"
    model: str
    finish_reason: "FinishReason"
    request_id: str
    decision: "Decision"
    usage: "Usage"
    timing: Timing
    egress: Egress | None = None
    attempts: tuple[Attempt, ...] = ()
    sources: tuple[SourceUsed, ...] = ()
    max_route: "Route"
    receipt: "Receipt | None" = field(default=None, repr=False)
    cascade: "Finding | None" = None

    @property
    def doubt(self) -> str:
        """Why this answer of the device is doubted although it stands; empty where it is not."""
        return self.cascade.reason if self.cascade and self.cascade.verdict == "offer" else ""

    def __str__(self) -> str:
        """Return the text of the answer."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the ten keys that are always there, then ``schema_version`` and extras.

        What the cascade saw stands under ``decision.signals.cascade``, null where it did not look.
        """
        decision = self.decision.to_dict()
        decision["signals"]["cascade"] = self.cascade.to_dict() if self.cascade else None
        return {
            "text": self.text,
            "route": str(self.route),
            "model": self.model,
            "finish_reason": str(self.finish_reason),
            "request_id": self.request_id,
            "decision": decision,
            "usage": asdict(self.usage),
            "timing": self.timing.to_dict(),
            "egress": self.egress.to_dict() if self.egress else None,
            "schema_version": SCHEMA_VERSION,
            "max_route": str(self.max_route),
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "sources": [asdict(source) for source in self.sources],
        }
