"""How far a start has got, and how long it still takes: the last start is what the next one is measured by."""

import time
from collections.abc import Callable
from typing import Any

from .events import Phase


class Startup:
    """The worker's way to ready, as the gateway tells it. now: seconds on a clock nobody sets."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._took_s: float | None = None
        self._phase, self._pct, self._reason = Phase.INIT, 0, ""
        self._begun = self._entered = now()

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._phase

    def begin(self, in_s: float = 0.0) -> None:
        """Note that a worker was started, or will be."""
        self.enter(Phase.INIT)
        self._begun = self._entered = self._now() + in_s

    def enter(self, phase: Phase, pct: int = 0, reason: str = "") -> None:
        """Note a phase, or progress within it. pct: of the phase, 0 to 100.  reason: of ``degraded``, one word."""
        now = self._now()
        if phase is not self._phase:
            self._entered = now
        self._phase, self._pct, self._reason = phase, max(0, min(100, pct)), reason
        if phase is Phase.READY:
            self._took_s = now - self._begun

    def told(self) -> dict[str, Any]:
        """Return what the gateway is told: phase, pct, and eta_s where it can be known."""
        eta_s = self._eta_s()
        known: dict[str, Any] = {} if eta_s is None else {"eta_s": round(eta_s, 1)}
        reason = {"reason": self._reason} if self._reason else {}
        return {"phase": self._phase.value, "pct": self._pct, **known, **reason}

    def _eta_s(self) -> float | None:
        if self._phase in (Phase.READY, Phase.DRAINING, Phase.DEGRADED, Phase.STOPPED):
            return None
        now = self._now()
        if self._took_s is not None:
            return max(0.0, self._took_s - (now - self._begun))
        return (now - self._entered) * (100 - self._pct) / self._pct if self._pct else None
