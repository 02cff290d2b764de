"""Answers from the private cloud over any transport: verify, seal, stream, check, and the few retries allowed.

Nothing is ever sent twice: every attempt draws nodes anew, passes the gate anew and is sealed anew (SPEC 10).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from .attempt import Attempt, next_message, race, too_slow
from .bias import judge
from .directory import DirectoryCache
from .errors import ConfigurationError, HybridError, KeyExpiredError, Left, RemoteError
from .events import CheckResult, NodeVerified, Retry
from .exchange import Exchange, Kept, Timeout, Transport
from .gate import Cleared, Gate
from .receipts import ReceiptStore
from .remote_errors import broken
from .retries import Retries
from .trust.receipt_file import ReceiptFile
from .trust.verify import VerifiedNode, Verifier
from .wire.constants import MAX_ATTEMPTS
from .wire.errors import TruncatedStream
from .wire.receipt import Receipt
from .wire.types import Chunk, EngineTiming, FinishReason, Route, Usage

FURTHER: tuple[Left, ...] = ("no", "ciphertext", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudResult:
    """A finished answer whose receipt was checked. The last event of ``CloudEngine.stream``.

    bytes_plain: the request before sealing.  bytes_wire: everything sent for it, all attempts together.
    attest_s: fetching and verifying evidence for this answer.  network_s: the exchange less the node's own work.
    """

    receipt: Receipt
    receipt_id: str
    request_id: str
    node: VerifiedNode
    usage: Usage
    timing: EngineTiming
    finish_reason: FinishReason
    bytes_plain: int
    bytes_wire: int
    attempts: int
    attest_s: float
    network_s: float


CloudEvent = NodeVerified | Retry | Chunk | CloudResult


class CloudEngine:
    """One deployment, reached through one transport, under one trust policy and one gate.

    Get nodes with ``nodes``, clear the request for them at the gate, then ``stream`` it.
    """

    def __init__(
        self,
        transport: Transport,
        verifier: Verifier,
        gate: Gate,
        *,
        model_id: str | None = None,
        timeout: Timeout | None = None,
        max_retries: int = MAX_ATTEMPTS - 1,
        directory: DirectoryCache | None = None,
        token: bytes = b"",
        receipts: ReceiptStore | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """token: access key.  receipts: where they are kept, None for nowhere.  max_retries: at most 2 count.

        sleep: how to wait between attempts; a test passes its own.
        """
        self.gate = gate
        self.directory = directory or DirectoryCache(transport, verifier, now=now)
        self._transport = transport
        self._model_id = model_id
        self._policy = verifier.policy
        self._token = token
        self._receipts = receipts
        self._warned = False
        self._timeout = timeout or Timeout()
        self._max_attempts = min(MAX_ATTEMPTS, 1 + max(0, max_retries))
        self._now = now
        self._sleep = sleep
        self._attest_s = 0.0

    @property
    def address(self) -> str:
        """The node as the user named it."""
        return self._transport.address

    async def nodes(self, *, fresh: bool = False, like: Sequence[VerifiedNode] = ()) -> tuple[VerifiedNode, ...]:
        """Verify the deployment if need be and draw this request's candidates. Sends an empty request at most.

        like: the candidates agreed to, for a further attempt.
        Raises AttestationError, APIConnectionError, APITimeoutError, ConfigurationError; nothing has left then.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout.attest):
                return await self.directory.sample(model_id=self._model_id, fresh=fresh, like=like)
        except HybridError as error:
            error.left_device, error.route = "no", str(Route.PRIVATE_CLOUD)
            raise
        except TimeoutError:
            raise too_slow("attest") from None
        finally:
            self._attest_s = time.monotonic() - started

    async def stream(
        self, cleared: Cleared, *, cancel: asyncio.Event | None = None, limits: Timeout | None = None
    ) -> AsyncGenerator[CloudEvent, None]:
        """Stream the answer: NodeVerified, Retry and Chunk as they come, last a CloudResult.

        The last Chunk carries finish reason, usage and timing, and comes only after the receipt was checked.
        Closing the iterator, or setting ``cancel``, cancels the call. Raises errors of ``hybrid.errors`` with
        ``partial``, ``left_device`` and ``request_id`` filled in.
        """
        limits = limits or self._timeout
        deadline = time.monotonic() + limits.total
        retries = Retries(self._max_attempts)
        wire, left = 0, FURTHER[0]
        fresh, renew = False, any(self._now() > node.valid_until for node in cleared.nodes)
        while True:
            attempt = Attempt(cleared=cleared, exchange=Exchange(now=self._now), deadline=deadline)
            try:
                if renew:
                    nodes = await race(self.nodes(fresh=fresh, like=cleared.nodes), cancel)
                    cleared = attempt.cleared = self.gate.renew(cleared, nodes)
                async with contextlib.aclosing(self._attempt(attempt, limits, cancel)) as events:
                    async for event in events:
                        yield event
                yield await self._result(attempt, wire=wire + attempt.sent, attempts=retries.made + 1)
            except HybridError as error:
                failure = error
            else:
                return
            wire += attempt.sent
            left = max(left, attempt.left, key=FURTHER.index)
            self._note(failure, attempt, left)
            after_s = retries.after(failure, started=attempt.exchange.started, shown=bool(attempt.text))
            if after_s is None or time.monotonic() + after_s > deadline:
                raise failure
            fresh, renew = isinstance(failure, KeyExpiredError), True
            yield Retry(attempt=retries.made + 1, after_s=after_s, cause=type(failure).__name__)
            await race(self._sleep(after_s), cancel)

    async def close(self) -> None:
        """Drop the connection."""
        await self.directory.close()
        await self._transport.close()

    async def _attempt(
        self, attempt: Attempt, limits: Timeout, cancel: asyncio.Event | None
    ) -> AsyncGenerator[CloudEvent, None]:
        yield self._facts(attempt.cleared.nodes[0])
        self.directory.confirm()
        sealed_request = attempt.exchange.start(attempt.cleared, deadline_ms=limits.deadline_ms, token=self._token)
        data = self.gate.send(attempt.cleared, sealed_request)
        attempt.sent = len(data)
        started = time.monotonic()
        async with contextlib.aclosing(self._replies(data, attempt, limits, cancel)) as replies:
            async for reply in replies:
                for item in attempt.exchange.push(reply):
                    shown = attempt.take(item)
                    if shown is not None:
                        yield self._facts(shown) if isinstance(shown, VerifiedNode) else shown
        yield attempt.last(time.monotonic() - started)

    async def _replies(
        self, data: bytes, attempt: Attempt, limits: Timeout, cancel: asyncio.Event | None
    ) -> AsyncGenerator[bytes, None]:
        stream = self._transport.exchange(data, max(0.1, attempt.deadline - time.monotonic()))
        try:
            while (reply := await next_message(stream, attempt, limits, cancel)) is not None:
                yield reply
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def _note(self, error: HybridError, attempt: Attempt, left: Left) -> None:
        error.left_device = left
        error.route = str(Route.PRIVATE_CLOUD)
        error.request_id = attempt.exchange.request_id or None
        error.partial = "".join(attempt.text)
        if attempt.sent and not attempt.exchange.started and isinstance(error, RemoteError):
            self.directory.failed(attempt.cleared.nodes)

    def _facts(self, node: VerifiedNode) -> NodeVerified:
        return NodeVerified(
            node=self.address,
            tier=node.tier,
            tier_words=node.tier_words,
            measurement=node.measurement,
            model=node.model.model_id,
            checks=(
                *(CheckResult(name=c.name, status=str(c.status), detail=c.detail) for c in node.checks),
                *self._bias(),
            ),
        )

    def _bias(self) -> tuple[CheckResult, ...]:
        """Warn once when nodes are not drawn, or do not answer, as their weights foretell (SPEC 4)."""
        shares = self.directory.shares
        words = [skew.words for skew in judge(shares.counts) if skew.alarm] + [shares.trouble] * bool(shares.trouble)
        if self._warned:
            return ()
        self._warned = bool(words)
        return tuple(CheckResult(name="nodes.bias", status="warn", detail=each) for each in words)

    async def _result(self, attempt: Attempt, *, wire: int, attempts: int) -> CloudResult:
        if attempt.receipt is None or attempt.report is None or attempt.node is None:
            raise broken(TruncatedStream(), left_device_yes=True)
        self.directory.answered(attempt.node)
        await asyncio.to_thread(self._remember, attempt, attempt.receipt, attempt.node)
        return CloudResult(
            receipt=attempt.receipt,
            receipt_id=attempt.receipt.request.hex(),
            request_id=attempt.exchange.request_id,
            node=attempt.node,
            usage=attempt.report.usage,
            timing=attempt.report.timing,
            finish_reason=attempt.report.finish,
            bytes_plain=attempt.cleared.record.bytes_plain,
            bytes_wire=wire,
            attempts=attempts,
            attest_s=self._attest_s,
            network_s=attempt.network_s,
        )

    def _remember(self, attempt: Attempt, receipt: Receipt, node: VerifiedNode) -> None:
        """Keep the receipt and the counts. A folder that can't be written costs those, never the answer."""
        with contextlib.suppress(ConfigurationError):
            self.directory.shares.save()
        if self._receipts is not None:
            with contextlib.suppress(ConfigurationError, OSError):
                self._receipts.keep(receipt.request.hex(), self._file(attempt.exchange.kept, receipt, node))

    def _file(self, kept: Kept, receipt: Receipt, node: VerifiedNode) -> bytes:
        return ReceiptFile.of(
            node,
            self._policy,
            header=kept.header,
            body=kept.body,
            head=kept.head,
            receipt=receipt.encode(),
            at=kept.sealed_at,
        ).encode()
