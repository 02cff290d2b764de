"""When to send what an engine produces: at once while it comes slowly, many items at a time while it pours."""

import asyncio
import math
from collections.abc import Callable

from hybrid.wire.constants import FRAMES_PER_MESSAGE

from .errors import NodeError

GAP_S = 0.008  # nobody sees it, and a message costs more than the frames in it
MESSAGES_PER_S = 5_000  # of all streams together: a quarter of what fills one Python process (node design P3)
LONGEST_GAP_S = 0.2  # words still seem to flow


def gap_s(streams: int) -> float:
    """Return how long frames may wait for company while so many streams run: longer when there are many."""
    return min(LONGEST_GAP_S, max(GAP_S, streams / MESSAGES_PER_S))


class Pace:
    """Decides when one reply is sent on. send: called to send everything that waits.  most: how many items may wait.

    streams: tells how many replies run.  What was added leaves at once when nothing left for a gap (``gap_s``), or when
    it is urgent; else with what comes next.
    ``last_s``: when something left last, on the loop's clock.
    """

    def __init__(
        self, send: Callable[[], None], most: int = FRAMES_PER_MESSAGE, *, streams: Callable[[], int] = lambda: 1
    ) -> None:
        self._send = send
        self._most = most
        self._streams = streams
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._failed: NodeError | None = None
        self._loop = asyncio.get_running_loop()
        self.last_s = -math.inf

    def added(self, *, urgent: bool = False) -> None:
        """Say that one more item waits. Raises what ``send`` raised, also when it was the timer that called it."""
        self._raise_failed()
        self._waiting += 1
        if urgent or self._waiting >= self._most:
            self._leave()
        elif self._timer is None:
            due = self.last_s + gap_s(self._streams())
            if self._loop.time() >= due:
                self._leave()
            else:
                self._timer = self._loop.call_at(due, self._due)

    def flush(self) -> None:
        """Send what waits. Raises like ``added``."""
        self._raise_failed()
        if self._waiting:
            self._leave()

    def close(self) -> None:
        """Call ``send`` no more, and forget it: it belongs to who holds this. What still waits is the owner's."""
        self._stop_timer()
        self._send = _nothing

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _raise_failed(self) -> None:
        if self._failed:
            raise self._failed

    def _due(self) -> None:
        self._timer = None
        try:
            self._leave()
        except NodeError as error:
            self._failed = error

    def _leave(self) -> None:
        self._stop_timer()
        self._waiting = 0
        self.last_s = self._loop.time()
        self._send()


def _nothing() -> None:
    """Stand in for what was forgotten."""
