"""gRPC to a node: the only file of the SDK that imports it. Carries bytes, maps statuses, knows no content.

The connected address decides what is loopback: names are resolved here and gRPC gets numbers, never a name or a
proxy. Plaintext HTTP/2 is used to this machine only; anywhere else TLS is required. SPEC sections 10 and 14.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from .errors import APIConnectionError, APITimeoutError, ProtocolError, RemoteError
from .exchange import Timeout
from .peers import Address, Peer, Resolver, diagnose_tls, peers_of, resolve, tls_context
from .remote import CloudEngine
from .remote_errors import SAME_VERSION, TRY_LATER, broken, refused
from .wire.codec import METHODS, encode_attest_request, encode_log_path, encode_node_ref, join_parts
from .wire.constants import MAX_DIRECTORY_BYTES, MAX_INVOKE_BYTES, PART_BYTES
from .wire.errors import ErrorCode, Malformed, WireError

__all__ = ["CloudEngine", "GrpcTransport"]

RETRY_HINT = "retry-after-ms"  # trailing metadata: a whole number of milliseconds, never more than this many
MAX_RETRY_HINT_MS = 30_000
MAX_METADATA_BYTES = 8 * 1024
MESSAGE_SLACK_BYTES = 1024
WINDOW_BYTES = 1024 * 1024  # of reply that may be on its way
FETCH_S = 60.0  # a backstop: whoever asks has a shorter time limit of its own
MOVED = "make a new client for the node's new address, so that its evidence is judged as that of another machine"
MAX_PARTS = MAX_DIRECTORY_BYTES // PART_BYTES + 4

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_retries", 0),  # a retry inside the library would send the same bytes again
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),  # the connected peer must be the one that was resolved and judged
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_compression_algorithm", 0),
    ("grpc.max_receive_message_length", PART_BYTES + MESSAGE_SLACK_BYTES),
    ("grpc.max_send_message_length", MAX_INVOKE_BYTES),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),  # frames of 512 bytes fill the default window at once,
    ("grpc.http2.bdp_probe", 0),  # and probing for a better one costs more than it brings (bench/node.py)
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
)


def _unreachable() -> RemoteError:
    return APIConnectionError("the connection to the node was lost", hint=TRY_LATER)


def _foreign() -> RemoteError:
    return ProtocolError("what answers at this address is no hybrid-pcc node of this version", hint=SAME_VERSION)


# Every status but OK. The text of a status is never read: whoever carries the call can write it.
STATUS: Mapping[grpc.StatusCode, Callable[[], RemoteError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: lambda: refused(ErrorCode.REJECTED),
    grpc.StatusCode.FAILED_PRECONDITION: lambda: refused(ErrorCode.STALE_KEY),
    grpc.StatusCode.ALREADY_EXISTS: lambda: refused(ErrorCode.REPLAY),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda: refused(ErrorCode.LIMIT),
    grpc.StatusCode.UNAUTHENTICATED: lambda: refused(ErrorCode.TOKEN),
    grpc.StatusCode.PERMISSION_DENIED: lambda: refused(ErrorCode.TOKEN),
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda: refused(ErrorCode.DEADLINE),
    grpc.StatusCode.INTERNAL: lambda: refused(ErrorCode.FAULT),
    grpc.StatusCode.UNKNOWN: lambda: refused(ErrorCode.FAULT),
    grpc.StatusCode.ABORTED: lambda: refused(ErrorCode.FAULT),
    grpc.StatusCode.UNAVAILABLE: _unreachable,
    grpc.StatusCode.CANCELLED: _unreachable,  # by the other side: our own cancelling never comes back as a status
    grpc.StatusCode.UNIMPLEMENTED: _foreign,
    grpc.StatusCode.NOT_FOUND: _foreign,
    grpc.StatusCode.OUT_OF_RANGE: _foreign,
    grpc.StatusCode.DATA_LOSS: _foreign,
}


def mapped(status: grpc.StatusCode, trailing: Sequence[tuple[str, str | bytes]] = ()) -> RemoteError:
    """Return the error of a status. A node that is up and busy says when to come back; a dead network can't."""
    after = retry_hint(trailing)
    if status is grpc.StatusCode.UNAVAILABLE and after is not None:
        return refused(ErrorCode.BUSY, retry_after=after)
    error = STATUS[status]()
    error.retry_after = after
    return error


def retry_hint(trailing: Sequence[tuple[str, str | bytes]]) -> float | None:
    """Read the retry hint, in seconds and bounded. Anything odd is no hint."""
    values = [value for key, value in trailing if key == RETRY_HINT]
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    text = values[0]
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_RETRY_HINT_MS))):
        return None
    return min(int(text), MAX_RETRY_HINT_MS) / 1000


