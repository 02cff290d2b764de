"""Answers from the private cloud over any transport: verify, seal, stream, check, and the few retries allowed.

Nothing is ever sent twice: every attempt draws nodes anew, passes the gate anew and is sealed anew (SPEC 10).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from .directory import DirectoryCache
from .errors import APITimeoutError, GenerationCancelled, HybridError, KeyExpiredError, Left, RemoteError
from .events import CheckResult, NodeVerified, Retry
from .exchange import Answering, Exchange, Item, Timeout, Transport
from .gate import Cleared, Gate
from .remote_errors import broken, sealed
from .retries import Retries
from .trust.verify import VerifiedNode, Verifier
from .wire.constants import MAX_ATTEMPTS
from .wire.errors import TruncatedStream
from .wire.receipt import Receipt, SealedError, UsageReport
from .wire.types import Chunk, EngineTiming, FinishReason, Route, Usage

AFTER_FINAL_S = 1.0  # how long a node may leave a finished stream open before it counts as ended
FURTHER: tuple[Left, ...] = ("no", "ciphertext", "yes")

T = TypeVar("T")


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


@dataclass(slots=True)
class _Attempt:
    """What one attempt has come to so far. deadline: on the monotonic clock."""

    cleared: Cleared
    exchange: Exchange
    deadline: float
    node: VerifiedNode | None = None
    sent: int = 0
    text: list[str] = field(default_factory=list)
    report: UsageReport | None = None
    error: SealedError | None = None
    receipt: Receipt | None = None
    network_s: float = 0.0

    @property
    def left(self) -> Left:
        """What has left the device, as far as the protocol can show."""
        if not self.sent:
            return "no"
        return "yes" if self.exchange.started else "ciphertext"

    def take(self, item: Item) -> Chunk | VerifiedNode | None:
        """Keep what an item says; returns what a caller should see of it now."""
        if isinstance(item, Answering):
            self.node = item.node
            return None if item.node is self.cleared.nodes[0] else item.node
        if isinstance(item, UsageReport):
            self.report = item
        elif isinstance(item, SealedError):
            self.error = item
        else:
            self.text += [item.text] if item.text else []
            return item
        return None

    def last(self, seconds: float) -> Chunk:
        """Say how the answer ended, once its receipt is checked. Raises the sealed error, if there was one."""
        self.receipt = self.exchange.finish()
        if self.error is not None:
            raise sealed(self.error)
        report = self.report = self.report or UsageReport(usage=Usage(), finish=FinishReason.STOP)
        busy = report.timing.queue_s + report.timing.prefill_s + report.timing.decode_s
        self.network_s = max(0.0, seconds - busy)
        return Chunk(finish_reason=report.finish, usage=report.usage, timing=report.timing, params=report.params)


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
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """max_retries: at most 2 count. sleep: how to wait between attempts; a test passes its own."""
        self.gate = gate
        self.directory = directory or DirectoryCache(transport, verifier, now=now)
        self._transport = transport
        self._model_id = model_id
        self._timeout = timeout or Timeout()
        self._max_attempts = min(MAX_ATTEMPTS, 1 + max(0, max_retries))
        self._now = now
        self._sleep = sleep
        self._attest_s = 0.0

    @property
    def address(self) -> str:
        """The node as the user named it."""
        return self._transport.address

    async def nodes(self, *, fresh: bool = False) -> tuple[VerifiedNode, ...]:
        """Verify the deployment if need be and draw this request's candidates. Sends an empty request at most.

        Raises AttestationError, APIConnectionError, APITimeoutError, ConfigurationError; nothing has left then.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout.attest):
                return await self.directory.sample(model_id=self._model_id, fresh=fresh)
        except HybridError as error:
            error.left_device, error.route = "no", str(Route.PRIVATE_CLOUD)
            raise
        except TimeoutError:
            raise _too_slow("attest") from None
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
            attempt = _Attempt(cleared=cleared, exchange=Exchange(now=self._now), deadline=deadline)
            try:
                if renew:
                    nodes = await _race(self.nodes(fresh=fresh), cancel)
                    cleared = attempt.cleared = self.gate.renew(cleared, nodes)
                async with contextlib.aclosing(self._attempt(attempt, limits, cancel)) as events:
                    async for event in events:
                        yield event
                yield self._result(attempt, wire=wire + attempt.sent, attempts=retries.made + 1)
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
            await _race(self._sleep(after_s), cancel)

    async def close(self) -> None:
        """Drop the connection."""
        await self._transport.close()

    async def _attempt(
        self, attempt: _Attempt, limits: Timeout, cancel: asyncio.Event | None
    ) -> AsyncGenerator[CloudEvent, None]:
        yield self._facts(attempt.cleared.nodes[0])
        sealed_request = attempt.exchange.start(attempt.cleared, deadline_ms=limits.deadline_ms)
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
        self, data: bytes, attempt: _Attempt, limits: Timeout, cancel: asyncio.Event | None
    ) -> AsyncGenerator[bytes, None]:
        stream = self._transport.exchange(data, max(0.1, attempt.deadline - time.monotonic()))
        try:
            while (reply := await _next(stream, attempt, limits, cancel)) is not None:
                yield reply
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def _note(self, error: HybridError, attempt: _Attempt, left: Left) -> None:
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
            checks=tuple(CheckResult(name=c.name, status=str(c.status), detail=c.detail) for c in node.checks),
        )

    def _result(self, attempt: _Attempt, *, wire: int, attempts: int) -> CloudResult:
        if attempt.receipt is None or attempt.report is None or attempt.node is None:
            raise broken(TruncatedStream(), left_device_yes=True)
        self.directory.answered(attempt.node)
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


