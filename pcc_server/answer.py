"""One opened request becomes one sealed reply: head, frames as tokens come, usage, receipt, final frame (SPEC 8)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from hybrid.wire.codec import decode_request
from hybrid.wire.constants import FRAMES_PER_MESSAGE
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.errors import ReplyFull, SealedCode
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.keys import IdentityKey
from hybrid.wire.receipt import STATUS_ERROR, STATUS_OK, ReceiptFacts, SealedError, UsageReport
from hybrid.wire.types import Chunk, Engine, EngineTiming, FinishReason, GenerateRequest, Usage

from . import events
from .account import CANCELLED, ERROR, OK, Account
from .admission import Admission
from .cache_partition import NOTHING_KEPT, partition
from .errors import NodeError, Sealed, sealed
from .link import Kind
from .outlet import Outlet
from .pace import Pace
from .places import Place
from .tally import Tally

PULSE_S = 5.0  # a client hears of a request that waits or prefills at least so often (node design 3.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What all answers of a worker share.

    cache_secret: of this process, names what an engine may keep between requests; empty: nothing.
    batch: frames of one message, at most.  wrong_receipt: a fault switch.
    """

    engine: Engine
    model: ModelEntry
    admission: Admission
    tally: Tally = field(default_factory=Tally)
    cache_secret: bytes = field(default=b"", repr=False)
    batch: int = FRAMES_PER_MESSAGE
    wrong_receipt: bool = False


class Answer:
    """The way of one request from its opened bytes to the final frame. Cancelling the task drops everything."""

    def __init__(self, kitchen: Kitchen, sealer: ReplySealer, outlet: Outlet, *, tenant: int) -> None:
        """tenant: whose request it is, see ``access``."""
        self._kitchen = kitchen
        self._sealer = sealer
        self._outlet = outlet
        self._tenant = tenant
        self._partition = NOTHING_KEPT
        loop = asyncio.get_running_loop()
        self._account = Account(kitchen.tally, loop.time, loop.time())
        self._begun = False
        self._progress = (0, 0)
        self._report: UsageReport | None = None
        self._told: UsageReport | None = None
        self._spoken = False
        self._pace = Pace(self._pass_on, kitchen.batch, streams=lambda: kitchen.admission.running)

    async def run(self, plain: bytes, identity: IdentityKey, deadline: float) -> SealedCode | None:
        """Answer. deadline: on the loop's clock. Returns what was told inside as an error, if anything was.

        Raises, before anything was sent: Busy and DeadlinePassed when there is no place for it. Raises at any time
        Limit when the reader is too slow, Busy when memory runs out. Everything else that goes wrong is sealed.
        """
        told: SealedError | None = None
        outcome = ERROR
        try:
            told = await self._try(plain, deadline)
            outcome = ERROR if told else OK
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        finally:
            self._close_account(outcome)
        self._begin()
        if told:
            self._outlet.put(Kind.FRAMES, self._sealer.error(told))
        await self._finish(identity, failed=bool(told))
        return told.code if told else None

    async def _try(self, plain: bytes, deadline: float) -> SealedError | None:
        """Generate. Returns what is told inside, not as an exception: that would hold frames. Raises what is not."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._take_place(plain, deadline)
        except Exception as raised:  # noqa: BLE001 - the table in errors.py ends every one of them
            return _told_inside(raised)
        finally:
            self._pace.close()  # what still waits goes with the next frames
        return None

    def _close_account(self, outcome: str) -> None:
        report = self._told
        usage = report.usage if report else Usage(input=self._progress[1])
        self._account.close(outcome, report.finish if report else None, usage, cached=bool(self._partition))

    def _begin(self) -> None:
        """Send the head, once: from then on nothing is refused in the open."""
        if not self._begun:
            self._begun = True
            self._outlet.put(Kind.HEAD, self._sealer.head)

    # --- generate ----------------------------------------------------------------------------------

    async def _take_place(self, plain: bytes, deadline: float) -> None:
        """Count tokens, and generate in a place. While it waits for its turn there, the client hears of it."""
        request = self._bounded(decode_request(plain))
        if self._kitchen.cache_secret:
            self._partition = partition(self._kitchen.cache_secret, request.cache_salt, self._kitchen.model.manifest)
        prompt, context = await self._kitchen.engine.count_tokens(request), self._kitchen.engine.context_size
        if prompt >= context:
            raise Sealed(SealedCode.CONTEXT_LENGTH, context, prompt + 1)
        most = min(request.sampling.max_tokens, context - prompt)
        places = self._kitchen.admission
        with places.place(tenant=self._tenant, prompt=prompt, most=most, deadline=deadline) as place:
            self._progress = (0, prompt)
            self._begin()
            async with self._pulse():
                await self._run(request, place)

    async def _run(self, request: GenerateRequest, place: Place) -> None:
        with self._account.noticing():
            await place.turn()
        self._account.start()
        try:
            await self._stream(request, place)
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

    async def _stream(self, request: GenerateRequest, place: Place) -> None:
        chunks = self._kitchen.engine.generate(request, partition=self._partition)
        async with _closing(chunks):
            with self._account.noticing():
                async for chunk in chunks:
                    await self._take(chunk, place)

    async def _take(self, chunk: Chunk, place: Place) -> None:
        """Note what came and pass it on, when there is room for it."""
        self._account.token(chunk.tokens)
        if chunk.finish_reason is not None:
            self._report = _report_of(chunk, chunk.finish_reason)
        if chunk.progress:
            self._progress = chunk.progress
        place.told(read=chunk.progress[0] if chunk.progress else None, tokens=chunk.tokens)
        if chunk.text or chunk.progress:
            if self._outlet.full:
                place.held_up = True
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
        usage = Usage(input=self._progress[1], output=self._account.tokens)
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


def _told_inside(error: Exception) -> SealedError:
    """Classify. Raises the error again when it is about the transport, not about the request."""
    if isinstance(error, NodeError) and not isinstance(error, Sealed):
        raise error
    told = sealed(error)
    if told.code is SealedCode.ENGINE_FAILED and not isinstance(error, Sealed):
        events.fault(error)
    return SealedError(code=told.code, first=told.first, second=told.second)


def _report_of(chunk: Chunk, finish: FinishReason) -> UsageReport:
    return UsageReport(
        usage=chunk.usage or Usage(), finish=finish, params=chunk.params or {}, timing=chunk.timing or EngineTiming()
    )


def _closing(chunks: AsyncIterator[Chunk]) -> contextlib.AbstractAsyncContextManager[object]:
    """Close a generator at once when its reader stops: that is how an engine learns of a cancel."""
    return contextlib.aclosing(chunks)  # type: ignore[type-var]
