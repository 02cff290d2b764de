"""``pcc-server route``: one address for several nodes (SPEC 4, 7). It holds no key that opens anything, keeps nothing.

It hands a sealed request to the client's candidates in the client's order, and serves one directory of all nodes.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from hybrid.wire.codec import (
    InvokeRequest,
    decode_attest_request,
    decode_invoke_request,
    decode_node_ref,
    encode_invoke_request,
    split_parts,
)
from hybrid.wire.errors import ErrorCode, Malformed, StaleKey
from hybrid.wire.header import Header

from . import child, events
from .access import admission
from .calls import LogFiles, address_of, left_ms_of, only, write
from .composer import Composed, Composer
from .errors import Busy, DeadlinePassed, Refused
from .events import Event
from .front import client_header
from .gateway import FLUSH_S, Context, make_server
from .grpc_node import GrpcNode, read_reply
from .hall import Hall
from .handlers import DIRECTORY_PER_MINUTE, NONCES_PER_ADDRESS
from .health import Readiness, Reason
from .listing import Rules
from .notices import Notices
from .rate import AtOnce, Rate
from .roster import Roster
from .route_config import RouteSettings
from .route_keys import directory_signer, open_ledger
from .slots import Slots

EVIDENCE_S = 170.0  # for a node to collect evidence: a slow TPM takes long to give up
HEAD_S = 10.0  # for a node to begin its reply: it does so before it generates
READER_LOOK_S = 0.5
GRACE_S = 2.0  # beyond a request's deadline: the node answers for it first
NEXT = frozenset({ErrorCode.BUSY, ErrorCode.STALE_KEY, ErrorCode.FAULT})  # SPEC 7: these lead to the next candidate


class Router:
    """The handlers and what they share."""

    def __init__(self, settings: RouteSettings, composer: Composer) -> None:
        rules = Rules(deployment=settings.deployment, epoch_s=settings.epoch_s, allow_software=settings.allow_software)
        self._nodes = [GrpcNode(place, settings) for place in settings.nodes]
        self.roster = Roster(self._nodes, rules, composer, self._publish)
        self._admission = admission(settings)
        self._hall = Hall(settings.streams)
        self._callers = Slots(settings.streams)
        self._directory_rate = Rate(DIRECTORY_PER_MINUTE)
        self._attesting = AtOnce(NONCES_PER_ADDRESS)
        self._log = LogFiles(settings.log)
        self._parts: list[bytes] = []
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.health = Readiness()
        self.published = asyncio.Event()

    def _publish(self, composed: Composed) -> None:
        self._parts = split_parts(composed.reply)
        if not self._draining:
            self.health.set()
        self.published.set()

    def _check_ready(self) -> None:
        if not self.health.ready:
            raise Busy

    async def get_directory(self, request: bytes, context: Context) -> None:
        """Directory.Get: an empty request, the same bytes for everybody."""
        if request:
            raise Malformed("the request of Directory.Get is empty")
        self._check_ready()
        self._directory_rate.take(address_of(context))
        for part in self._parts:
            await write(context, part)

    async def attest(self, request: bytes, context: Context) -> None:
        """Evidence.Attest: passed on to the node it names."""
        node_id, _ = decode_attest_request(request)
        with self._attesting.enter(address_of(context)):
            await self._pass_on("Evidence.Attest", node_id, request, context)

    async def event_log(self, request: bytes, context: Context) -> None:
        """Evidence.EventLog: the same."""
        self._directory_rate.take(address_of(context))
        await self._pass_on("Evidence.EventLog", decode_node_ref(request), request, context)

    async def _pass_on(self, method: str, node_id: bytes, request: bytes, context: Context) -> None:
        self._check_ready()
        node = self.roster.find(node_id)
        if node is None:
            raise StaleKey
        async with contextlib.aclosing(node.parts(method, request, EVIDENCE_S)) as sent:
            async for part in sent:
                await write(context, part)

    async def log_file(self, request: bytes, context: Context) -> None:
        """Log.File: one static file of the transparency log."""
        await self._log.send(request, context)

    async def invoke(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Inference.Invoke: one sealed request to the first candidate that begins a reply."""
        self._check_ready()
        async with self._hall.enter():
            data = await only(requests)
        self._check_ready()
        with self._inside():
            begun = time.monotonic()
            request = decode_invoke_request(data)
            del data
            header = client_header(request)
            with self._admission.enter(request.token, size_bytes=len(request.body)):
                await self._try_each(request, header, begun, context)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Count one request. Raises Busy when there is no room."""
        with self._callers.enter():
            self._idle.clear()
            try:
                yield
            finally:
                if self._callers.inside == 1:
                    self._idle.set()

    async def _try_each(self, request: InvokeRequest, header: Header, begun: float, context: Context) -> None:
        """Go through the candidates in the client's order. Raises Refused, DeadlinePassed.

        Where any candidate says ``STALE_KEY`` the client is told so, else the last code: only with a new directory
        does it seal to the node that has taken that one's place.
        """
        last: Refused | None = None
        for index, candidate in enumerate(header.candidates):
            left_ms = left_ms_of(header.deadline_ms, context.time_remaining(), begun)
            if not left_ms:
                raise DeadlinePassed
            node = self.roster.find(candidate.node_id)
            refused = (
                await self._try(node, _for_one(request, index), left_ms, context)
                if node
                else Refused(ErrorCode.STALE_KEY)
            )
            if refused is None:
                return
            if refused.code not in NEXT:
                raise refused
            if last is None or last.code is not ErrorCode.STALE_KEY:
                last = refused
            self.roster.poke()
            events.emit(Event.HANDED_OVER, position=index, code=refused.code)
        raise last or Refused(ErrorCode.STALE_KEY)

    @staticmethod
    async def _try(node: GrpcNode, request: bytes, left_ms: int, context: Context) -> Refused | None:
        """Relay one node's reply. Returns its refusal when nothing of a reply was forwarded, else None.

        Raises Refused when the reply breaks off later.
        """
        call = node.invoke(request, left_ms / 1000 + GRACE_S)
        try:
            try:
                message = await read_reply(call, HEAD_S)
            except Refused as refused:
                return refused
            if message is None:
                return Refused(ErrorCode.FAULT)
            while message is not None:
                await write(context, message)
                message = await read_reply(call)
        finally:
            call.cancel()
        return None

    def refused(self, code: ErrorCode) -> None:
        """Count nothing: a router has no metrics, its events say the same."""

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new at once; return when what runs has ended, or the time is over."""
        self._draining = True
        self.health.set(Reason.DRAINING)
        events.emit(Event.DRAINING, streams=self._callers.inside)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    async def close(self) -> None:
        """Close the connections to the nodes."""
        self.health.close()
        await asyncio.gather(*(node.close() for node in self._nodes))


