"""A bounded rate per address: a token bucket each, and only so many of them."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import Limit

MAX_ADDRESSES = 4096  # the longest unseen one is forgotten, which only ever lets more through


class Rate:
    """At most ``per_minute`` calls from one address, in bursts of as many."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, cost: int = 1) -> None:
        """Count one call, which may cost as much as several. Raises Limit with the time until it can be had."""
        now = self._clock()
        left, at = self._buckets.pop(address, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - at) * self._per_minute / 60)
        self._buckets[address] = (left - cost if left >= cost else left, now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if left < cost:
            raise Limit(retry_ms=int((cost - left) * 60_000 / self._per_minute) + 1)


class AtOnce:
    """At most so many calls of one address run at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def enter(self, address: str) -> Iterator[None]:
        """Count one call while it runs. Raises Limit."""
        if self._running[address] >= self._most:
            raise Limit
        self._running[address] += 1
        try:
            yield
        finally:
            self._running[address] -= 1
            if not self._running[address]:
                del self._running[address]
