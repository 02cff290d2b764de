"""The directory in use, and the client's own choice of nodes from it. SPEC section 4.

Fetches with an empty request, verifies everything, keeps it until it ends and refreshes before that; the log's newest
entries are read in the background. Draws nodes freshly for every request: a fixed personal set would be a fingerprint.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence

from .errors import (
    APIConnectionError,
    AttestationError,
    ConfigurationError,
    HybridError,
    OverloadedError,
    RemoteError,
)
from .exchange import Transport
from .freshness import STALE, listed_anew, needs_nonces, nonce_proofs
from .log_client import LogClient
from .remote_errors import broken
from .seen import LogMemory
from .shares import ShareBook
from .trust.log_view import LogContradiction, NonceProof
from .trust.verify import VerifiedDirectory, VerifiedNode, Verifier
from .wire.codec import DirectoryReply, decode_directory_reply
from .wire.constants import CLOCK_TOLERANCE_S, MAX_FAILURES_PER_EPOCH
from .wire.errors import WireError

REFRESH_JITTER_S = 60.0  # SPEC 4: clients must not all ask at once
REFRESH_AGAIN_S = 30.0  # SPEC 4: until a newer one is out
LAST_READ_S = 2.0


def choose(nodes: Iterable[VerifiedNode], *, k: int, rng: random.Random) -> tuple[VerifiedNode, ...]:
    """Draw up to k distinct nodes by weight, without replacement; the order is the order of preference."""
    pool = {node.node_id: node for node in nodes}
    drawn: list[VerifiedNode] = []
    while pool and len(drawn) < k:
        (node,) = rng.choices(list(pool.values()), weights=[node.weight for node in pool.values()])
        drawn.append(pool.pop(node.node_id))
    return tuple(drawn)


def chances(nodes: Iterable[VerifiedNode]) -> dict[str, float]:
    """Return each node's chance to be drawn first, by its hexadecimal id."""
    weights = {node.node_id.hex(): node.weight for node in nodes}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


