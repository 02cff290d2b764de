"""A limit on how long a caller may keep one message waiting; cheaper than a timeout around every write."""

import asyncio
from types import TracebackType
from typing import Self

from .errors import Limit


class Patience:
    """Ends the task inside ``with`` when one wait takes longer than ``limit_s``, and at most twice as long.

    Raises Limit then.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._waits = 0
        self._ended = True
        self._seen = -1
        self._expired = False

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._timer = self._loop.call_later(self._limit_s, self._look)
        return self

    def begin(self) -> None:
        """Say that a wait begins."""
        self._waits += 1
        self._ended = False

    def end(self) -> None:
        """Say that it is over."""
        self._ended = True

    def _look(self) -> None:
        if not self._ended and self._seen == self._waits and self._task is not None:
            self._expired = True
            self._task.cancel()
            return
        self._seen = self._waits
        self._timer = self._loop.call_later(self._limit_s, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._expired and isinstance(error, asyncio.CancelledError) and self._task is not None:
            self._task.uncancel()
            raise Limit from None
