"""Context kept from one turn to the next, in memory only, bounded in bytes, never shared between partitions.

A kept cache is as private as the words it came from: same partition, or nothing. What is handed out may be merged into
a batch but never changed, so one kept conversation can serve several branches. Source: device design 6.1, 6.2.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MIN_REUSE = 8  # fewer shared tokens than this are not worth a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One conversation: the ids its cache holds, the cache, its bytes."""

    ids: tuple[int, ...] = field(repr=False)
    cache: Sequence[Any] = field(repr=False)
    nbytes: int


class PrefixCache:
    """Kept conversations by partition, least recently used first to go.

    limit_bytes: of all partitions together; 0 keeps nothing.  trim: cuts the last n tokens off a list of layer caches
    and returns how many it cut (mlx-lm's ``trim_prompt_cache``).
    """

    def __init__(self, limit_bytes: int, *, trim: Callable[[Any, int], int]) -> None:
        self._limit = limit_bytes
        self._trim = trim
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Kept] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(kept.nbytes for kept in self._kept.values())

    def take(self, partition: str, ids: Sequence[int]) -> tuple[int, Any | None]:
        """Return how many leading ids are served, and a cache of exactly those; (0, None) for none.

        At least one id is always left to feed: a generator cannot start from nothing.
        """
        best, shared = None, 0
        for key, kept in self._kept.items():
            length = min(common(kept.ids, ids), len(ids) - 1) if key[0] == partition else 0
            if length > shared:
                best, shared = key, length
        if best is None or shared < MIN_REUSE:
            return 0, None
        self._kept.move_to_end(best)
        return self._cut(self._kept[best], shared)

    def _cut(self, kept: Kept, length: int) -> tuple[int, Any | None]:
        cache = copy.deepcopy(list(kept.cache))
        surplus = len(kept.ids) - length
        if surplus and self._trim(cache, surplus) != surplus:
            return 0, None  # a cache that cannot be trimmed
        return length, cache

    def put(self, partition: str, ids: Sequence[int], cache: Sequence[Any]) -> None:
        """Keep a conversation; shorter ones it continues are dropped, and old ones until the limit holds."""
        nbytes = sum(layer.nbytes for layer in cache)
        if not ids or nbytes > self._limit:
            return
        whole = tuple(ids)
        for key in [key for key in self._kept if key[0] == partition and common(key[1], whole) == len(key[1])]:
            del self._kept[key]
        self._kept[partition, whole] = Kept(ids=whole, cache=cache, nbytes=nbytes)
        while self.nbytes > self._limit:
            self._kept.popitem(last=False)

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
