"""What the gateway answers: the handlers of SPEC 14 and what they share. No key that opens anything.

It works on the contexts that grpc hands over and imports nothing of it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hybrid.wire.attest import MAX_NONCES
from hybrid.wire.codec import decode_attest_request, decode_invoke_request, decode_node_ref, split_parts
from hybrid.wire.encoding import u32
from hybrid.wire.errors import ErrorCode, Malformed, StaleKey

from . import events
from .access import admission
from .calls import LogFiles, address_of, left_ms_of, only, write
from .config import Settings
from .errors import Busy
from .events import Event, Phase
from .front import admit
from .hall import Hall
from .health import Readiness, Reason
from .link import ACK_BYTES, LINK_STREAM, READER_PATIENCE_S, Kind, Operation
from .log_files import read_event_log
from .metrics import Metrics
from .patience import Patience
from .progress import Progress
from .publication import Publication
from .rate import AtOnce, Rate
from .streams import Stream
from .turns import Turns
from .upstream import Upstream

if TYPE_CHECKING:
    from grpc import aio

    Context = aio.ServicerContext[Any, Any]

DIRECTORY_PER_MINUTE = 60  # SPEC 15
NONCES_PER_ADDRESS = 4  # SPEC 15
LOG_LOOK_S = 1.0  # how often the log's checkpoint is looked at


class Gateway:
    """The handlers, the worker behind them, and whether they answer.

    tell: tells the launcher which phase begins, ``ready`` or ``draining``.  drained: set at the end of a drain.
    """

    def __init__(self, settings: Settings, *, tell: Callable[[Phase], None] = lambda _: None) -> None:
        """Raise StartFailure with exit code 2 for files of no use."""
        self._settings = settings
        self._faulty = settings.fault == "unavailable"
        self._access = settings.access
        self._admission = admission(settings)
        self._callers = Hall(2 * settings.streams)
        self._directory_rate = Rate(DIRECTORY_PER_MINUTE)
        self._behind_router = settings.access == "router"
        self._attesting = AtOnce(MAX_NONCES if self._behind_router else NONCES_PER_ADDRESS)
        self._event_log = read_event_log(settings.event_log)
        self._log = LogFiles(settings.log)
        self._tell = tell
        self._drain: asyncio.Task[None] | None = None
        self._closed = False
        self.drained = asyncio.Event()
        self.metrics = Metrics()
        self.progress = Progress()
        self.health = Readiness()
        self.worker = Upstream(
            streams=settings.streams,
            changed=self._judge,
            counts=self.metrics,
            retry_ms=lambda: self.progress.retry_ms,
        )
        self._turns = Turns(self._collect)

    async def _collect(self, nonces: Sequence[bytes]) -> bytes:
        return await self.worker.call(Operation.ATTEST, b"".join(nonces))

    async def follow_log(self) -> None:
        """Hand the log's newest checkpoint to the worker whenever one of them is new, for ever."""
        handed: tuple[int, bytes] = (0, b"")
        while True:
            with contextlib.suppress(Malformed):
                now = (self.worker.links, self._log.checkpoint())
                if now != handed and self.worker.send(Kind.CHECKPOINT, LINK_STREAM, now[1]):
                    handed = now
            await asyncio.sleep(LOG_LOOK_S)

    # --- whether it answers --------------------------------------------------------------------------

    def hear_startup(self, news: dict[str, Any]) -> None:
        """Take what the launcher says about the worker's start."""
        self.progress.hear(news)
        self.metrics.startup(self.progress.phase)

    def _judge(self) -> None:
        """Say again whether requests are answered; called whenever that may have changed, and each second."""
        if self.worker.publication is not None:
            if not self.progress.over:
                self._tell(Phase.READY)
            self.progress.done()
        elif self.progress.over:
            self.metrics.restarted()
            self.progress.begin()
        self.metrics.startup(self.progress.phase)
        self.health.set(*self._reasons())

    def _reasons(self) -> Iterator[Reason]:
        publication, now = self.worker.publication, time.time()
        if self._drain:
            yield Reason.DRAINING
        if self._faulty:
            yield Reason.FAULT
        if publication is None:
            yield Reason.WORKER_GONE if self.progress.starts > 1 else Reason.STARTING
        elif self.worker.silent:
            yield Reason.WORKER_SILENT
        elif not any(row.opens <= now <= row.closes for row in publication.accepted):
            yield Reason.KEYS_EXPIRED

    def _published(self) -> Publication:
        """Return what the worker published. Raises Busy while requests are not answered."""
        publication = self.worker.publication
        if publication is None or self._closed or self.health.reasons - {Reason.DRAINING}:
            raise Busy(self.progress.retry_ms)
        return publication

    # --- handlers ----------------------------------------------------------------------------------

    async def get_directory(self, request: bytes, context: "Context") -> None:
        """Directory.Get: an empty request, the same bytes for everybody."""
        if request:
            raise Malformed("the request of Directory.Get is empty")
        self._published()
        self._directory_rate.take(address_of(context))
        for part in self.worker.parts:
            await write(context, part)

    async def attest(self, request: bytes, context: "Context") -> None:
        """Evidence.Attest: evidence over the caller's nonce, collected together with others'."""
        node_id, nonce = decode_attest_request(request)
        self._check_own(node_id)
        with self._attesting.enter("" if self._behind_router else address_of(context)):
            reply = await self._turns.take(nonce)
        for part in split_parts(reply):
            await write(context, part)

    async def event_log(self, request: bytes, context: "Context") -> None:
        """Evidence.EventLog: the firmware's event log as the kernel has it; empty where there is none."""
        self._check_own(decode_node_ref(request))
        self._directory_rate.take(address_of(context))
        for part in split_parts(self._event_log):
            await write(context, part)

    def _check_own(self, node_id: bytes) -> None:
        """See that a node is this one. Raises StaleKey, Busy."""
        if node_id not in {row.node_id for row in self._published().accepted}:
            raise StaleKey

    async def log_file(self, request: bytes, context: "Context") -> None:
        """Log.File: one static file of the transparency log."""
        await self._log.send(request, context)

    async def invoke(self, requests: AsyncIterator[bytes], context: "Context") -> None:
        """Inference.Invoke: one sealed request in, one sealed reply out."""
        self._published()  # a node that is not ready reads nothing
        async with self._callers.enter():
            data = await only(requests)
        begun = time.monotonic()
        publication = self._published()
        request = decode_invoke_request(data)
        admitted = admit(request, publication, access=self._access)
        left_ms = left_ms_of(admitted.deadline_ms, context.time_remaining(), begun)
        with (
            self._admission.enter(request.token, size_bytes=len(request.body)) as tenant,
            self.worker.stream(len(data), left_ms) as (number, stream),
        ):
            self.worker.send(Kind.OPEN, number, admitted.opening(request, left_ms, tenant).encode())
            del data, request
            await self._relay(number, stream, context)

    async def _relay(self, number: int, stream: Stream, context: "Context") -> None:
        taken = 0
        with Patience(READER_PATIENCE_S) as patience:
            while message := await stream.next():
                reply, frame_bytes = message
                patience.begin()
                await context.write(reply)
                patience.end()
                taken += frame_bytes
                if taken >= ACK_BYTES:
                    self.worker.send(Kind.ACK, number, u32(taken))
                    taken = 0

    def refused(self, code: ErrorCode) -> None:
        """Count a refusal, whoever decided it."""
        self.metrics.refused(code)
        if code is ErrorCode.REPLAY:
            self.metrics.replayed()
        elif code is ErrorCode.REJECTED:
            self.metrics.undecryptable()

    # --- changes while it runs -----------------------------------------------------------------------

    def adopt(self, settings: Settings) -> None:
        """Take over settings outside the configuration digest, for a drain to come."""
        self._settings = settings

    def drain(self, *, grace_s: float | None = None, timeout_s: float | None = None) -> None:
        """Begin to end the node, as SIGTERM does; the settings say how long that may take unless the caller does.

        Not ready at once; for grace_s requests are still answered, since balancers learn late; from then on they are
        refused; ``drained`` when the last reply has ended, or was refused after timeout_s more. Once only.
        """
        if self._drain is None:
            grace_s = self._settings.drain_grace_s if grace_s is None else grace_s
            timeout_s = self._settings.drain_timeout_s if timeout_s is None else timeout_s
            self._drain = asyncio.create_task(self._empty(grace_s, timeout_s))
            self._tell(Phase.DRAINING)
            self.metrics.draining(draining=True)
            self._judge()
            events.emit(Event.DRAINING, streams=self.worker.running)

    async def _empty(self, grace_s: float, timeout_s: float) -> None:
        await asyncio.sleep(grace_s)
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.worker.idle.wait()
        self.worker.refuse_all()
        self.drained.set()
