"""When a child that ended is started again, and when no more (node design 3.7)."""

import time
from collections import deque
from collections.abc import Callable

FIRST_S = 0.5  # before the first restart; doubled by each further end
LONGEST_S = 30.0
MOST_ENDS = 5  # within the window: then it stays down
WINDOW_S = 600.0


class Restarts:
    """Counts the ends of one child. now: seconds on a clock nobody sets."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._ends: deque[float] = deque()

    @property
    def ends(self) -> int:
        """How often it ended within the window."""
        return len(self._ends)

    def ended(self) -> float | None:
        """Note an end. Returns after how many seconds it is started again, None when it ended too often."""
        now = self._now()
        while self._ends and now - self._ends[0] > WINDOW_S:
            self._ends.popleft()
        self._ends.append(now)
        if len(self._ends) >= MOST_ENDS:
            return None
        return float(min(LONGEST_S, FIRST_S * 2 ** (len(self._ends) - 1)))
