"""The front process: gRPC on one exclusive port, ciphertext on the link, no key that opens anything.

Run by the launcher: ``python -m pcc_server.gateway``. With the router the only file that serves with grpc:
``handlers.py`` says what is answered, this file how it travels.
"""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import grpc
from grpc import aio

from hybrid.wire.codec import METHODS
from hybrid.wire.constants import MAX_INVOKE_BYTES
from hybrid.wire.errors import ErrorCode

from . import child, control, errors, events, health, hygiene, status_details, tls
from .calls import address_of, only, write
from .config import Door, Guarded, Settings, split_address
from .errors import Refusal, StartFailure
from .events import Event, Phase, Program
from .handlers import Gateway
from .health import Readiness, Serving
from .rate import AtOnce
from .status_details import hint_ms

if TYPE_CHECKING:
    from .admin import AdminPort

RETRY_KEY = "retry-after-ms"
FLUSH_S = 1.0  # for last words to leave
RELINK_S = 0.1  # after a link has ended: by then the launcher knows whether the worker has, too
WATCHERS_PER_ADDRESS = 32
CONNECTIONS = 2048  # at once; a further one is closed as soon as it is there
FDS = 2 * CONNECTIONS  # of them and of everything else
_CONNECTION_IDLE_MS = 5 * 60 * 1000  # without any request
_HANDSHAKE_MS = 10 * 1000  # for TLS and the first frames of HTTP/2
_CONNECTION_AGE_MS = 30 * 60 * 1000
_CONNECTION_GRACE_MS = 11 * 60 * 1000  # the longest deadline, and a minute: then the connection is closed
_KEEPALIVE_MS = 60 * 1000  # how long a caller may be silent with a request running
_KEEPALIVE_ANSWER_MS = 20 * 1000
_PINGS_APART_MS = 30 * 1000  # whoever pings more often, without data between, is cut off at the third
_STREAMS = 100  # of one connection, the least HTTP/2 recommends; a router has one connection for everybody
_MOST_PENDING = 8_192
_MAX_METADATA = 8 * 1024
_IDENTITY_ONLY = 1  # bit 0: no compression, also not when a caller offers it

Context = aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[None]]
Words = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]  # status, code's name, trailers


class Front(Protocol):
    """What a server of ours answers with: a node's gateway, or a router."""

    health: Readiness

    def refused(self, code: ErrorCode) -> None:
        """Count a refusal."""

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