class DirectoryCache:
    """One deployment's verified directory, shared by all requests of a client."""

    def __init__(
        self,
        transport: Transport,
        verifier: Verifier,
        *,
        log: LogClient | None = None,
        shares: ShareBook | None = None,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """log, shares: what is remembered; None keeps it for this object's life.

        rng: where draws come from, the system's source unless a test gives its own.
        """
        self._transport = transport
        self._verifier = verifier
        self._log = log or LogClient(transport, verifier, LogMemory(now=now), now=now)
        self.shares = shares or ShareBook()
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._lock = asyncio.Lock()
        self._held: VerifiedDirectory | None = None
        self._refresh_at = 0.0
        self._failures = (0, 0)  # epoch and how many in it
        self._tail: asyncio.Task[None] | None = None
        self._suspect: AttestationError | None = None  # what the background reading found

    @property
    def held(self) -> VerifiedDirectory | None:
        """The directory in use while it is valid, else None. Fetches nothing."""
        return self._held if self._held is not None and self._now() <= self._held.valid_until else None

    async def current(self, *, fresh: bool = False) -> VerifiedDirectory:
        """Return a verified directory, fetched when none is held, it is due, or ``fresh`` is asked for.

        Raises AttestationError, or the transport's error when there is none to fall back on.
        """
        async with self._lock:
            self.confirm()
            if not fresh and self.held is not None and self._now() < self._refresh_at:
                return self.held
            return await self._fetch(fresh=fresh)

    async def sample(
        self, *, model_id: str | None = None, fresh: bool = False, like: Sequence[VerifiedNode] = ()
    ) -> tuple[VerifiedNode, ...]:
        """Draw the candidates for one request, anew each time. model_id: None takes the first model listed.

        like: the candidates agreed to, for a further attempt: no more of them, and none weaker than their weakest.
        Raises ConfigurationError when no verified node serves the model, OverloadedError when none does now.
        """
        self._not_failing()
        directory = await self.current(fresh=fresh)
        wanted = model_id or directory.nodes[0].model.model_id
        if not fresh and not self._usable(_serving(directory, wanted)):  # each node's evidence ends at its own time
            directory = await self.current(fresh=True)
        self.shares.open(directory.deployment)
        least = min((node.tier for node in like), default=0)
        serving = _strong(self._usable(_serving(directory, wanted)), least)
        drawn = choose(serving, k=len(like) or self._verifier.policy.candidates, rng=self._rng)
        self.shares.drawn(chances(serving), [node.node_id.hex() for node in drawn])
        return drawn

    def confirm(self) -> None:
        """Raise AttestationError when what was drawn may not be used any more: asked last, just before sealing."""
        if self._suspect is not None:
            raise self._suspect

    def answered(self, node: VerifiedNode) -> None:
        """Count a node that answered."""
        nodes = self._held.nodes if self._held is not None else ()
        serving = [each for each in self._usable(nodes) if each.model.model_id == node.model.model_id]
        self.shares.answered(chances(serving), node.node_id.hex())

    def failed(self, nodes: Iterable[VerifiedNode]) -> None:
        """Count an attempt that ended outside the seal; too many in one epoch close the route (SPEC 10)."""
        self.shares.failed(node.node_id.hex() for node in nodes)
        epoch, number = self._failures
        self._failures = (self._epoch(), number + 1 if epoch == self._epoch() else 1)

    async def close(self) -> None:
        """Let what reads the log finish, if it soon does, so that short runs read it too."""
        if self._tail is not None:
            await asyncio.wait({self._tail}, timeout=LAST_READ_S)
            self._tail.cancel()
            await asyncio.gather(self._tail, return_exceptions=True)

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
            reply, got = await self._shown(held)
        except RemoteError as error:
            if fresh or held is None or _never_worked_around(error):
                raise
            self._refresh_at = self._now() + REFRESH_AGAIN_S
            return held  # a lagging mirror or a short outage: the held one is good until it ends
        self._log.accept(got.seen)  # first: what can't be remembered is not used
        self._hold(got)
        self._read_on(reply)
        return got

    async def _shown(self, held: VerifiedDirectory | None) -> tuple[DirectoryReply, VerifiedDirectory]:
        """Fetch and verify; once more where nodes have renewed their keys and are not yet listed with them."""
        shown = await self._transport.directory()
        reply = _decoded(shown)
        try:
            return reply, await self._verified(reply, held)
        except AttestationError as error:
            if not needs_nonces(self._verifier.policy) or error.check not in STALE:
                raise
            if (newer := await listed_anew(self._transport, shown)) is None:
                raise
        reply = _decoded(newer)
        return reply, await self._verified(reply, held)

    async def _verified(self, reply: DirectoryReply, held: VerifiedDirectory | None) -> VerifiedDirectory:
        if (known := self._log.contradicted(reply)) is not None:
            raise known
        view = await self._log.view(reply)
        nonces: tuple[NonceProof, ...] = ()
        if needs_nonces(self._verifier.policy):
            nonces = await nonce_proofs(self._transport, reply.directory, now=self._now)
        here = self._transport.peer_is_loopback
        try:
            return self._verifier.verify(
                reply, peer_is_loopback=here, now=self._now(), held=held, log=view, nonces=nonces
            )
        except AttestationError as error:
            self._end_if_contradiction(error, reply)
            raise

    def _read_on(self, reply: DirectoryReply) -> None:
        """Read the log's newest entries beside what goes on; what contradicts itself there ends the use of all."""
        if self._verifier.policy.log_policy is not None and (self._tail is None or self._tail.done()):
            self._tail = asyncio.create_task(self._read_tail(reply), name="hybrid-log-tail")

    async def _read_tail(self, reply: DirectoryReply) -> None:
        try:
            await self._log.read_tail(reply)
        except LogContradiction as error:
            self._end_if_contradiction(error, reply)
        except HybridError:
            return  # entries that can't be had or proved: how long that may go on is the verifier's judgement

    def _end_if_contradiction(self, error: AttestationError, reply: DirectoryReply) -> None:
        self._log.record(error, reply)
        if isinstance(error, LogContradiction):
            self._suspect = error

    def _usable(self, nodes: Iterable[VerifiedNode]) -> tuple[VerifiedNode, ...]:
        now = self._now()
        return tuple(node for node in nodes if _can_be_sealed_to(node, now))

    def _hold(self, got: VerifiedDirectory) -> None:
        newer = self._held is None or (got.epoch, got.seq) > (self._held.epoch, self._held.seq)
        due = (got.epoch + 1) * got.epoch_s + CLOCK_TOLERANCE_S + self._rng.uniform(0, REFRESH_JITTER_S)
        self._refresh_at = due if newer else max(due, self._now() + REFRESH_AGAIN_S)
        self._held = got

    def _epoch(self) -> int:
        length = self._held.epoch_s if self._held else 300
        return int(self._now() // length)


LAGGING = ("directory.current", "log.rollback")  # what a mirror that is behind shows; the held directory stays in use


def _never_worked_around(error: RemoteError) -> bool:
    return isinstance(error, AttestationError) and error.check not in LAGGING


def _decoded(raw: bytes) -> DirectoryReply:
    try:
        return decode_directory_reply(raw)
    except WireError as error:
        mapped = broken(error, left_device_yes=False)
        mapped.left_device = "no"
        raise mapped from None


def _can_be_sealed_to(node: VerifiedNode, now: float) -> bool:
    try:
        node.key_at(now)
    except AttestationError:
        return False
    return True


def _strong(nodes: tuple[VerifiedNode, ...], least: int) -> tuple[VerifiedNode, ...]:
    """Return the nodes of this tier and above. Raises OverloadedError when there is none: nothing weaker stands in."""
    strong = tuple(node for node in nodes if node.tier >= least)
    if not strong:
        words = f"no node of tier {least} or higher can be used now" if nodes else "no node's evidence is current now"
        raise OverloadedError(words, hint="try again in a moment; a weaker node is never used in its place")
    return strong


def _serving(directory: VerifiedDirectory, model_id: str) -> tuple[VerifiedNode, ...]:
    """Return the nodes that serve a model. Raises ConfigurationError when there is none."""
    serving = tuple(node for node in directory.nodes if node.model.model_id == model_id)
    if not serving:
        served = ", ".join(sorted({node.model.model_id for node in directory.nodes}))
        raise ConfigurationError(f"no verified node serves the model {model_id}", hint=f"they serve: {served}")
    return serving
