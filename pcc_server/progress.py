"""How far the worker has got with its start, as the gateway knows it, and how long callers should stay away."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from .events import Phase

SHORTEST_S = 0.5  # nobody is told to come back sooner


class Progress:
    """One start after the other: the node's first, and one after each loss of a worker.

    phase: its name.  pct: of that phase, 0 to 100.  starts: how many there were.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """now: seconds on a clock nobody sets."""
        self._now = now
        self._took_s = 0.0  # the last start that ended
        self.starts = 0
        self.begin()

    def begin(self) -> None:
        """Note that a worker starts."""
        self.starts += 1
        self.phase = Phase.INIT
        self.pct = 0
        self._begun = self._now()
        self._ended: float | None = None
        self._expected = self._begun + self._took_s

    def hear(self, news: Mapping[str, Any]) -> None:
        """Take what the launcher says: ``{"phase": …, "pct": …, "eta_s": …}``; after the start it means nothing."""
        if self.over:
            return
        self.phase = Phase(news["phase"])
        self.pct = int(news.get("pct", 0))
        if (eta_s := news.get("eta_s")) is not None:
            self._expected = self._now() + float(eta_s)

    def done(self) -> None:
        """Note that the worker answers."""
        if self._ended is None:
            self._ended = self._now()
            self._took_s = self._ended - self._begun
            self.phase, self.pct = Phase.READY, 100

    @property
    def over(self) -> bool:
        """Whether the start has ended well."""
        return self._ended is not None

    @property
    def elapsed_s(self) -> float:
        """How long this start took, or has taken so far."""
        return (self._now() if self._ended is None else self._ended) - self._begun

    @property
    def eta_s(self) -> float:
        """How long it still takes: as told, else as long as the last one took; 0 when that is over or unknown."""
        return 0.0 if self.over else max(0.0, self._expected - self._now())

    @property
    def retry_ms(self) -> int:
        """When a caller should come back."""
        return int(max(SHORTEST_S, self.eta_s) * 1000)
