"""Everything known of one question before anything is generated: the decision, what would be sent, time and cost."""

from dataclasses import asdict, dataclass
from typing import Any

from .compose import Ask
from .estimate import Estimate
from .plan import wire_estimate
from .routing.decision import Decision
from .routing.labels import Segment
from .routing.outgoing import Outgoing, outgoing
from .wire.codec import encode_request
from .wire.errors import WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece of a request: where it came from, of which kind, how many bytes of text. Never what it says."""

    source: str
    kind: str
    max_route: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WouldSend:
    """What a hand-over of this question consists of.

    leaves: whether this decision sends it.  node: as it was named, empty without one.  segments: what the node would
    read.  withheld: earlier turns that stay.  held_by: the source that keeps all of it here, empty while it may leave.
    bytes_plain: before sealing.  bytes_wire: sealed, at most, as before contact nobody knows to how many nodes.  Both
    are 0 where nothing may leave.
    """

    leaves: bool
    node: str = ""
    segments: tuple[Piece, ...] = ()
    withheld: tuple[Piece, ...] = ()
    held_by: str = ""
    bytes_plain: int = 0
    bytes_wire: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {name: [asdict(p) for p in getattr(self, name)] for name in ("segments", "withheld")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What ``hybrid explain`` shows. estimates: one for each route that is set up, the device first.

    lacks: the command without which nobody answers yet, for want of a model; the rest then says what would be with one.
    """

    decision: Decision
    would_send: WouldSend
    estimates: tuple[Estimate, ...]
    lacks: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the six keys of the decision, ``would_send`` and ``estimates``; ``lacks`` where something does."""
        estimates = [each.to_dict() for each in self.estimates]
        lacks = {"lacks": self.lacks} if self.lacks else {}
        return {**self.decision.to_dict(), "would_send": self.would_send.to_dict(), "estimates": estimates, **lacks}


def would_send(ask: Ask, *, leaves: bool, node: str, candidates: int) -> WouldSend:
    """Work out what of a question a hand-over sends. candidates: nodes that it would be sealed to."""
    out = outgoing(ask.request, ask.labels)
    if not node or out.blocking:
        return WouldSend(leaves=False, node=node, held_by=out.blocking.source if out.blocking else "")
    plain, wire = sizes(out, candidates)
    return WouldSend(
        leaves=leaves,
        node=node,
        segments=_pieces(out.segments),
        withheld=_pieces(out.withheld),
        bytes_plain=plain,
        bytes_wire=wire,
    )


def sizes(out: Outgoing, candidates: int) -> tuple[int, int]:
    """Return the bytes of a request before sealing and, about, after."""
    try:
        plain = len(encode_request(out.request))
    except WireError:  # what no request can carry; sending it says why
        plain = sum(len(m.content.encode("utf-8", "replace")) for m in out.request.messages)
    return plain, wire_estimate(plain, candidates)


def _pieces(segments: tuple[Segment, ...]) -> tuple[Piece, ...]:
    """Describe segments, less the frame around them, each source once."""
    found: dict[tuple[str, str, str], int] = {}
    for s in segments:
        key = (s.source, s.kind, str(s.max_route))
        if s.kind != "frame":
            found[key] = found.get(key, 0) + len(s.text.encode("utf-8", "replace"))
    return tuple(Piece(source=s, kind=k, max_route=r, bytes=count) for (s, k, r), count in found.items())
