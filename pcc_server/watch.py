"""The watchdog: judges a worker by its beats (node design 3.7, level 3)."""

import time
from collections.abc import Callable

SILENT_S = 10.0  # without a beat, or with an engine that does not turn although it has work
STEPS = 20  # an engine may be still for so many of its steps, where those take long
ASLEEP_S = 5.0  # nobody looked for so long: the machine or the launcher stood still, and silence says nothing


class Watch:
    """Of one worker, from its first beat on. now: seconds on a clock nobody sets."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._heard: float | None = None
        self._looked = now()
        self._stalled_s = 0.0
        self._step_s = 0.0

    def beat(self, stalled_ms: int, step_ms: int = 0) -> None:
        """Take a beat. stalled_ms: since the engine's loop turned while it had work.  step_ms: what one turn takes."""
        self._heard = self._now()
        self._stalled_s, self._step_s = stalled_ms / 1000, step_ms / 1000

    def still_s(self) -> float:
        """Return for how long nothing has moved when that is too long, else 0. Look at least every second.

        Take the beats that wait before: a launcher that was stopped finds them late.
        """
        now, looked = self._now(), self._looked
        self._looked = now
        if self._heard is None:
            return 0.0
        if now - looked > ASLEEP_S:
            self._heard = now
        if now - self._heard > SILENT_S:
            return now - self._heard
        return self._stalled_s if self._stalled_s > max(SILENT_S, STEPS * self._step_s) else 0.0
