"""What handlers do with a call, whoever serves it: write with patience, read one message, send a file of the log.

It works on the context that grpc hands over and imports nothing of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.wire.codec import decode_log_path, split_parts
from hybrid.wire.errors import Malformed
from hybrid.wire.tiles import CHECKPOINT_PATH

from .errors import Limit
from .link import READER_PATIENCE_S
from .log_files import LogFolder
from .rate import Rate

if TYPE_CHECKING:
    from grpc import aio

    Context = aio.ServicerContext[Any, Any]

READ_S = 15.0  # for a caller to send its one message and close its half
LOG_FILES_PER_MINUTE = 6_000  # a client that verifies a long tail reads thousands


def address_of(context: "Context") -> str:
    """Return the caller's address without its port: what limits are counted by."""
    return str(context.peer()).rpartition(":")[0]


async def write(context: "Context", message: bytes) -> None:
    """Send one message. Raises Limit when the caller takes nothing for half a minute."""
    try:
        async with asyncio.timeout(READER_PATIENCE_S):
            await context.write(message)
    except TimeoutError:
        raise Limit from None


async def only(requests: AsyncIterator[bytes]) -> bytes:
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
    for _ in range(2):
        message = await _next(requests)
        if message is None:
            return
        yield message


async def _next(requests: AsyncIterator[bytes]) -> bytes | None:
    """Read one message; None at the end. Who stops waiting leaves the read to end by itself, soon after its call does.

    The library frees what a read holds only where its end is awaited: cut short, each kept 96 bytes for good, and a
    flood of reset calls megabytes (grpc/grpc#43360).
    """
    reading = asyncio.ensure_future(anext(requests, None))
    reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # when nobody waits any more
    return await asyncio.shield(reading)


def left_ms_of(deadline_ms: int, remaining_s: float | None, begun: float) -> int:
    """Return the shorter of what the header and the caller still grant, 0 or more.

    deadline_ms: from the beginning.  remaining_s: from now.  begun: on the monotonic clock.
    """
    left_ms = deadline_ms - (time.monotonic() - begun) * 1000
    return max(0, int(left_ms if remaining_s is None else min(left_ms, remaining_s * 1000)))


class LogFiles:
    """Log.File, for a node or a router. folder: empty where there is no log."""

    def __init__(self, folder: str) -> None:
        """Raise StartFailure with exit code 2 for a folder that is no log."""
        self._folder = LogFolder(Path(folder)) if folder else None
        self._rate = Rate(LOG_FILES_PER_MINUTE)

    def checkpoint(self) -> bytes:
        """Return the newest signed checkpoint; empty without a log. Raises Malformed."""
        return self._folder.read(CHECKPOINT_PATH) if self._folder else b""

    async def send(self, request: bytes, context: "Context") -> None:
        """Answer one call. Raises Malformed, Limit."""
        path = decode_log_path(request)
        self._rate.take(address_of(context))
        if self._folder is None:
            raise Malformed("there is no log here")
        for part in split_parts(self._folder.read(path)):
            await write(context, part)
