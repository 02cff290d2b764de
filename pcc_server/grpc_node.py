"""A node as a router sees it: one gRPC connection, made again whenever it breaks."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
from grpc import aio

from hybrid.wire.codec import METHODS, join_parts
from hybrid.wire.constants import MAX_DIRECTORY_BYTES, MAX_INVOKE_BYTES, PART_BYTES
from hybrid.wire.errors import ErrorCode, Malformed

from . import errors
from .errors import CONFIG_EXIT, PassedOn, Refused, StartFailure
from .gateway import RETRY_KEY
from .route_config import NodePlace, RouteSettings

FETCH_S = 5.0  # for a node to send its directory
MAX_PARTS = MAX_DIRECTORY_BYTES // PART_BYTES + 3  # with checkpoint and leaf
MAX_PART_BYTES = PART_BYTES + 16
_OPTIONS = (
    ("grpc.enable_retries", 0),  # the library would send the same bytes again
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_INVOKE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also how long one try to connect may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class GrpcNode:
    """One node, over one connection that is made again whenever it breaks."""

    def __init__(self, place: NodePlace, settings: RouteSettings) -> None:
        """Make ready to connect. Raises StartFailure with exit code 2 for certificates that cannot be read."""
        self.place = place
        self._channel = _channel(place, settings)
        self._invoke: aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            METHODS["Inference.Invoke"]
        )

    async def directory(self) -> bytes:
        """Fetch its DirectoryReply. Raises Refused, Malformed, Oversized."""
        parts: list[bytes] = []
        async with contextlib.aclosing(self.parts("Directory.Get", b"", FETCH_S)) as sent:
            async for part in sent:
                parts.append(part)
                if len(parts) > MAX_PARTS or len(part) > MAX_PART_BYTES:
                    raise Malformed("the node sends more than any directory has")
        return join_parts(parts)

    async def parts(self, method: str, request: bytes, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield what a method answers, message by message. Raises Refused."""
        caller: aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(METHODS[method])
        call = caller(request, timeout=timeout_s)
        try:
            async for part in call:
                yield part
        except aio.AioRpcError as error:
            raise _refused(error) from None
        finally:
            call.cancel()

    def invoke(self, request: bytes, timeout_s: float) -> "aio.StreamStreamCall[bytes, bytes]":
        """Send one sealed request; returns the call, which the caller must cancel when done."""
        return self._invoke(iter([request]), timeout=timeout_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def _channel(place: NodePlace, settings: RouteSettings) -> aio.Channel:
    if not settings.node_ca:
        return aio.insecure_channel(place.address, options=_OPTIONS)
    try:
        roots = Path(settings.node_ca).read_bytes()
        chain = Path(settings.node_cert).read_bytes() if settings.node_cert else None
        key = Path(settings.node_key).read_bytes() if settings.node_key else None
    except OSError as error:
        raise StartFailure(f"cannot read {error.filename}: {error.strerror}", CONFIG_EXIT) from None
    return aio.secure_channel(place.address, grpc.ssl_channel_credentials(roots, key, chain), options=_OPTIONS)


def _refused(error: aio.AioRpcError) -> Refused:
    """Read a node's refusal. Whatever is none of ours is a connection that is not there."""
    code = next((code for code in ErrorCode if code.value == error.details()), None)
    if code is None or errors.STATUS[code] != error.code().name:
        return PassedOn(ErrorCode.DEADLINE if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else ErrorCode.BUSY)
    return PassedOn(code, _hint(error))


def _hint(error: aio.AioRpcError) -> int:
    words = dict(error.trailing_metadata() or ()).get(RETRY_KEY, "0")
    number = int(words) if isinstance(words, str) and words.isascii() and words.isdigit() and len(words) < 7 else 0  # noqa: PLR2004 - under a million
    return min(number, errors.RETRY_CAP_MS)


async def read_reply(call: "aio.StreamStreamCall[bytes, bytes]", patience_s: float | None = None) -> bytes | None:
    """Read one message; None at the end. Raises Refused."""
    try:
        async with asyncio.timeout(patience_s):
            message = await call.read()
    except aio.AioRpcError as error:
        raise _refused(error) from None
    except TimeoutError:
        raise Refused(ErrorCode.BUSY) from None
    return message if isinstance(message, bytes) else None