async def _next(
    stream: AsyncIterator[bytes], attempt: _Attempt, limits: Timeout, cancel: asyncio.Event | None
) -> bytes | None:
    """Wait for the next reply message; None at the end. Each message is progress and starts the wait anew."""
    phase, limit_s = _limit(attempt, limits)
    try:
        async with asyncio.timeout(limit_s):
            return await _race(anext(stream, None), cancel)
    except RemoteError:
        if attempt.exchange.complete:
            return None  # the answer and its receipt are here; how the call ended is nobody's word
        if attempt.exchange.started:
            raise broken(TruncatedStream(), left_device_yes=True) from None
        raise
    except HybridError:
        raise
    except TimeoutError:
        if attempt.exchange.complete:
            return None
        raise _too_slow(phase) from None


def _limit(attempt: _Attempt, limits: Timeout) -> tuple[str, float]:
    if attempt.exchange.complete:
        return "idle", AFTER_FINAL_S
    phase, limit_s = ("idle", limits.idle) if attempt.text else ("first_token", limits.first_token)
    left_s = attempt.deadline - time.monotonic()
    return ("total", max(0.0, left_s)) if left_s < limit_s else (phase, limit_s)


def _too_slow(phase: str) -> APITimeoutError:
    words = {
        "attest": "The node did not show its evidence in time.",
        "first_token": "The node made no progress towards its first word in time.",
        "idle": "The node stopped sending in the middle of its answer.",
        "total": "The answer took longer than the time allowed for it.",
    }
    return APITimeoutError(words[phase], phase=phase, hint=f"Allow more time with Timeout({phase}=...), or try later.")


async def _race(work: Awaitable[T], cancel: asyncio.Event | None) -> T:
    """Await work unless ``cancel`` is set first. Raises GenerationCancelled then, with the work cancelled."""
    if cancel is None:
        return await work
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            raise GenerationCancelled("The answer was stopped.", hint="What had arrived is kept in partial.")
        return task.result()
    finally:
        unfinished = [one for one in (task, stop) if not one.done()]
        for one in unfinished:
            one.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
