"""What the checks of one node stand on: its directory and the log, already judged, and the moment. SPEC section 12."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.wire.directory import Leaf

from .log_checks import Judged, LogState
from .log_view import NonceProof
from .policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything around one node's bundle. policy: what the client demands.

    ends: Unix seconds when the directory stops serving.  leaves: RELEASE and MODEL entries, ``checkpoint_no`` counting
    ``log.older``.  log: None without one.  revoked: entry digests.  nonces: by bundle_id.  now: Unix seconds.
    stalled: whether the log's tail could have been read for long and was not (SPEC 5).
    """

    policy: Policy
    deployment: str
    epoch_s: int
    ends: int
    leaves: tuple[Leaf, ...] = ()
    log: LogState | None = None
    revoked: frozenset[bytes] = field(default=frozenset(), repr=False)
    nonces: Mapping[bytes, NonceProof] = field(default_factory=dict, repr=False)
    stalled: bool = False
    peer_is_loopback: bool
    now: float

    def witnessed(self, digest: bytes) -> Judged | None:
        """Return the directory's checkpoint a Statement names by its digest, if it is one of them."""
        older = self.log.older if self.log else ()
        return next((judged for judged in older if judged.digest == digest), None)
