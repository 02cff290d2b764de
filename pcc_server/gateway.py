"""The front process: gRPC on one exclusive port, ciphertext on the link, no key that opens anything.

Run by the launcher: ``python -m pcc_server.gateway``. The only file of the node that imports grpc.
"""

import asyncio
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from hybrid.wire.codec import METHODS, decode_invoke_request
from hybrid.wire.constants import MAX_INVOKE_BYTES
from hybrid.wire.encoding import u32
from hybrid.wire.errors import ErrorCode, Malformed

from . import child, control, errors, events, health
from .config import Settings, split_address
from .errors import Busy, Limit, Refusal, StartFailure
from .events import Event
from .front import admit
from .health import Readiness, Serving
from .link import READER_PATIENCE_S, Kind
from .publication import Publication
from .rate import Rate
from .slots import Slots
from .streams import Stream
from .upstream import Upstream

RETRY_KEY = "retry-after-ms"
DIRECTORY_PER_MINUTE = 60  # SPEC 15
READ_S = 15.0  # for a caller to send its one message and close its half
FLUSH_S = 1.0  # for last words to leave
_CONNECTION_AGE_MS = 30 * 60 * 1000
_CONNECTION_GRACE_MS = 11 * 60 * 1000  # the longest deadline, and a minute: then the connection is closed
_MAX_METADATA = 8 * 1024
_IDENTITY_ONLY = 1  # bit 0: no compression, also not when a caller offers it

Context = aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


class Gateway:
    """The handlers and what they share."""

    def __init__(self, settings: Settings) -> None:
        self._serving = settings.fault != "unavailable"
        self._callers = Slots(running=2 * settings.streams, queued=0)
        self._directory_rate = Rate(DIRECTORY_PER_MINUTE)
        self.health = Readiness()
        self.worker = Upstream(streams=settings.streams, changed=self._judge)

    def _judge(self) -> None:
        self.health.set_ready(self.worker.alive and self._serving)

    def _published(self) -> Publication:
        if self.worker.publication is None or not self.health.ready:
            raise Busy
        return self.worker.publication

    # --- handlers ----------------------------------------------------------------------------------

    async def get_directory(self, request: bytes, context: Context) -> None:
        """Directory.Get: an empty request, the same bytes for everybody."""
        if request:
            raise Malformed("the request of Directory.Get is empty")
        self._published()
        self._directory_rate.take(context.peer().rpartition(":")[0])
        for part in self.worker.parts:
            await _write(context, part)

    async def invoke(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Inference.Invoke: one sealed request in, one sealed reply out."""
        self._published()  # a node that is not ready reads nothing
        with self._callers.enter():
            data = await _only(requests)
        begun = time.monotonic()
        publication = self._published()
        request = decode_invoke_request(data)
        admitted = admit(request, publication)
        left_ms = _left_ms(admitted.deadline_ms, context.time_remaining(), begun)
        with self.worker.stream(len(data), left_ms) as (number, stream):
            self.worker.send(Kind.OPEN, number, admitted.opening(request, left_ms).encode())
            del data, request
            await self._relay(number, stream, context)

    async def _relay(self, number: int, stream: Stream, context: Context) -> None:
        while message := await stream.next():
            reply, frame_bytes = message
            await _write(context, reply)
            if frame_bytes:
                self.worker.send(Kind.ACK, number, u32(frame_bytes))

    async def check(self, request: bytes, context: Context) -> bytes:
        """health.Check: answer once. NOT_FOUND for a service that does not exist, as that protocol wants it."""
        status = self.health.status(health.decode_request(request))
        if status is Serving.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        return health.encode_reply(status)

    async def watch(self, request: bytes, context: Context) -> None:
        """health.Watch: answer now and at every change."""
        async for status in self.health.follow(health.decode_request(request)):
            await _write(context, health.encode_reply(status))

    # --- drain -------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new at once; return when what runs has ended, or the time is over and it was refused too."""
        self._serving = False
        self._judge()
        events.emit(Event.DRAINING, streams=self.worker.running)
        try:
            async with asyncio.timeout(timeout_s):
                await self.worker.idle.wait()
        except TimeoutError:
            self.worker.refuse_all()


async def _write(context: Context, message: bytes) -> None:
    """Send one message. Raises Limit when the caller takes nothing for half a minute."""
    try:
        async with asyncio.timeout(READER_PATIENCE_S):
            await context.write(message)
    except TimeoutError:
        raise Limit from None


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
            if not isinstance(error, errors.Refused):  # the worker has told of those
                _tell(error, refusal)
        await _abort(context, refusal)
        return None

    return wrapped


def _tell(error: Exception, refusal: Refusal) -> None:
    if refusal.code is ErrorCode.FAULT:
        events.fault(error)
    events.emit(Event.REFUSED, code=refusal.code)


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
            ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
            ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
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
    _check_pair(settings)
    return server.add_secure_port(settings.listen, grpc.ssl_server_credentials([pair]))


def _check_pair(settings: Settings) -> None:
    """Try the files in the standard library, which says no where grpc would only fail to bind."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, lambda: "")
    except (OSError, ValueError):
        raise StartFailure(
            f"{settings.tls_cert} and {settings.tls_key} are not a certificate chain and its unencrypted key, both PEM",
            errors.CONFIG_EXIT,
        ) from None


async def _either(*events_: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events_]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _main(inherited: child.Inherited) -> None:
    settings = inherited.settings
    gateway = Gateway(settings)
    server, listen = make_server(gateway, settings)
    stop = asyncio.Event()
    drains: list[asyncio.Task[None]] = []

    async def drain(timeout_s: float) -> None:
        await gateway.drain(timeout_s)
        stop.set()

    def told(message: dict[str, Any]) -> None:
        if "drain_s" in message:
            drains.append(asyncio.create_task(drain(float(message["drain_s"]))))

    def ended() -> None:
        gateway.worker.lose()
        stop.set()

    def link_ended() -> None:
        if gateway.worker.published.is_set():  # before that the launcher knows more: why the worker cannot start
            ended()

    await gateway.worker.connect(inherited.link_fd, link_ended)
    child.on_control(inherited.control, told, ended)
    child.silence()
    await server.start()
    await _either(gateway.worker.published, stop)
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