class Probe:
    """The two methods of grpc.health.v1."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._watchers = AtOnce(WATCHERS_PER_ADDRESS)

    async def check(self, request: bytes, context: Context) -> None:
        """Answer once. NOT_FOUND for a service that does not exist, as that protocol wants it."""
        status = self._readiness.status(health.decode_request(request))
        if status is Serving.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        await write(context, health.encode_reply(status))

    async def watch(self, request: bytes, context: Context) -> None:
        """Answer now and at every change. Raises Limit where an address watches too often."""
        with self._watchers.enter(address_of(context)):
            async for status in self._readiness.follow(health.decode_request(request)):
                await write(context, health.encode_reply(status))


def guarded(handler: Handler, count: Callable[[ErrorCode], None]) -> Handler:
    """Wrap a handler so that nothing but a code's name and a time ever leaves it (SPEC 10).

    What left this frame would be told to the caller in its own words: so it handles nothing but those of the table.
    """

    async def wrapped(requests: Any, context: Context) -> None:
        try:
            words = await _ended(handler(requests, context), count)
        except Exception as error:  # noqa: BLE001 - of telling another one
            events.fault(error)
            words = grpc.StatusCode.INTERNAL, ErrorCode.FAULT.value, ()
        if words:
            await context.abort(*words)

    return wrapped


async def _ended(answering: Awaitable[None], count: Callable[[ErrorCode], None]) -> Words | None:
    """Answer. Returns what the caller is told of an error."""
    try:
        await answering
    except (aio.AbortError, aio.InternalError, aio.UsageError):  # it was told, or the caller was gone in a write
        return None
    except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
        return _words(error, count)
    return None


def _words(error: Exception, count: Callable[[ErrorCode], None]) -> Words:
    """Return what a caller is told about an error: status, code and hint; tell the operator."""
    refusal = errors.refusal(error)
    if not isinstance(error, errors.Refused):  # the worker has told of those
        _tell(error, refusal)
    if not isinstance(error, errors.PassedOn):  # a router's node has spread its callers
        refusal = replace(refusal, retry_ms=hint_ms(refusal.retry_ms))
    count(refusal.code)
    status = grpc.StatusCode[errors.STATUS[refusal.code]]
    details = status_details.encode(status.value[0], refusal.code, refusal.retry_ms)
    hint = ((RETRY_KEY, str(refusal.retry_ms)),) if refusal.retry_ms else ()
    return status, refusal.code.value, (*hint, (status_details.TRAILER, details))


def _tell(error: Exception, refusal: Refusal) -> None:
    if refusal.code is ErrorCode.FAULT:
        events.fault(error)
    events.emit(Event.REFUSED, code=refusal.code)


def single(handler: Handler) -> Handler:
    """Read the one request of a method that streams none. Raises Malformed for none, two, or one that never ends.

    The library's own way leaves a call without a request open, without an answer, for as long as its peer likes.
    """

    async def reading(requests: AsyncIterator[bytes], context: Context) -> None:
        await handler(await only(requests), context)

    return reading


class _Methods(grpc.GenericRpcHandler):
    """Path -> handler, on raw bytes: decoding is ours and strict."""

    def __init__(self, front: Front) -> None:
        probe = Probe(front.health)
        handlers: dict[str, Handler] = {
            METHODS["Directory.Get"]: single(front.get_directory),
            METHODS["Inference.Invoke"]: front.invoke,
            METHODS["Evidence.Attest"]: single(front.attest),
            METHODS["Evidence.EventLog"]: single(front.event_log),
            METHODS["Log.File"]: single(front.log_file),
            health.CHECK: single(probe.check),
            health.WATCH: single(probe.watch),
        }
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            path: grpc.stream_stream_rpc_method_handler(guarded(handler, front.refused))
            for path, handler in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a path."""
        return self._handlers.get(handler_call_details.method)


# --- the server --------------------------------------------------------------------------------------


class Port(Door, Guarded, Protocol):
    """What a port is opened with, and who comes to it."""


class Served(NamedTuple):
    """A bound port. address: where it listens.  certificates: what it shows; None without TLS."""

    server: aio.Server
    address: str
    certificates: tls.Certificates | None


def make_server(front: Front, settings: Port) -> Served:
    """Bind the port, exclusively. Raises StartFailure."""
    server = aio.server(options=_options(settings))
    server.add_generic_rpc_handlers((_Methods(front),))
    certificates = tls.Certificates(settings) if settings.tls_cert else None
    try:
        port = _bind(server, settings.listen, certificates)
    except RuntimeError:
        port = 0
    if not port:
        raise StartFailure(
            f"cannot listen on {settings.listen}: another program has the port, or the address is not this machine's"
        )
    host, _ = split_address(settings.listen)
    return Served(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", certificates)


def _options(settings: Port) -> tuple[tuple[str, int], ...]:
    """Return what bounds a peer.

    A call that its peer resets counts until Python has seen it: so few of them on one connection bound what a flood of
    resets costs (100 took twice the memory and two thirds of the time of others). The library cancels calls at random
    when too many wait for Python, good ones too: hence a long queue.
    """
    return (
        ("grpc.so_reuseport", 0),  # otherwise a second node on the port gets a share of the requests
        ("grpc.max_receive_message_length", MAX_INVOKE_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA),
        ("grpc.max_concurrent_streams", 2 * settings.streams if settings.access == "router" else _STREAMS),
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.max_connection_idle_ms", _CONNECTION_IDLE_MS),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PINGS_APART_MS),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
    )


def _bind(server: aio.Server, listen: str, certificates: tls.Certificates | None) -> int:
    if certificates is None:
        return server.add_insecure_port(listen)
    tls.check_refused()

    def fresh() -> Any:
        """Asked before every handshake, on a thread of grpc's: None where nothing has changed."""
        return _shown(news) if (news := certificates.news()) else None

    wants_callers = certificates.pair.callers is not None
    credentials = grpc.dynamic_ssl_server_credentials(_shown(certificates.pair), fresh, wants_callers)
    return server.add_secure_port(listen, credentials)


def _shown(pair: tls.Pair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], pair.callers)


