"""The front process: gRPC on one exclusive port, ciphertext on the link, no key that opens anything.

Run by the launcher: ``python -m pcc_server.gateway``. Beside the router the only file of the node that imports grpc.
"""

import asyncio
import contextlib
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc import aio

from hybrid.wire.attest import MAX_NONCES
from hybrid.wire.codec import (
    METHODS,
    decode_attest_request,
    decode_invoke_request,
    decode_node_ref,
    split_parts,
)
from hybrid.wire.constants import MAX_INVOKE_BYTES
from hybrid.wire.encoding import u32
from hybrid.wire.errors import ErrorCode, Malformed, StaleKey

from . import child, control, errors, events, harden, health
from .access import admission
from .calls import LogFiles, address_of, left_ms_of, only, write
from .config import Door, Settings, split_address
from .errors import Busy, Refusal, StartFailure
from .events import Event, Program
from .front import admit
from .health import Readiness, Serving
from .link import ACK_BYTES, LINK_STREAM, READER_PATIENCE_S, Kind, Operation
from .log_files import read_event_log
from .patience import Patience
from .publication import Publication
from .rate import AtOnce, Rate
from .slots import Slots
from .streams import Stream
from .turns import Turns
from .upstream import Upstream

if TYPE_CHECKING:
    from .admin import AdminPort

RETRY_KEY = "retry-after-ms"
DIRECTORY_PER_MINUTE = 60  # SPEC 15
NONCES_PER_ADDRESS = 4  # SPEC 15
LOG_LOOK_S = 1.0  # how often the log's checkpoint is looked at
FLUSH_S = 1.0  # for last words to leave
_CONNECTION_AGE_MS = 30 * 60 * 1000
_CONNECTION_GRACE_MS = 11 * 60 * 1000  # the longest deadline, and a minute: then the connection is closed
_MAX_METADATA = 8 * 1024
_IDENTITY_ONLY = 1  # bit 0: no compression, also not when a caller offers it

Context = aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


