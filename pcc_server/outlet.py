"""One reply on its way to the gateway: sealed bytes, bounded by what the gateway has room for.

Fault switches for tests sit here and nowhere else on the path; without ``--fault`` no byte passes through them.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable

from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.errors import ErrorCode

from .errors import Limit, NodeError, Refusal
from .link import READER_PATIENCE_S, WINDOW_BYTES, Kind, Link, encode_refusal

_TAMPERED = 5  # the frame that faults act on: after the progress frames, in the middle of text
_CUT = 8  # frames before the stream is cut: some text is on the screen by then

Pieces = Iterable[tuple[Kind, bytes]]


class Cut(NodeError):
    """A fault switch ends the stream here."""


class Outlet:
    """Sends one stream's pieces over the link and waits when the gateway's buffer for it is full."""

    def __init__(self, link: Link, stream: int, tamper: Callable[[Kind, bytes], Pieces] | None = None) -> None:
        self._link = link
        self._stream = stream
        self._tamper = tamper
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def acked(self, count: int) -> None:
        """Note that the gateway has passed on so many bytes."""
        self._waiting_bytes -= count
        if self._waiting_bytes < WINDOW_BYTES:
            self._room.set()

    def put(self, kind: Kind, data: bytes) -> None:
        """Send without waiting: head, the last frames, the final one."""
        if self._tamper is None:
            self._send(kind, data)
        else:
            for what, piece in self._tamper(kind, data):
                self._send(what, piece)
        if self._waiting_bytes >= WINDOW_BYTES:
            self._room.clear()

    def _send(self, kind: Kind, data: bytes) -> None:
        self._link.send(kind, self._stream, data)
        if kind is Kind.FRAMES:
            self._waiting_bytes += len(data)

    @property
    def full(self) -> bool:
        """Whether ``room`` would wait."""
        return self._waiting_bytes >= WINDOW_BYTES

    async def room(self) -> None:
        """Wait until the buffer has room. Raises Limit when the reader takes nothing for half a minute."""
        if self._room.is_set():
            return
        try:
            async with asyncio.timeout(READER_PATIENCE_S):
                await self._room.wait()
        except TimeoutError:
            raise Limit from None

    def end(self) -> None:
        """Say that the reply is over."""
        self._link.send(Kind.END, self._stream)

    def refuse(self, refusal: Refusal) -> None:
        """Say that there is no reply, or no more of it."""
        self._link.send(Kind.REFUSE, self._stream, encode_refusal(refusal.code, refusal.retry_ms))


class Tamper:
    """Does to one reply what a test asked for. Only with the fake engine, tier 0 and loopback."""

    def __init__(self, fault: str, flush: Callable[[], None]) -> None:
        self._fault = fault
        self._flush = flush
        self._frames = 0
        self._held = b""

    def __call__(self, kind: Kind, data: bytes) -> Pieces:
        """Return what is sent instead of one piece."""
        if kind is not Kind.FRAMES:
            return ((kind, data),)
        frames = (data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES))
        return [(kind, changed) for frame in frames for changed in self._frame(frame)]

    def _frame(self, frame: bytes) -> Iterable[bytes]:
        number, self._frames = self._frames, self._frames + 1
        if number == _CUT:
            self._stop()
        if number == _TAMPERED + 1 and self._held:
            return (frame, self._held)
        return self._change(frame) if number == _TAMPERED else (frame,)

    def _stop(self) -> None:
        if self._fault == "cut_stream":
            raise Cut
        self._flush()
        if self._fault == "die_midstream":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "abort":
            os.abort()

    def _change(self, frame: bytes) -> Iterable[bytes]:
        if self._fault == "reorder":
            self._held = frame
            return ()
        if self._fault == "flip_bit":
            return (bytes((frame[0] ^ 1,)) + frame[1:],)
        return (frame, frame) if self._fault == "duplicate" else (frame,)


IN_REPLY = frozenset({"cut_stream", "reorder", "flip_bit", "duplicate", "die_midstream", "abort"})
REFUSALS: dict[str, Refusal] = {
    "stale_key": Refusal(code=ErrorCode.STALE_KEY),
    "replay": Refusal(code=ErrorCode.REPLAY),
    "overload": Refusal(code=ErrorCode.BUSY, retry_ms=200),
    "rate_limit": Refusal(code=ErrorCode.LIMIT, retry_ms=200),
}
