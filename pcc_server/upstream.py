"""The worker as the gateway sees it: what it published, the streams it answers, and whether it is still there."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from hybrid.wire.codec import split_parts
from hybrid.wire.encoding import u8
from hybrid.wire.errors import ErrorCode

from . import events
from .errors import Busy, Refusal, Refused
from .events import Event
from .link import LINK_STREAM, Frame, Kind, Link, Operation, decode_refusal
from .publication import Publication
from .streams import Stream

PENDING_BYTES = 64 * 1024 * 1024  # ciphertext of requests that the worker has not opened yet
GRACE_MS = 2_000  # beyond a request's deadline: the worker answers for it first
SILENT_S = 8.0  # without a beat of the worker: not ready
WATCH_S = 1.0
GATEWAY = "gateway"  # where a reply was cancelled
CALL_S = 160.0  # for the worker to answer a call: a slow TPM takes long to give up


class Counts(Protocol):
    """What is counted here, for the metrics."""

    def absorb(self, payload: bytes) -> None:
        """Add what a worker counted."""

    def cancelled(self, where: str) -> None:
        """Count one reply whose caller was gone before its end."""


class Upstream:
    """The gateway's end of the link. Everything that crosses it is sealed or public.

    streams: how many replies may run at once.  changed: called whenever ``alive`` may have changed, and each second.
    retry_ms: when to come back, asked when a worker is lost.  links: how many there were.  ended: called when a link
    ended by itself, whether or not the worker did.
    """

    def __init__(
        self, *, streams: int, changed: Callable[[], None], counts: Counts, retry_ms: Callable[[], int]
    ) -> None:
        self._most = streams
        self._changed = changed
        self.ended: Callable[[], None] = _nobody_is_told
        self._counts = counts
        self._retry_ms = retry_ms
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self.links = 0
        self._streams: dict[int, Stream] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = 0
        self._last_beat = 0.0
        self._watching: asyncio.Task[None] | None = None
        self.publication: Publication | None = None
        self.parts: list[bytes] = []
        self.idle = asyncio.Event()
        self.idle.set()

    # --- link --------------------------------------------------------------------------------------

    async def connect(self, link_fd: int) -> None:
        """Take over a link, the first worker's or the next one's, and watch its beat.

        What an earlier link carried is refused, and nothing that still comes over it is heard.
        """
        self.lose()
        self.links += 1
        number = self.links

        def heard(frame: Frame) -> None:
            if number == self.links:
                self._on_frame(frame)

        def ended() -> None:
            if number == self.links:
                self.lose()
                self.ended()

        link = await Link.connect(link_fd, heard, ended)
        if number != self.links:  # another one came in the meantime
            link.close()
            return
        self._link = link
        self._watching = self._watching or self._loop.create_task(self._watch_beat())

    def _on_frame(self, frame: Frame) -> None:
        """Take one frame. Those of a stream that has ended, or that nobody knows, go nowhere."""
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.put(frame)
        elif frame.stream in self._calls:
            _answer(self._calls[frame.stream], frame)
        elif frame.stream == LINK_STREAM:
            self._on_news(frame)

    def _on_news(self, frame: Frame) -> None:
        """Take what is about no stream. Raises Malformed, which ends the link."""
        if frame.kind is Kind.PUBLISH:
            self.publication = Publication.decode(frame.payload)
            self.parts = split_parts(self.publication.reply)
        elif frame.kind is Kind.TALLY:
            self._counts.absorb(frame.payload)
        self._last_beat = self._loop.time()
        self._changed()

    async def _watch_beat(self) -> None:
        was_silent = False
        while True:
            await asyncio.sleep(WATCH_S)
            if self.silent and not was_silent:
                events.emit(Event.WORKER_SILENT, streams=len(self._streams))
            was_silent = self.silent
            if self._link:
                self._link.flush()  # what a turn that failed has left
            self._changed()

    @property
    def silent(self) -> bool:
        """Whether a worker that has published was not heard for a while."""
        return self.publication is not None and self._loop.time() - self._last_beat >= SILENT_S

    @property
    def linked(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    @property
    def running(self) -> int:
        """How many replies run."""
        return len(self._streams)

    def send(self, kind: Kind, number: int, payload: bytes = b"") -> bool:
        """Send one frame to the worker. Returns whether there is one to send it to."""
        if self._link is None:
            return False
        self._link.send(kind, number, payload)
        return True

    def lose(self) -> None:
        """Refuse everything: the worker is gone, and with it the keys. Without a link there is nothing to do."""
        if self._link is None:
            return
        self._link.close()
        self._link = None
        if self.publication is not None:
            events.emit(Event.LINK_LOST, streams=len(self._streams))
        self.publication = None
        self._changed()  # from here on there is a time to come back after
        self.refuse_all()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(Busy(self._retry_ms()))

    def close(self) -> None:
        """Refuse everything and watch no more."""
        self.lose()
        if self._watching:
            self._watching.cancel()

    async def call(self, operation: Operation, payload: bytes = b"") -> bytes:
        """Ask the worker for something outside any request. Raises Refused, Busy."""
        if self.publication is None:
            raise Busy(self._retry_ms())
        number = self._next_number()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[number] = answer
        try:
            async with asyncio.timeout(CALL_S):
                self.send(Kind.CALL, number, u8(operation) + payload)
                return await answer
        except TimeoutError:
            raise Busy from None
        finally:
            del self._calls[number]

    # --- streams -----------------------------------------------------------------------------------

    def refuse_all(self) -> None:
        """End every reply that runs with BUSY and a hint; what is buffered still goes out before it."""
        refusal = Refusal(code=ErrorCode.BUSY, retry_ms=self._retry_ms())
        for stream in self._streams.values():
            stream.refuse(refusal)

    @contextmanager
    def stream(self, size_bytes: int, left_ms: int) -> Iterator[tuple[int, Stream]]:
        """Hold one reply: its number on the link, and where its frames arrive.

        size_bytes: of the request.  left_ms: of its time; a worker that lets that pass is answered for.
        Raises Busy when there is no room.
        """
        number, stream = self._open(size_bytes)
        deadline = Refusal(code=ErrorCode.DEADLINE)
        timer = self._loop.call_later((left_ms + GRACE_MS) / 1000, stream.refuse, deadline)
        try:
            yield number, stream
        finally:
            timer.cancel()
            self._close(number, stream)

    def _open(self, size_bytes: int) -> tuple[int, Stream]:
        pending = sum(stream.pending_bytes for stream in self._streams.values())
        if len(self._streams) >= self._most or pending + size_bytes > PENDING_BYTES:
            raise Busy
        number = self._next_number()
        stream = self._streams[number] = Stream(size_bytes)
        self.idle.clear()
        return number, stream

    def _next_number(self) -> int:
        self._numbers = self._numbers % 0xFFFF_FFFF + 1
        return self._numbers

    def _close(self, number: int, stream: Stream) -> None:
        del self._streams[number]
        self.send(Kind.CANCEL, number)  # of a stream that has ended the worker knows nothing any more
        if not stream.ended:
            events.emit(Event.CANCELLED, streams=len(self._streams))
            self._counts.cancelled(GATEWAY)
        if not self._streams:
            self.idle.set()


def _nobody_is_told() -> None:
    return


def _answer(waiting: asyncio.Future[bytes], frame: Frame) -> None:
    if waiting.done():
        return
    if frame.kind is Kind.RESULT:
        waiting.set_result(frame.payload)
    elif frame.kind is Kind.REFUSE:
        waiting.set_exception(Refused(*decode_refusal(frame.payload)))
