"""What a hand-off consists of, as people and records see it: the plan before, the record after. No content.

``Gate`` makes both; nothing here decides or sends.
"""

from dataclasses import dataclass, field

from .routing.decision import Decision
from .wire.body import body_length
from .wire.constants import BODY_BUCKETS, KEY_PACKAGE_BYTES
from .wire.types import Route

LENGTH_PREFIX_BYTES = 4
HEADER_BYTES = 114  # SPEC 6, with a 12-character model id, before the candidates
CANDIDATE_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class SentSegment:
    """One piece of what leaves: where it came from and how large it is, never what it says.

    digest: keyed with a secret of this process, since a plain hash of a short text can be guessed.
    """

    source: str
    kind: str
    max_route: Route
    chars: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffPlan:
    """What would leave the device, to which node and why; shown before anything does.

    node: address.  tier, tier_words: of the weakest candidate.
    bytes_plain: before sealing; bytes_wire_estimate: after.
    binding: keyed digest of the request, so that what was agreed to is what is cleared.
    """

    id: str
    reason: str
    decision: Decision
    node: str
    tier: int
    tier_words: str
    model: str
    segments: tuple[SentSegment, ...]
    withheld: tuple[str, ...]
    bytes_plain: int
    bytes_wire_estimate: int
    binding: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRecord:
    """One clearance and what came of it. ``bytes_wire`` is 0 until the bytes were handed to the transport.

    id: of this attempt; plan_id: shared by every attempt of one hand-off.  at: Unix seconds.
    """

    id: str
    plan_id: str
    at: float
    node: str
    node_ids: tuple[str, ...]
    tier: int
    tier_words: str
    measurement: str
    segments: tuple[SentSegment, ...]
    withheld: tuple[str, ...]
    bytes_plain: int
    bytes_wire: int = 0


def wire_estimate(plain: int, candidates: int) -> int:
    """Bytes on the wire for a request of ``plain`` bytes sealed to some candidates (SPEC 6)."""
    padded = next((size for size in BODY_BUCKETS if size >= plain + LENGTH_PREFIX_BYTES), BODY_BUCKETS[-1])
    return HEADER_BYTES + body_length(padded) + candidates * (CANDIDATE_BYTES + KEY_PACKAGE_BYTES)
