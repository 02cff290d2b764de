"""One sealed exchange without I/O, and what a transport must do for it.

``Exchange`` turns a cleared request into bytes and reply bytes into checked values; any transport that can carry
bytes both ways will do. Errors of the wire floor are mapped here and never leak.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .errors import ConfigurationError
from .gate import Cleared
from .remote_errors import broken
from .trust.verify import VerifiedNode
from .wire.codec import InvokeReply, decode_invoke_reply, encode_invoke_request
from .wire.constants import DEADLINES_MS
from .wire.encoding import digest
from .wire.envelope import Candidate, ReplyOpener, RequestSealer
from .wire.errors import ReplyOrder, TruncatedStream, WireError
from .wire.receipt import Receipt, SealedError, UsageReport
from .wire.types import Chunk

MAX_TIMEOUT_S = DEADLINES_MS[-1] / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Seconds to wait: for a connection, for evidence, for the first token, between items, and in all.

    ``first_token`` and ``idle`` count time without progress, so a slow prefill that moves is no failure.
    """

    connect: float = 5.0
    attest: float = 10.0
    first_token: float = 30.0
    idle: float = 20.0
    total: float = 600.0

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a time no deadline can keep."""
        for name in ("connect", "attest", "first_token", "idle", "total"):
            if not 0 < getattr(self, name) <= MAX_TIMEOUT_S:
                raise ConfigurationError(f"the timeout {name} must lie between 0 and {MAX_TIMEOUT_S:g} seconds")

    @property
    def deadline_ms(self) -> int:
        """The smallest deadline the protocol has that is no shorter than ``total``: six values tell little."""
        return next(ms for ms in DEADLINES_MS if ms >= self.total * 1000)


class Transport(Protocol):
    """Carries bytes to one address and knows no types of ours. Raises errors of ``hybrid.errors`` only."""

    @property
    def address(self) -> str:
        """The node as the user named it."""

    @property
    def peer_is_loopback(self) -> bool:
        """Whether the connected address is this machine's; False until there is a connection."""

    async def directory(self) -> bytes:
        """Fetch the joined ``DirectoryReply``; the request is empty and the same for everybody."""

    async def log_file(self, path: str) -> bytes:
        """Fetch one static file of the transparency log (``hybrid.wire.tiles`` names them)."""

    async def attest(self, node_id: bytes, nonce: bytes) -> bytes:
        """Ask one node for evidence over a nonce of 32 bytes; returns an ``AttestReply``."""

    async def event_log(self, node_id: bytes) -> bytes:
        """Fetch one node's firmware event log; empty where it has none."""

    def exchange(self, sealed: bytes, deadline_s: float) -> AsyncIterator[bytes]:
        """Send one ``InvokeRequest``, yield every ``InvokeReply``. Closing the iterator cancels the call."""

    async def close(self) -> None:
        """Drop the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """The candidate that proved, by its head, that it opened this request."""

    node: VerifiedNode


Item = Answering | Chunk | UsageReport | SealedError


@dataclass(slots=True)
class Kept:
    """What of a finished exchange a receipt can be checked with later; none of it is content (SPEC 9).

    body: H("body"; Body).  sealed_at: Unix seconds by this device's clock.
    """

    header: bytes = b""
    body: bytes = b""
    head: bytes = b""
    sealed_at: float = 0.0


class Exchange:
    """One request and its reply, used once: ``start``, ``push`` for every reply message, ``finish``.

    kept: what there is to keep of it.  Raises IntegrityError and ProtocolError for replies that do not check; text
    opened before is genuine but partial.
    """

    def __init__(
        self, *, rng: Callable[[int], bytes] = secrets.token_bytes, now: Callable[[], float] = time.time
    ) -> None:
        self._rng = rng
        self._now = now
        self._nodes: tuple[VerifiedNode, ...] = ()
        self._opener: ReplyOpener | None = None
        self._receipt: Receipt | None = None
        self.kept = Kept()
        self.request_id = ""
        self.started = False

    @property
    def complete(self) -> bool:
        """Whether the final frame has come and the receipt was checked."""
        return self._receipt is not None

    def start(self, cleared: Cleared, *, deadline_ms: int, token: bytes = b"") -> bytes:
        """Seal to the nodes the request was cleared for; returns the ``InvokeRequest``. Every secret is fresh.

        token: the access key for whoever admits clients; the header holds a digest of it, no node sees it.
        Raises AttestationError when a node's evidence has ended since it was verified; nothing was sent then.
        """
        self._nodes = cleared.nodes
        first, now = cleared.nodes[0], self._now()
        sealer = RequestSealer(
            candidates=[_candidate(node, now) for node in cleared.nodes],
            model_id=first.model.model_id,
            directory_id=first.directory_id,
            deadline_ms=deadline_ms,
            token=token,
            rng=self._rng,
        )
        try:
            sealed, self._opener = sealer.seal(cleared.request)
            self.request_id = sealed.request_id.hex()
            self.kept = Kept(header=sealed.header, body=digest("body", sealed.body), sealed_at=now)
            return encode_invoke_request(sealed.header, sealed.body, sealed.key_packages, token=token)
        except WireError as error:
            mapped = broken(error, left_device_yes=False)
            mapped.left_device = "no"
            raise mapped from None

    def push(self, reply: bytes) -> Iterator[Item]:
        """Open one reply message and yield what it says, frame by frame, so that nothing genuine is lost."""
        try:
            yield from self._items(decode_invoke_reply(reply))
        except WireError as error:
            self._fail()
            raise broken(error, left_device_yes=self.started) from None

    def finish(self) -> Receipt:
        """End the reply; returns its checked receipt. Raises IntegrityError when the final frame never came."""
        opener = self._ready()
        try:
            opener.close()
        except WireError as error:
            raise broken(error, left_device_yes=self.started) from None
        if self._receipt is None:  # there was one, but the reply went on after its end
            raise broken(TruncatedStream(), left_device_yes=self.started)
        return self._receipt

    def _items(self, reply: InvokeReply) -> Iterator[Item]:
        opener = self._ready()
        if not (reply.head or reply.frames or reply.final):
            raise ReplyOrder
        if reply.head:
            index = opener.start(reply.head)
            self.started, self.kept.head = True, reply.head
            yield Answering(node=self._nodes[index])
        if reply.frames:
            events, failure = opener.open(reply.frames)
            yield from events  # what came before the frame that failed is genuine
            if failure:
                raise failure
        if reply.final:
            self._receipt = opener.finish(reply.final)

    def _fail(self) -> None:
        """Take back what was complete and open nothing more (SPEC 8)."""
        self._receipt = None
        with contextlib.suppress(TruncatedStream):
            self._ready().close()

    def _ready(self) -> ReplyOpener:
        if self._opener is None:
            msg = "an exchange is started before a reply is read"
            raise RuntimeError(msg)
        return self._opener


def _candidate(node: VerifiedNode, now: float) -> Candidate:
    return Candidate(identity=node.identity, key=node.key_at(now), bundle_id=node.bundle_id, manifest=node.manifest)
