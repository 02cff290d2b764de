"""One opened request becomes one sealed reply: head, frames as tokens come, usage, receipt, final frame (SPEC 8)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from hybrid.wire.codec import decode_request
from hybrid.wire.constants import FRAMES_PER_MESSAGE
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.errors import ReplyFull, SealedCode
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.keys import IdentityKey
from hybrid.wire.receipt import STATUS_ERROR, STATUS_OK, ReceiptFacts, SealedError, UsageReport
from hybrid.wire.types import Chunk, Engine, EngineTiming, FinishReason, GenerateRequest, Usage

from . import events
from .errors import NodeError, Sealed, sealed
from .link import Kind
from .outlet import Outlet
from .pace import Pace
from .slots import Slots

PULSE_S = 5.0  # a client hears of a request that waits or prefills at least so often (node design 3.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What all answers of a worker share. batch: frames of one message, at most.  wrong_receipt: a fault switch."""

    engine: Engine
    model: ModelEntry
    slots: Slots
    batch: int = FRAMES_PER_MESSAGE
    wrong_receipt: bool = False


class Answer:
    """The way of one request from its opened bytes to the final frame. Cancelling the task drops everything."""

    def __init__(self, kitchen: Kitchen, sealer: ReplySealer, outlet: Outlet, *, partition: str) -> None:
        self._kitchen = kitchen
        self._sealer = sealer
        self._outlet = outlet
        self._partition = partition
        self._progress = (0, 0)
        self._output = 0
        self._report: UsageReport | None = None
        self._told: UsageReport | None = None
        self._spoken = False
        self._pace = Pace(self._pass_on, kitchen.batch)

    async def run(self, plain: bytes, identity: IdentityKey, deadline: float) -> SealedCode | None:
        """Answer. deadline: on the loop's clock. Returns what was told inside as an error, if anything was.

        Raises Limit when the reader is too slow; everything else that goes wrong is sealed.
        """
        self._outlet.put(Kind.HEAD, self._sealer.head)
        error: Sealed | None = None
        try:
            async with asyncio.timeout_at(deadline), self._pulse():
                await self._generate(plain)
        except Exception as raised:  # noqa: BLE001 - the table in errors.py ends every one of them
            error = _told_inside(raised)
        finally:
            self._pace.close()  # what still waits goes with the next frames
        if error:
            told = SealedError(code=error.code, first=error.first, second=error.second)
            self._outlet.put(Kind.FRAMES, self._sealer.error(told))
        await self._finish(identity, failed=bool(error))
        return error.code if error else None

    # --- generate ----------------------------------------------------------------------------------

    async def _generate(self, plain: bytes) -> None:
        request = self._bounded(decode_request(plain))
        async with self._kitchen.slots.run():
            try:
                await self._stream(request)
            except ReplyFull:
                self._report = self._cut_report()
        self._pace.flush()
        if self._report is None:
            raise Sealed(SealedCode.ENGINE_FAILED)
        self._outlet.put(Kind.FRAMES, self._sealer.usage(self._report))
        self._told = self._report

    def _bounded(self, request: GenerateRequest) -> GenerateRequest:
        most = self._kitchen.model.max_output_tokens
        if request.sampling.max_tokens <= most:
            return request
        return replace(request, sampling=replace(request.sampling, max_tokens=most))

    async def _stream(self, request: GenerateRequest) -> None:
        chunks = self._kitchen.engine.generate(request, partition=self._partition)
        async with _closing(chunks):
            async for chunk in chunks:
                self._output += chunk.tokens
                if chunk.finish_reason is not None:
                    self._report = _report_of(chunk, chunk.finish_reason)
                if chunk.progress:
                    self._progress = chunk.progress
                if chunk.text or chunk.progress:
                    if self._outlet.full:
                        await self._outlet.room()
                    self._send(chunk)

    def _send(self, chunk: Chunk) -> None:
        """Seal text, count and progress of a chunk, now or with its followers; the first words never wait."""
        self._sealer.add(chunk)
        first, self._spoken = not self._spoken and bool(chunk.text), self._spoken or bool(chunk.text)
        self._pace.added(urgent=first)

    def _pass_on(self) -> None:
        self._outlet.put(Kind.FRAMES, self._sealer.take())

    def _cut_report(self) -> UsageReport:
        usage = Usage(input=self._progress[1], output=self._output)
        return UsageReport(usage=usage, finish=FinishReason.LENGTH)

    @contextlib.asynccontextmanager
    async def _pulse(self) -> AsyncIterator[None]:
        """Seal a progress frame whenever nothing was sent for a while."""
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with contextlib.suppress(NodeError, ReplyFull):  # the stream itself meets both and answers for them
            while True:
                await asyncio.sleep(max(begun, self._pace.last_s) + PULSE_S - loop.time())
                if loop.time() - max(begun, self._pace.last_s) >= PULSE_S:
                    await self._outlet.room()
                    self._send(Chunk(progress=self._progress))

    # --- finish ------------------------------------------------------------------------------------

    async def _finish(self, identity: IdentityKey, *, failed: bool) -> None:
        report = self._told
        facts = ReceiptFacts(
            model_id=self._kitchen.model.model_id,
            manifest=bytes(32) if self._kitchen.wrong_receipt else self._kitchen.model.manifest,
            usage=report,
            finish=report.finish if report else None,
            status=STATUS_ERROR if failed else STATUS_OK,
        )
        # Signing takes milliseconds: on a thread, while the last frames are on their way.
        frames, final = await asyncio.to_thread(self._sealer.finish, facts, identity)
        self._outlet.put(Kind.FRAMES, frames)
        self._outlet.put(Kind.FINAL, final)


def _told_inside(error: Exception) -> Sealed:
    """Classify. Raises the error again when it is about the transport, not about the request."""
    if isinstance(error, NodeError) and not isinstance(error, Sealed):
        raise error
    told = sealed(error)
    if told.code is SealedCode.ENGINE_FAILED and not isinstance(error, Sealed):
        events.fault(error)
    return told


def _report_of(chunk: Chunk, finish: FinishReason) -> UsageReport:
    return UsageReport(
        usage=chunk.usage or Usage(), finish=finish, params=chunk.params or {}, timing=chunk.timing or EngineTiming()
    )


def _closing(chunks: AsyncIterator[Chunk]) -> contextlib.AbstractAsyncContextManager[object]:
    """Close a generator at once when its reader stops: that is how an engine learns of a cancel."""
    return contextlib.aclosing(chunks)  # type: ignore[type-var]
