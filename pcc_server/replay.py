"""The replay set of one epoch key: what was claimed under it, for as long as the key lives (SPEC 9)."""

from hybrid.wire.constants import MAX_REPLAY_ENTRIES
from hybrid.wire.errors import Replay

from .errors import Limit

PREFIX_BYTES = 16  # of q; collisions need 2^64 requests under one key


class ReplaySet:
    """Prefixes of the request digests claimed so far. Bounded: when full it refuses, it never forgets."""

    def __init__(self, capacity: int = MAX_REPLAY_ENTRIES) -> None:
        self._capacity = capacity
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def check(self, q: bytes) -> None:
        """Refuse a request that was claimed before, or any when the set is full.

        Raises Replay or Limit.
        """
        if q[:PREFIX_BYTES] in self._seen:
            raise Replay
        if len(self._seen) >= self._capacity:
            raise Limit

    def claim(self, q: bytes) -> None:
        """Claim a request, once. Check and claim are one step on the worker's one I/O thread.

        Raises Replay or Limit.
        """
        self.check(q)
        self._seen.add(q[:PREFIX_BYTES])
