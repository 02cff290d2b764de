"""Context kept from one turn to the next, in memory only, bounded in bytes, never shared between partitions.

A kept cache is as private as the words it came from: same partition, or nothing. What is handed out may be merged into
a batch but never changed, so one kept conversation can serve several branches. Source: device design 6.1, 6.2.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MIN_REUSE = 8  # fewer shared tokens than this are not worth a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One conversation: the ids its cache holds, the cache, its bytes, and until when it may be kept."""

    ids: tuple[int, ...] = field(repr=False)
    cache: Sequence[Any] = field(repr=False)
    nbytes: int
    until: float


class PrefixCache:
    """Kept conversations by partition, least recently used first to go.

    limit_bytes: of all partitions together; 0 keeps nothing.  cut: returns a list of layer caches without the last n
    tokens, leaving the given one unchanged, or None where that cannot be done (:func:`device.lane.cut`).
    age_s: nothing is kept longer; None: no such limit.  The partition without a name keeps nothing.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        cut: Callable[[Sequence[Any], int], list[Any] | None],
        age_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit_bytes
        self._cut = cut
        self._age_s = math.inf if age_s is None else age_s
        self._now = now
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Kept] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(kept.nbytes for kept in list(self._kept.values()))

    def take(self, partition: str, ids: Sequence[int]) -> tuple[int, Any | None]:
        """Return how many leading ids are served, and a cache of exactly those; (0, None) for none.

        At least one id is always left to feed: a generator cannot start from nothing.
        """
        self.forget_old()
        best, shared = None, 0
        for key, kept in self._kept.items():
            length = min(common(kept.ids, ids), len(ids) - 1) if key[0] == partition else 0
            if length > shared:
                best, shared = key, length
        if best is None or shared < MIN_REUSE:
            return 0, None
        self._kept.move_to_end(best)
        kept = self._kept[best]
        cache = self._cut(kept.cache, len(kept.ids) - shared)
        return (shared, cache) if cache is not None else (0, None)

    def put(self, partition: str, ids: Sequence[int], cache: Sequence[Any]) -> None:
        """Keep a conversation; shorter ones it continues are dropped, and old ones until the limit holds."""
        nbytes = sum(layer.nbytes for layer in cache)
        if not partition or not ids or nbytes > self._limit:
            return
        whole = tuple(ids)
        for key in [key for key in self._kept if key[0] == partition and common(key[1], whole) == len(key[1])]:
            del self._kept[key]
        self._kept[partition, whole] = Kept(ids=whole, cache=cache, nbytes=nbytes, until=self._now() + self._age_s)
        while self.nbytes > self._limit:
            self._kept.popitem(last=False)

    def forget_old(self) -> float | None:
        """Forget what is too old; returns in how many seconds there will be more to forget, None for never."""
        now = self._now()
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            del self._kept[key]
        soonest = min((kept.until for kept in self._kept.values()), default=math.inf)
        return soonest - now if soonest < math.inf else None

    def release(self, partition: str) -> None:
        """Forget everything of one partition."""
        for key in [key for key in self._kept if key[0] == partition]:
            del self._kept[key]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the leading ids two sequences share."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))