class GrpcTransport:
    """One connection to ``host:port`` or ``unix:PATH``, made on first use and again after it broke.

    root_certificates: PEM of the roots to trust for TLS, in place of gRPC's own; given, TLS is used on loopback too.
    """

    def __init__(
        self,
        address: str,
        timeout: Timeout | None = None,
        *,
        root_certificates: bytes | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        """Raise ConfigurationError for an address or roots that are none. Connects nowhere yet."""
        self.address = address
        self._parsed = Address.parse(address)
        self._resolver = resolver
        self._connect_s = (timeout or Timeout()).connect
        if root_certificates is not None:
            tls_context(root_certificates)
        self._roots = root_certificates
        self._channel: grpc.aio.Channel | None = None
        self._peer: Peer | None = None
        self._stays_here = False  # once reached on this machine: evidence was judged for a node that is on it
        self._connecting = asyncio.Lock()

    @property
    def peer_is_loopback(self) -> bool:
        """Whether the connected address is this machine's; False until there is a connection."""
        return self._peer is not None and self._peer.is_loopback

    async def directory(self) -> bytes:
        """Fetch the joined ``DirectoryReply``. Sends an empty message."""
        return await self._fetch("Directory.Get", b"")

    async def log_file(self, path: str) -> bytes:
        """Fetch one static file of the transparency log."""
        return await self._fetch("Log.File", encode_log_path(path))

    async def attest(self, node_id: bytes, nonce: bytes) -> bytes:
        """Ask one node for evidence over a nonce."""
        return await self._fetch("Evidence.Attest", encode_attest_request(node_id, nonce))

    async def event_log(self, node_id: bytes) -> bytes:
        """Fetch one node's firmware event log."""
        return await self._fetch("Evidence.EventLog", encode_node_ref(node_id))

    async def _fetch(self, name: str, message: bytes) -> bytes:
        """Join the parts one method streams; nothing derived from a request is ever sent by one of these."""
        channel = await self._connected()
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHODS[name])
        call = method(message, timeout=FETCH_S)
        parts: list[bytes] = []
        try:
            async for part in call:
                parts.append(part)
                if len(parts) > MAX_PARTS:
                    raise broken(Malformed(), left_device_yes=False)
            return join_parts(parts)
        except grpc.aio.AioRpcError as error:
            raise _of(error) from None
        except asyncio.CancelledError:
            raise _cancelled() from None
        except WireError as error:
            raise broken(error, left_device_yes=False) from None
        finally:
            call.cancel()

    async def exchange(self, sealed: bytes, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """Send one ``InvokeRequest``, yield every ``InvokeReply``. Closing the iterator cancels the call."""
        channel = await self._connected()

        async def once() -> AsyncGenerator[bytes, None]:
            yield sealed

        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHODS["Inference.Invoke"])
        call = method(once(), timeout=deadline_s)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise _of(error) from None
        except asyncio.CancelledError:
            raise _cancelled() from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Drop the connection; a later call makes a new one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _connected(self) -> grpc.aio.Channel:
        """Return a channel that is connected, a new one if the old one broke.

        Raises APIConnectionError, or APITimeoutError(phase="connect"); nothing was sent then.
        """
        async with self._connecting:
            try:
                async with asyncio.timeout(self._connect_s):
                    return await self._reused() or await self._first_that_answers()
            except APIConnectionError:
                raise
            except TimeoutError:
                raise _slow(self.address) from None

    async def _reused(self) -> grpc.aio.Channel | None:
        """Return the held channel if it still connects. An idle one may carry other calls to their end: keep it."""
        if self._channel is not None and await _ready(self._channel):
            return self._channel
        await self.close()
        return None

    async def _first_that_answers(self) -> grpc.aio.Channel:
        peers = await peers_of(self._parsed, self._resolver)
        allowed = [peer for peer in peers if peer.is_loopback or not self._stays_here]
        if not allowed:
            raise APIConnectionError(f"{self.address} no longer leads to this machine", hint=MOVED)
        for peer in allowed:
            if await self._try(peer) and self._channel is not None:
                return self._channel
        raise await self._refusal()

    async def _try(self, peer: Peer) -> bool:
        channel = self._open(peer)
        self._peer = peer
        try:
            ready = await _ready(channel)
        except BaseException:
            await channel.close()
            raise
        if not ready:
            await channel.close()
            return False
        self._channel = channel
        self._stays_here = self._stays_here or peer.is_loopback
        return True

    def _open(self, peer: Peer) -> grpc.aio.Channel:
        if not self._secure(peer):
            return grpc.aio.insecure_channel(peer.target, options=OPTIONS)
        name = (("grpc.ssl_target_name_override", self._parsed.host), ("grpc.default_authority", self._parsed.host))
        credentials = grpc.ssl_channel_credentials(root_certificates=self._roots)
        return grpc.aio.secure_channel(peer.target, credentials, options=OPTIONS + name)

    def _secure(self, peer: Peer) -> bool:
        return not self._parsed.path and (self._roots is not None or not peer.is_loopback)

    async def _refusal(self) -> RemoteError:
        if self._peer is not None and self._secure(self._peer):
            trouble = await diagnose_tls(self._parsed, self._roots, self._connect_s)
            if trouble:
                return APIConnectionError(f"no TLS connection to {self.address}: {trouble.why}", hint=trouble.hint)
        return APIConnectionError(f"nothing answers at {self.address}", hint="start the node, or check its address")


async def _ready(channel: grpc.aio.Channel) -> bool:
    """Wait until a connection stands; False at its first failure, as the library would go on for ever."""
    state = channel.get_state(try_to_connect=True)
    while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


def _slow(address: str) -> RemoteError:
    hint = "check the node's address and the network, or allow more with Timeout(connect=...)"
    return APITimeoutError(f"no connection to {address} in time", phase="connect", hint=hint)


def _cancelled() -> BaseException:
    """Tell our caller's own cancelling, which passes through, from a connection that was closed under a call."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else _unreachable()


def _of(error: grpc.aio.AioRpcError) -> RemoteError:
    return mapped(error.code(), tuple(error.trailing_metadata() or ()))