# --- the process -------------------------------------------------------------------------------------


def _raise_limit() -> None:
    """Make room for as many descriptors as connections may need, or for what this user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FDS if hard == resource.RLIM_INFINITY else min(FDS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Process:
    """One gateway and what the launcher says to it."""

    def __init__(self, inherited: child.Inherited) -> None:
        """Bind both ports. Raises StartFailure."""
        self._settings = inherited.settings
        self._control = inherited.control
        self._tasks: set[asyncio.Task[Any]] = set()
        self.gateway = Gateway(self._settings, tell=self._tell)
        self.served = make_server(self.gateway, self._settings)
        self.admin = _open_admin(self._settings, self.gateway) if self._settings.admin else None

    def _tell(self, phase: Phase) -> None:
        control.write(self._control, phase=phase)

    def begin(self, link_fd: int) -> None:
        """Say where the ports are, and listen to worker and launcher."""
        facts = {"listen": self.served.address} | ({"admin": self.admin.address} if self.admin else {})
        control.write(self._control, facts=facts)
        self._start(self.gateway.worker.connect(link_fd))
        self._start(hygiene.sweeping())
        self.gateway.worker.ended = lambda: self._start(self._ask_for_link())
        if self._settings.log:
            self._start(self.gateway.follow_log())
        child.on_control(self._control, self._hear, self._end)

    async def _ask_for_link(self) -> None:
        """Have the launcher link us again to a worker that is still there: a frame broke the link, or what reads it."""
        await asyncio.sleep(RELINK_S)
        if not self.gateway.worker.linked:
            control.write(self._control, unlinked=True)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear(self, message: dict[str, Any]) -> None:
        if "startup" in message:
            self.gateway.hear_startup(message["startup"])
        if "worker" in message:
            self.gateway.worker.lose()
        if "link" in message:
            self._start(self.gateway.worker.connect(message["fd"]))
        if "counts" in message:
            self.gateway.metrics.told(message["counts"])
        if "drain_s" in message:
            self.gateway.drain(grace_s=float(message.get("grace_s", 0)), timeout_s=float(message["drain_s"]))
        if "reload" in message:
            self._reload(message["reload"])

    def _reload(self, fields: dict[str, Any]) -> None:
        """Take over new limits, and read the certificates again: for connections to come."""
        self._settings = replace(self._settings, **fields)
        self.gateway.adopt(self._settings)
        if self.served.certificates and self.served.certificates.reload(self._settings) and self.admin:
            self.admin.reload(self._settings)

    def _end(self) -> None:
        """Refuse what runs, and end: the launcher is gone, or wants us to be."""
        self.gateway.worker.close()
        self.gateway.drained.set()


def _open_admin(settings: Settings, gateway: Gateway) -> "AdminPort":
    from .admin import open_admin_port  # starlette and uvicorn: only where there is such a port

    return open_admin_port(settings, gateway)


async def _main(inherited: child.Inherited) -> None:
    _raise_limit()
    process = _Process(inherited)
    process.begin(inherited.link_fd)
    child.silence()
    await process.served.server.start()
    if process.admin:
        await process.admin.start()
    hygiene.settle()
    child.close_sandbox(inherited, Program.GATEWAY)
    await process.gateway.drained.wait()
    process.gateway.health.close()
    await process.served.server.stop(FLUSH_S)
    os._exit(0)  # threads of the library would make a clean exit wait


def main() -> None:
    """Run as a child of the launcher."""
    inherited = child.begin(Program.GATEWAY, sys.argv[1:])
    child.run(inherited, lambda: _main(inherited))


if __name__ == "__main__":
    main()
