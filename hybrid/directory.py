"""The directory in use, and the client's own choice of nodes from it. SPEC section 4.

Fetches with an empty request, verifies everything, keeps it until it ends and refreshes before that. Draws nodes
freshly for every request: a fixed personal set would be a fingerprint.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import APIConnectionError, AttestationError, ConfigurationError, RemoteError
from .exchange import Transport
from .remote_errors import broken
from .trust.verify import VerifiedDirectory, VerifiedNode, Verifier
from .wire.codec import decode_directory_reply
from .wire.constants import CLOCK_TOLERANCE_S, MAX_FAILURES_PER_EPOCH
from .wire.errors import WireError

REFRESH_JITTER_S = 60.0  # SPEC 4: clients must not all ask at once
REFRESH_AGAIN_S = 30.0  # SPEC 4: until a newer one is out


@dataclass(slots=True)
class NodeCount:
    """How often a node was drawn, answered and failed: skew here is how steering shows (SPEC 4)."""

    offered: int = 0
    answered: int = 0
    failed: int = 0


def choose(nodes: Iterable[VerifiedNode], *, k: int, rng: random.Random) -> tuple[VerifiedNode, ...]:
    """Draw up to k distinct nodes by weight, without replacement; the order is the order of preference."""
    pool = {node.node_id: node for node in nodes}
    drawn: list[VerifiedNode] = []
    while pool and len(drawn) < k:
        (node,) = rng.choices(list(pool.values()), weights=[node.weight for node in pool.values()])
        drawn.append(pool.pop(node.node_id))
    return tuple(drawn)


class DirectoryCache:
    """One deployment's verified directory, shared by all requests of a client."""

    def __init__(
        self,
        transport: Transport,
        verifier: Verifier,
        *,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """rng: where draws come from, the system's source unless a test gives its own."""
        self._transport = transport
        self._verifier = verifier
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._lock = asyncio.Lock()
        self._held: VerifiedDirectory | None = None
        self._refresh_at = 0.0
        self._failures = (0, 0)  # epoch and how many in it
        self.counts: dict[str, NodeCount] = {}

    @property
    def held(self) -> VerifiedDirectory | None:
        """The directory in use while it is valid, else None. Fetches nothing."""
        return self._held if self._held is not None and self._now() <= self._held.valid_until else None

    async def current(self, *, fresh: bool = False) -> VerifiedDirectory:
        """Return a verified directory, fetched when none is held, it is due, or ``fresh`` is asked for.

        Raises AttestationError, or the transport's error when there is none to fall back on.
        """
        async with self._lock:
            if not fresh and self.held is not None and self._now() < self._refresh_at:
                return self.held
            return await self._fetch(fresh=fresh)

    async def sample(self, *, model_id: str | None = None, fresh: bool = False) -> tuple[VerifiedNode, ...]:
        """Draw the candidates for one request, anew each time. model_id: None takes the first model listed.

        Raises ConfigurationError when no verified node serves the model.
        """
        self._not_failing()
        directory = await self.current(fresh=fresh)
        wanted = model_id or directory.nodes[0].model.model_id
        serving = [node for node in directory.nodes if node.model.model_id == wanted]
        if not serving:
            served = ", ".join(sorted({node.model.model_id for node in directory.nodes}))
            raise ConfigurationError(f"no verified node serves the model {wanted}", hint=f"they serve: {served}")
        drawn = choose(serving, k=self._verifier.policy.candidates, rng=self._rng)
        for node in drawn:
            self._count(node).offered += 1
        return drawn

    def answered(self, node: VerifiedNode) -> None:
        """Count a node that answered."""
        self._count(node).answered += 1

    def failed(self, nodes: Iterable[VerifiedNode]) -> None:
        """Count an attempt that ended outside the seal; too many in one epoch close the route (SPEC 10)."""
        for node in nodes:
            self._count(node).failed += 1
        epoch, number = self._failures
        self._failures = (self._epoch(), number + 1 if epoch == self._epoch() else 1)

    def _not_failing(self) -> None:
        epoch, number = self._failures
        if epoch == self._epoch() and number >= MAX_FAILURES_PER_EPOCH:
            raise APIConnectionError(
                f"the node refused {number} attempts within a few minutes and is left alone for now",
                hint="wait five minutes, or answer on the device; outer refusals can be forged to steer a client",
            )

    async def _fetch(self, *, fresh: bool) -> VerifiedDirectory:
        held = self.held
        try:
            raw = await self._transport.directory()
            got = self._verified(raw, held)
        except RemoteError as error:
            old = isinstance(error, AttestationError) and error.check == "directory.current"
            if fresh or held is None or (isinstance(error, AttestationError) and not old):
                raise
            self._refresh_at = self._now() + REFRESH_AGAIN_S
            return held  # a lagging mirror or a short outage: the held one is good until it ends
        self._hold(got)
        return got

    def _verified(self, raw: bytes, held: VerifiedDirectory | None) -> VerifiedDirectory:
        try:
            reply = decode_directory_reply(raw)
        except WireError as error:
            mapped = broken(error, left_device_yes=False)
            mapped.left_device = "no"
            raise mapped from None
        return self._verifier.verify(
            reply, peer_is_loopback=self._transport.peer_is_loopback, now=self._now(), held=held
        )

    def _hold(self, got: VerifiedDirectory) -> None:
        newer = self._held is None or (got.epoch, got.seq) > (self._held.epoch, self._held.seq)
        due = (got.epoch + 1) * got.epoch_s + CLOCK_TOLERANCE_S + self._rng.uniform(0, REFRESH_JITTER_S)
        self._refresh_at = due if newer else max(due, self._now() + REFRESH_AGAIN_S)
        self._held = got

    def _epoch(self) -> int:
        length = self._held.epoch_s if self._held else 300
        return int(self._now() // length)

    def _count(self, node: VerifiedNode) -> NodeCount:
        return self.counts.setdefault(node.node_id.hex(), NodeCount())
