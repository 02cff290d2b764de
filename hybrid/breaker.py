"""Leaves a node that keeps failing alone for a while, so that not every turn waits for it anew. No I/O.

Three failures in a row close the route for 30 s, and each failed try after that for twice as long, to 10 minutes. A
node that could not be verified stays closed: what it must prove does not change while a client lives.
"""

import math
import time
from collections.abc import Callable

from .routing.signals import RouteState

FAILURES = 3
FIRST_S, LONGEST_S = 30.0, 600.0
WELL = RouteState()


class Breaker:
    """What is known of one node from how it fared."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures = 0
        self._pause_s = FIRST_S
        self._until = 0.0
        self._state = WELL

    @property
    def state(self) -> RouteState:
        """Whether the node is worth a try now, and if not, why."""
        return self._state if self._now() < self._until else WELL

    def failed(self, reason: str, *, fix: str = "", attempts: int = 1) -> None:
        """Note attempts that came to nothing. reason: a word of ``availability()``."""
        self._failures += attempts
        self._state = RouteState(available=False, reason=reason, fix=fix)
        if reason == "attestation_failed":
            self._until = math.inf
        elif self._failures >= FAILURES:
            self._until = self._now() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_S)

    def answered(self) -> None:
        """Note an answer: all is well again."""
        self._failures, self._pause_s, self._until = 0, FIRST_S, 0.0
