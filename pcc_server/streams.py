"""Reply streams inside the gateway: what the worker sent and the caller has not yet taken."""

import asyncio

from hybrid.wire.codec import encode_invoke_reply
from hybrid.wire.constants import FRAME_BYTES, FRAMES_PER_MESSAGE

from .errors import Refusal, Refused
from .link import Frame, Kind, decode_refusal

_MESSAGE_BYTES = FRAMES_PER_MESSAGE * FRAME_BYTES


class Stream:
    """One reply. The worker keeps to its window, so the buffer is bounded without blocking the link."""

    __slots__ = ("_final", "_frames", "_head", "_news", "_refusal", "ended", "pending_bytes")

    def __init__(self, pending_bytes: int) -> None:
        """pending_bytes: of the request, which the worker has not opened yet."""
        self.pending_bytes = pending_bytes
        self.ended = False
        self._head = b""
        self._frames = bytearray()
        self._final = b""
        self._refusal: Refusal | None = None
        self._news = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Take what the worker sent. After the end nothing more is taken."""
        if self.ended:
            return
        if frame.kind is Kind.HEAD:
            self._head, self.pending_bytes = frame.payload, 0
        elif frame.kind is Kind.FRAMES:
            self._frames += frame.payload
        elif frame.kind is Kind.FINAL:
            self._final = frame.payload
        elif frame.kind is Kind.END:
            self.ended = True
        elif frame.kind is Kind.REFUSE:
            code, retry_ms = decode_refusal(frame.payload)
            self.refuse(Refusal(code=code, retry_ms=retry_ms))
        self._news.set()

    def refuse(self, refusal: Refusal) -> None:
        """End the stream with a code; what is buffered still goes out before it."""
        if not self.ended:
            self._refusal = refusal
            self.ended = True
            self._news.set()

    async def next(self) -> tuple[bytes, int] | None:
        """Return the next message for the caller and how many frame bytes it holds; None at the end.

        Up to 16 waiting frames share a message. Raises Refused when the stream ended with a code.
        """
        while not (self._head or self._frames or self._final or self.ended):
            self._news.clear()
            await self._news.wait()
        if self._head or self._frames or self._final:
            return self._message()
        if self._refusal:
            raise Refused(self._refusal.code, self._refusal.retry_ms)
        return None

    def _message(self) -> tuple[bytes, int]:
        head, self._head = self._head, b""
        frames = bytes(self._frames[:_MESSAGE_BYTES])
        del self._frames[:_MESSAGE_BYTES]
        final = b""
        if not self._frames:
            final, self._final = self._final, b""
        return encode_invoke_reply(head=head, frames=frames, final=final), len(frames)
