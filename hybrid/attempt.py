"""One attempt at an answer: what it has come to so far, and waiting for its next message within its limits."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from .errors import APITimeoutError, GenerationCancelled, HybridError, Left, ProtocolError, RemoteError
from .exchange import Answering, Exchange, Item, Timeout
from .gate import Cleared
from .remote_errors import SAME_VERSION, broken, sealed
from .trust.verify import VerifiedNode
from .wire.errors import TruncatedStream
from .wire.receipt import Receipt, SealedError, UsageReport
from .wire.types import Chunk

AFTER_FINAL_S = 1.0  # how long a node may leave a finished stream open before it counts as ended

T = TypeVar("T")


@dataclass(slots=True)
class Attempt:
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
        """Say how the answer ended, once its receipt is checked. Raises the sealed error, if there was one.

        Raises ProtocolError where a good receipt ends a reply that named no reason: nothing is made up for it.
        """
        self.receipt = self.exchange.finish()
        if self.error is not None:
            raise sealed(self.error)
        report = self.report
        if report is None:
            raise ProtocolError("the node's reply does not say how it ended", hint=SAME_VERSION, left_device="yes")
        busy = report.timing.queue_s + report.timing.prefill_s + report.timing.decode_s
        self.network_s = max(0.0, seconds - busy)
        return Chunk(finish_reason=report.finish, usage=report.usage, timing=report.timing, params=report.params)


async def next_message(
    stream: AsyncIterator[bytes], attempt: Attempt, limits: Timeout, cancel: asyncio.Event | None
) -> bytes | None:
    """Wait for the next reply message; None at the end. Each message is progress and starts the wait anew."""
    phase, limit_s = _limit(attempt, limits)
    try:
        async with asyncio.timeout(limit_s):
            return await race(anext(stream, None), cancel)
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
        raise too_slow(phase) from None


def _limit(attempt: Attempt, limits: Timeout) -> tuple[str, float]:
    if attempt.exchange.complete:
        return "idle", AFTER_FINAL_S
    phase, limit_s = ("idle", limits.idle) if attempt.text else ("first_token", limits.first_token)
    left_s = attempt.deadline - time.monotonic()
    return ("total", max(0.0, left_s)) if left_s < limit_s else (phase, limit_s)


def too_slow(phase: str) -> APITimeoutError:
    """Return the error of a phase that ran out of time."""
    words = {
        "attest": "the node did not show its evidence in time",
        "first_token": "the node made no progress towards its first word in time",
        "idle": "the node stopped sending in the middle of its answer",
        "total": "the answer took longer than the time allowed for it",
    }
    return APITimeoutError(words[phase], phase=phase, hint=f"allow more time with Timeout({phase}=...), or try later")


async def race(work: Awaitable[T], cancel: asyncio.Event | None) -> T:
    """Await work unless ``cancel`` is set first. Raises GenerationCancelled then, with the work cancelled."""
    if cancel is None:
        return await work
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            raise GenerationCancelled("the answer was stopped", hint="what had arrived is kept in partial")
        return task.result()
    finally:
        unfinished = [one for one in (task, stop) if not one.done()]
        for one in unfinished:
            one.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
