"""Reply streams inside the gateway: what the worker sent and the caller has not yet taken."""

import asyncio
from collections import deque

from hybrid.wire.codec import encode_invoke_reply, split_frames

from .errors import Refusal, Refused
from .link import Frame, Kind, decode_refusal


class Stream:
    """One reply. The worker keeps to its window, so the buffer is bounded without blocking the link."""

    __slots__ = ("_final", "_frames", "_head", "_news", "_refusal", "ended", "pending_bytes")

    def __init__(self, pending_bytes: int) -> None:
        """pending_bytes: of the request, which the worker has not opened yet."""
        self.pending_bytes = pending_bytes
        self.ended = False
        self._head = b""
        self._frames: deque[bytes] = deque()
        self._final = b""
        self._refusal: Refusal | None = None
        self._news: asyncio.Future[None] | None = None  # while somebody waits for it

    def put(self, frame: Frame) -> None:
        """Take what the worker sent. After the end nothing more is taken."""
        if self.ended:
            return
        if frame.kind is Kind.FRAMES:
            self._frames.extend(split_frames(frame.payload))
        elif frame.kind is Kind.HEAD:
            self._head, self.pending_bytes = frame.payload, 0
        elif frame.kind is Kind.FINAL:
            self._final = frame.payload
        elif frame.kind is Kind.END:
            self.ended = True
        elif frame.kind is Kind.REFUSE:
            code, retry_ms = decode_refusal(frame.payload)
            self.refuse(Refusal(code=code, retry_ms=retry_ms))
        self._wake()

    def refuse(self, refusal: Refusal) -> None:
        """End the stream with a code; what is buffered still goes out before it."""
        if not self.ended:
            self._refusal = refusal
            self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def next(self) -> tuple[bytes, int] | None:
        """Return the next message for the caller and how many frame bytes it holds; None at the end.

        Frames share a message as the worker sent them. Raises Refused when the stream ended with a code.
        """
        while not (self._head or self._frames or self._final or self.ended):
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._head or self._frames or self._final:
            return self._message()
        if self._refusal:
            raise Refused(self._refusal.code, self._refusal.retry_ms)
        return None

    def _message(self) -> tuple[bytes, int]:
        head, self._head = self._head, b""
        frames = self._frames.popleft() if self._frames else b""
        final = b""
        if not self._frames:
            final, self._final = self._final, b""
        return encode_invoke_reply(head=head, frames=frames, final=final), len(frames)