def _for_one(request: InvokeRequest, index: int) -> bytes:
    """Encode what one candidate gets: its own key package and position, never the token."""
    return encode_invoke_request(request.header, request.body, [request.key_packages[index]], index=index)


# --- the process -------------------------------------------------------------------------------------


async def _main(settings: RouteSettings, notices: Notices) -> int:
    signer = directory_signer(settings)
    composer = Composer(
        deployment=settings.deployment,
        epoch_s=settings.epoch_s,
        signer=signer,
        ledger=open_ledger(settings, signer),
    )
    router = Router(settings, composer)
    served = make_server(router, settings)
    child.silence()
    await served.server.start()
    signals = _catch_signals()
    if served.certificates:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, served.certificates.reload, settings)
    tasks = [asyncio.create_task(work) for work in (router.roster.run(), _reader_gone(notices), signals.wait())]
    ready = asyncio.create_task(router.published.wait())
    ready.add_done_callback(lambda _: notices.routing(settings, served.address, composer.node_key))
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    failed = tasks[0] in done
    if not failed and tasks[2] in done:
        notices.draining()
        signals.clear()
        await _either(router.drain(settings.drain_timeout_s), signals.wait())
    await router.close()
    await served.server.stop(FLUSH_S)
    if failed:
        tasks[0].result()
    return 0


def _catch_signals() -> asyncio.Event:
    heard, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard.set)
    return heard


async def _reader_gone(notices: Notices) -> None:
    """Return when the program that reads our JSON lines is gone."""
    while True:
        if notices.reader_gone():
            return
        await asyncio.sleep(READER_LOOK_S)


async def _either(*works: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def run(settings: RouteSettings, notices: Notices) -> int:
    """Route until a signal; returns the exit code. Raises StartFailure."""
    code = asyncio.run(_main(settings, notices))
    notices.stopped(code)
    return code