class Probe:
    """The two methods of grpc.health.v1."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def check(self, request: bytes, context: Context) -> bytes:
        """Answer once. NOT_FOUND for a service that does not exist, as that protocol wants it."""
        status = self._readiness.status(health.decode_request(request))
        if status is Serving.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        return health.encode_reply(status)

    async def watch(self, request: bytes, context: Context) -> None:
        """Answer now and at every change."""
        async for status in self._readiness.follow(health.decode_request(request)):
            await write(context, health.encode_reply(status))


class Gateway:
    """The handlers and what they share."""

    def __init__(self, settings: Settings) -> None:
        self._serving = settings.fault != "unavailable"
        self._access = settings.access
        self._admission = admission(settings)
        self._callers = Slots(running=2 * settings.streams, queued=0)
        self._directory_rate = Rate(DIRECTORY_PER_MINUTE)
        self._behind_router = settings.access == "router"
        self._attesting = AtOnce(MAX_NONCES if self._behind_router else NONCES_PER_ADDRESS)
        self._event_log = read_event_log(settings.event_log)
        self._log = LogFiles(settings.log)
        self.health = Readiness()
        self.worker = Upstream(streams=settings.streams, changed=self._judge)
        self._turns = Turns(self._collect)

    async def _collect(self, nonces: Sequence[bytes]) -> bytes:
        return await self.worker.call(Operation.ATTEST, b"".join(nonces))

    async def follow_log(self) -> None:
        """Hand the log's newest checkpoint to the worker whenever there is one, for ever."""
        handed = b""
        while True:
            with contextlib.suppress(Malformed):
                if (note := self._log.checkpoint()) != handed:
                    self.worker.send(Kind.CHECKPOINT, LINK_STREAM, note)
                    handed = note
            await asyncio.sleep(LOG_LOOK_S)

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
        self._directory_rate.take(address_of(context))
        for part in self.worker.parts:
            await write(context, part)

    async def attest(self, request: bytes, context: Context) -> None:
        """Evidence.Attest: evidence over the caller's nonce, collected together with others'."""
        node_id, nonce = decode_attest_request(request)
        self._check_own(node_id)
        with self._attesting.enter("" if self._behind_router else address_of(context)):
            reply = await self._turns.take(nonce)
        for part in split_parts(reply):
            await write(context, part)

    async def event_log(self, request: bytes, context: Context) -> None:
        """Evidence.EventLog: the firmware's event log as the kernel has it; empty where there is none."""
        self._check_own(decode_node_ref(request))
        self._directory_rate.take(address_of(context))
        for part in split_parts(self._event_log):
            await write(context, part)

    def _check_own(self, node_id: bytes) -> None:
        """See that a node is this one. Raises StaleKey."""
        if node_id not in {row.node_id for row in self._published().accepted}:
            raise StaleKey

    async def log_file(self, request: bytes, context: Context) -> None:
        """Log.File: one static file of the transparency log."""
        await self._log.send(request, context)

    async def invoke(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Inference.Invoke: one sealed request in, one sealed reply out."""
        self._published()  # a node that is not ready reads nothing
        with self._callers.enter():
            data = await only(requests)
        begun = time.monotonic()
        publication = self._published()
        request = decode_invoke_request(data)
        admitted = admit(request, publication, access=self._access)
        left_ms = left_ms_of(admitted.deadline_ms, context.time_remaining(), begun)
        with self._admission.enter(request.token), self.worker.stream(len(data), left_ms) as (number, stream):
            self.worker.send(Kind.OPEN, number, admitted.opening(request, left_ms).encode())
            del data, request
            await self._relay(number, stream, context)

    async def _relay(self, number: int, stream: Stream, context: Context) -> None:
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


class Front(Protocol):
    """What a server of ours answers with: a node's gateway, or a router."""

    health: Readiness

    async def get_directory(self, request: bytes, context: Context) -> None:
        """Directory.Get."""

    async def invoke(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Inference.Invoke."""

    async def attest(self, request: bytes, context: Context) -> None:
        """Evidence.Attest."""

    async def event_log(self, request: bytes, context: Context) -> None:
        """Evidence.EventLog."""

    async def log_file(self, request: bytes, context: Context) -> None:
        """Log.File."""


class _Methods(grpc.GenericRpcHandler):
    """Path -> handler, on raw bytes: decoding is ours and strict."""

    def __init__(self, front: Front) -> None:
        stream = grpc.unary_stream_rpc_method_handler
        probe = Probe(front.health)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            METHODS["Directory.Get"]: stream(guarded(front.get_directory)),
            METHODS["Inference.Invoke"]: grpc.stream_stream_rpc_method_handler(guarded(front.invoke)),
            METHODS["Evidence.Attest"]: stream(guarded(front.attest)),
            METHODS["Evidence.EventLog"]: stream(guarded(front.event_log)),
            METHODS["Log.File"]: stream(guarded(front.log_file)),
            health.CHECK: grpc.unary_unary_rpc_method_handler(guarded(probe.check)),
            health.WATCH: stream(guarded(probe.watch)),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a path."""
        return self._handlers.get(handler_call_details.method)


def make_server(front: Front, settings: Door) -> tuple[aio.Server, str]:
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
    server.add_generic_rpc_handlers((_Methods(front),))
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


def _bind(server: aio.Server, settings: Door) -> int:
    if not settings.tls_cert:
        return server.add_insecure_port(settings.listen)
    try:
        pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
        callers = Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    except OSError as error:
        raise StartFailure(f"cannot read {error.filename}: {error.strerror}", errors.CONFIG_EXIT) from None
    _check_pair(settings)
    return server.add_secure_port(settings.listen, grpc.ssl_server_credentials([pair], callers, callers is not None))


def _check_pair(settings: Door) -> None:
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


def _open_admin(settings: Settings, gateway: Gateway) -> "AdminPort":
    from .admin import open_admin_port  # starlette and uvicorn: only where there is such a port

    return open_admin_port(settings, gateway.worker)


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

    admin = _open_admin(settings, gateway) if settings.admin else None
    await gateway.worker.connect(inherited.link_fd, link_ended)
    following = asyncio.create_task(gateway.follow_log()) if settings.log else None
    child.on_control(inherited.control, told, ended)
    child.silence()
    harden.stage2(Program.GATEWAY, settings)
    await server.start()
    await _either(gateway.worker.published, stop)
    facts = {"listen": listen}
    if admin:
        facts["admin"] = admin.address
        admin.start()
    control.write(inherited.control, facts=facts)
    await stop.wait()
    if following:
        following.cancel()
    gateway.health.close()
    await server.stop(FLUSH_S)
    os._exit(0)  # threads of the library would make a clean exit wait


def main() -> None:
    """Run as a child of the launcher."""
    inherited = child.begin(Program.GATEWAY, sys.argv[1:])
    child.run(inherited, lambda: _main(inherited))


if __name__ == "__main__":
    main()
