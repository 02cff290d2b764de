"""A turn under way on an event loop, and the stream of events a caller holds of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .core import Turn
from .errors import GenerationCancelled
from .events import Done, Event, Handoff, RouteDecided, TextDelta
from .wire.types import Route

if TYPE_CHECKING:
    from .reply import Reply
    from .routing.decision import Decision


class Running:
    """A turn under way: its state, its events, and who wants to know when it ends."""

    def __init__(
        self,
        turn: Turn,
        events: AsyncGenerator[Event, None],
        *,
        on_event: Callable[[Event], None] | None,
        on_end: Callable[[Turn], None] | None,
    ) -> None:
        self.turn = turn
        self.on_event = on_event
        self._events = events
        self._on_end = on_end

    async def pump(self, put: Callable[[Event | BaseException | None], None]) -> None:
        """Drive the turn to its end: every event, then None or the failure. Cancelling this task stops the turn."""
        try:
            async with contextlib.aclosing(self._events) as events:
                async for event in events:
                    put(event)
            end: BaseException | None = None
        except asyncio.CancelledError:
            end = self.turn.cancelled()
        except Exception as error:  # noqa: BLE001 - carried to the caller, who raises it
            end = error
        if self._on_end is not None:
            self._on_end(self.turn)
        put(end)


class Folded:
    """What a stream's events add up to so far."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.decision: Decision | None = None
        self.reply: Reply | None = None

    @property
    def text(self) -> str:
        """The text shown so far; it stays readable after a failure or a stop."""
        return "".join(self._parts)

    @property
    def route(self) -> Route | None:
        """Who answers; None before the decision."""
        return self.decision.route if self.decision else None

    def _fold(self, event: Event) -> None:
        match event:
            case RouteDecided():
                self.decision = event.decision
            case TextDelta():
                self._parts.append(event.text)
            case Handoff():
                self.decision = event.decision or self.decision
                if event.restart:
                    self._parts.clear()
            case Done():
                self.reply = event.reply


class AsyncStream(Folded):
    """The events of one turn. Iterate it, or use it as a context manager; leaving the block stops the turn."""

    def __init__(self, start: "Callable[[], Running]") -> None:
        super().__init__()
        self._start = start
        self._queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        item = await self._next()
        if item is None:
            self._over = True
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            self._over = True
            raise item
        self._fold(item)
        if self._running is not None and self._running.on_event is not None:
            self._running.on_event(item)
        return item

    async def _next(self) -> "Event | BaseException | None":
        if self._task is None:
            self._begin()
        return await self._queue.get()

    def _begin(self) -> None:
        self._running = self._start()
        self._task = asyncio.get_running_loop().create_task(self._running.pump(self._queue.put_nowait))

    async def text_deltas(self) -> AsyncIterator[str]:
        """Yield the text alone, as it comes."""
        async for event in self:
            if isinstance(event, TextDelta):
                yield event.text

    async def final(self) -> "Reply":
        """Run to the end and return the reply. Raises what the turn raises."""
        async for _ in self:
            pass
        return finished(self)

    async def cancel(self) -> None:
        """Stop the turn and wait until the engine has let it go. What was shown stays in ``text`` and ``reply``."""
        if self._task is None or self._over:
            self._over = True
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._over = True
        if self._running is not None:
            self.reply = self._running.turn.reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cancel()


def finished(stream: Folded) -> "Reply":
    """Return the reply of a stream that ran to its end. Raises GenerationCancelled when it was stopped before."""
    if stream.reply is None or stream.reply.finish_reason == "cancelled":
        error = GenerationCancelled("this turn was stopped")
        error.partial = stream.text
        raise error
    return stream.reply
