"""The front process: gRPC on one exclusive port, ciphertext on the link, no key that opens anything.

Run by the launcher: ``python -m pcc_server.gateway``. The only file of the node that imports grpc.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from hybrid.wire.codec import METHODS, decode_invoke_request, split_parts
from hybrid.wire.constants import MAX_INVOKE_BYTES
from hybrid.wire.encoding import u32
from hybrid.wire.errors import ErrorCode, Malformed

from . import child, control, errors, events, health
from .config import Settings, split_address
from .errors import Busy, Refusal, StartFailure
from .events import Event
from .front import admit
from .health import Readiness, Serving
from .link import LINK_STREAM, Frame, Kind, Link
from .publication import Publication
from .rate import Rate
from .streams import Stream

RETRY_KEY = "retry-after-ms"
DIRECTORY_PER_MINUTE = 60  # SPEC 15
PENDING_BYTES = 64 * 1024 * 1024  # ciphertext of requests that the worker has not opened yet
READ_S = 15.0  # for a caller to send its one message and close its half
GRACE_MS = 2_000  # beyond a request's deadline: the worker answers for it first
SILENT_S = 8.0  # without a beat of the worker: not ready
FLUSH_S = 1.0  # for last words to leave
_MAX_METADATA = 8 * 1024
_IDENTITY_ONLY = 1  # bit 0: no compression, also not when a caller offers it

Context = aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


class Gateway:
    """The handlers and what they share."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._publication: Publication | None = None
        self._parts: list[bytes] = []
        self._streams: dict[int, Stream] = {}
        self._numbers = 0
        self._directory_rate = Rate(DIRECTORY_PER_MINUTE)
        self._last_beat = 0.0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.health = Readiness()
        self.published = asyncio.Event()

    # --- link --------------------------------------------------------------------------------------

    async def connect(self, link_fd: int) -> None:
        """Take over the link and watch the worker's beat."""
        self._link = await Link.connect(link_fd, self._on_frame, self.lose_worker)
        self._watch_task = self._loop.create_task(self._watch_beat())

    def _on_frame(self, frame: Frame) -> None:
        if frame.stream in self._streams:
            self._streams[frame.stream].put(frame)
        elif frame.kind is Kind.PUBLISH:
            self._publication = Publication.decode(frame.payload)
            self._parts = split_parts(self._publication.reply)
            self.published.set()
        if frame.stream == LINK_STREAM:
            self._last_beat = self._loop.time()
            self._judge()

    def lose_worker(self) -> None:
        """Refuse everything: the link is gone, and with it the keys."""
        if self._publication is not None:
            events.emit(Event.LINK_LOST, streams=len(self._streams))
        self._publication = None
        for stream in self._streams.values():
            stream.refuse(Refusal(code=ErrorCode.BUSY))
        self._judge()

    async def _watch_beat(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self.health.ready and not self._alive():
                events.emit(Event.WORKER_SILENT, streams=len(self._streams))
                self._judge()

    def _alive(self) -> bool:
        return self._publication is not None and self._loop.time() - self._last_beat < SILENT_S

    def _judge(self) -> None:
        self.health.set_ready(self._alive() and not self._draining and self._settings.fault != "unavailable")

    def _published(self) -> Publication:
        if self._publication is None or not self.health.ready:
            raise Busy
        return self._publication

    # --- handlers ----------------------------------------------------------------------------------

    async def get_directory(self, request: bytes, context: Context) -> None:
        """Directory.Get: an empty request, the same bytes for everybody."""
        if request:
            raise Malformed("the request of Directory.Get is empty")
        self._published()
        self._directory_rate.take(context.peer().rpartition(":")[0])
        for part in list(self._parts):
            await context.write(part)

    async def invoke(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Inference.Invoke: one sealed request in, one sealed reply out."""
        data = await _only(requests)
        begun = time.monotonic()
        publication = self._published()
        request = decode_invoke_request(data)
        admitted = admit(request, publication)
        left_ms = _left_ms(admitted.deadline_ms, context.time_remaining(), begun)
        number, stream = self._open(len(data))
        timer = self._loop.call_later((left_ms + GRACE_MS) / 1000, stream.refuse, Refusal(code=ErrorCode.DEADLINE))
        try:
            self._send(Kind.OPEN, number, admitted.opening(request, left_ms).encode())
            del data, request
            await self._relay(number, stream, context)
        finally:
            timer.cancel()
            self._close(number, stream)

    async def _relay(self, number: int, stream: Stream, context: Context) -> None:
        while message := await stream.next():
            reply, frame_bytes = message
            await context.write(reply)
            if frame_bytes:
                self._send(Kind.ACK, number, u32(frame_bytes))

    def _open(self, size_bytes: int) -> tuple[int, Stream]:
        pending = sum(stream.pending_bytes for stream in self._streams.values())
        if len(self._streams) >= self._settings.streams or pending + size_bytes > PENDING_BYTES:
            raise Busy
        self._numbers = self._numbers % 0xFFFF_FFFF + 1
        stream = self._streams[self._numbers] = Stream(size_bytes)
        self._idle.clear()
        return self._numbers, stream

    def _close(self, number: int, stream: Stream) -> None:
        del self._streams[number]
        self._send(Kind.CANCEL, number)  # of a stream that has ended the worker knows nothing any more
        if not stream.ended:
            events.emit(Event.CANCELLED, streams=len(self._streams))
        if not self._streams:
            self._idle.set()

    def _send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        if self._link is not None:
            self._link.send(kind, number, payload)

    async def check(self, request: bytes, context: Context) -> bytes:
        """health.Check: answer once. NOT_FOUND for a service that does not exist, as that protocol wants it."""
        status = self.health.status(health.decode_request(request))
        if status is Serving.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        return health.encode_reply(status)

    async def watch(self, request: bytes, context: Context) -> None:
        """health.Watch: answer now and at every change."""
        async for status in self.health.follow(health.decode_request(request)):
            await context.write(health.encode_reply(status))

    # --- drain -------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new at once; return when what runs has ended, or the time is over."""
        self._draining = True
        self._judge()
        events.emit(Event.DRAINING, streams=len(self._streams))
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return


async def _only(requests: AsyncIterator[bytes]) -> bytes:
    """Read exactly one message and the caller's half-close. Raises Malformed."""
    try:
        async with asyncio.timeout(READ_S):
            messages = [message async for message in _at_most_two(requests)]
    except TimeoutError:
        raise Malformed("the caller did not finish its request") from None
    if len(messages) != 1:
        raise Malformed("a request is exactly one message")
    return messages[0]


async def _at_most_two(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    count = 0
    async for message in requests:
        yield message
        count += 1
        if count > 1:
            return


def _left_ms(deadline_ms: int, remaining_s: float | None, begun: float) -> int:
    spent_ms = (time.monotonic() - begun) * 1000
    left_ms = deadline_ms if remaining_s is None else min(deadline_ms, remaining_s * 1000)
    return max(0, int(left_ms - spent_ms))


# --- the server --------------------------------------------------------------------------------------


def guarded(handler: Handler) -> Handler:
    """Wrap a handler so that nothing but a code's name ever leaves it (SPEC 10)."""

    async def wrapped(request: Any, context: Context) -> Any:
        try:
            return await handler(request, context)
        except aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
            refusal = errors.refusal(error)
            if refusal.code is ErrorCode.FAULT and not isinstance(error, errors.Refused):
                events.fault(error)
        await _abort(context, refusal)
        return None

    return wrapped


async def _abort(context: Context, refusal: Refusal) -> None:
    hint = ((RETRY_KEY, str(refusal.retry_ms)),) if refusal.retry_ms else ()
    await context.abort(grpc.StatusCode[errors.STATUS[refusal.code]], refusal.code.value, hint)


async def _later(_request: Any, context: Context) -> None:
    """Refuse what the protocol declares and a later version serves."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")


class _Methods(grpc.GenericRpcHandler):
    """Path -> handler, on raw bytes: decoding is ours and strict."""

    def __init__(self, gateway: Gateway) -> None:
        stream = grpc.unary_stream_rpc_method_handler
        later: grpc.RpcMethodHandler[Any, Any] = stream(guarded(_later))
        self._handlers = {
            METHODS["Directory.Get"]: stream(guarded(gateway.get_directory)),
            METHODS["Inference.Invoke"]: grpc.stream_stream_rpc_method_handler(guarded(gateway.invoke)),
            METHODS["Evidence.Attest"]: later,
            METHODS["Evidence.EventLog"]: later,
            METHODS["Log.File"]: later,
            health.CHECK: grpc.unary_unary_rpc_method_handler(guarded(gateway.check)),
            health.WATCH: stream(guarded(gateway.watch)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a path."""
        return self._handlers.get(handler_call_details.method)


def make_server(gateway: Gateway, settings: Settings) -> tuple[aio.Server, str]:
    """Bind the port, exclusively. Returns the server and the address it listens on. Raises StartFailure."""
    server = aio.server(
        options=(
            ("grpc.so_reuseport", 0),  # otherwise a second node on the port gets a share of the requests
            ("grpc.max_receive_message_length", MAX_INVOKE_BYTES),
            ("grpc.max_metadata_size", _MAX_METADATA),
            ("grpc.absolute_max_metadata_size", _MAX_METADATA),
            ("grpc.max_concurrent_streams", 2 * settings.streams),
            ("grpc.max_connection_age_ms", 30 * 60 * 1000),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        )
    )
    server.add_generic_rpc_handlers((_Methods(gateway),))
    host, _ = split_address(settings.listen)
    try:
        port = _bind(server, settings)
    except RuntimeError:
        port = 0
    if not port:
        raise StartFailure(
            f"cannot listen on {settings.listen}: another program has the port, or the address is not this machine's"
        )
    return server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: aio.Server, settings: Settings) -> int:
    if not settings.tls_cert:
        return server.add_insecure_port(settings.listen)
    try:
        pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    except OSError as error:
        raise StartFailure(f"cannot read {error.filename}: {error.strerror}", errors.CONFIG_EXIT) from None
    return server.add_secure_port(settings.listen, grpc.ssl_server_credentials([pair]))


async def _either(*events_: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events_]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _main(inherited: child.Inherited) -> None:
    settings = inherited.settings
    gateway = Gateway(settings)
    server, listen = make_server(gateway, settings)
    await gateway.connect(inherited.link_fd)
    stop = asyncio.Event()
    drains: list[asyncio.Task[None]] = []

    async def drain(timeout_s: float) -> None:
        await gateway.drain(timeout_s)
        stop.set()

    def told(message: dict[str, Any]) -> None:
        if "drain_s" in message:
            drains.append(asyncio.create_task(drain(float(message["drain_s"]))))

    def ended() -> None:
        gateway.lose_worker()
        stop.set()

    child.on_control(inherited.control, told, ended)
    child.silence()
    await server.start()
    await _either(gateway.published, stop)
    control.write(inherited.control, facts={"listen": listen})
    await stop.wait()
    gateway.health.close()
    await server.stop(FLUSH_S)
    os._exit(0)  # threads of the library would make a clean exit wait


def main() -> None:
    """Run as a child of the launcher."""
    inherited = child.begin(sys.argv[1:])
    child.run(inherited, lambda: _main(inherited))


if __name__ == "__main__":
    main()
