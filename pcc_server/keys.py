"""Epoch keys in memory: made on the grid, two ahead, destroyed on time (SPEC 2, 9).

Acceptance is judged on the wall clock, destruction also on the clock that counts suspend, so neither a clock set
back nor a sleeping machine prolongs a key's life.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.errors import StaleKey
from hybrid.wire.keys import EpochKey, IdentityKey, KeyConfig

from .publication import Named
from .replay import ReplaySet

LEAD_S = 30  # keys of the epoch after the next are made so long before the next begins, or a quarter of an epoch


def boot_clock() -> float:
    """Seconds on a clock nobody sets: it counts suspend where the system has such a one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()  # on macOS it stands still during sleep; the wall clock ends keys there too


@dataclass(slots=True, kw_only=True, weakref_slot=True, eq=False)
class LiveKey:
    """One epoch key, what was claimed under it, and the bundles it was published in.

    destroy_at: on the boot clock.  replaced: a newer key of its epoch is published in its place.
    bundles: bundle id -> the identity that signed it.
    """

    key: EpochKey
    destroy_at: float
    replaced: bool = False
    seen: ReplaySet = field(default_factory=ReplaySet)
    bundles: dict[bytes, IdentityKey] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The epoch it is sealed to in."""
        return self.key.config.epoch

    @property
    def window(self) -> tuple[int, int]:
        """Unix seconds between which requests to it are accepted, ends included."""
        return window(self.epoch, self.key.config.epoch_s)


def window(epoch: int, epoch_s: int) -> tuple[int, int]:
    """Return [e·T - 90 s, (e+1)·T + 90 s] (SPEC 9)."""
    return epoch * epoch_s - CLOCK_TOLERANCE_S, (epoch + 1) * epoch_s + CLOCK_TOLERANCE_S


class KeyRing:
    """The epoch keys of this process. They never leave it and are never stored."""

    def __init__(
        self, epoch_s: int, *, now: Callable[[], float] = time.time, boot: Callable[[], float] = boot_clock
    ) -> None:
        self._epoch_s = epoch_s
        self._now = now
        self._boot = boot
        self._live: dict[bytes, LiveKey] = {}
        self.advance()

    @property
    def epoch(self) -> int:
        """The epoch of now, on the one grid of all nodes."""
        return int(self._now() // self._epoch_s)

    def advance(self) -> bool:
        """Destroy what has ended, make what is missing for this epoch and the next; tell whether anything changed.

        Shortly before an epoch begins the one after it counts, too: its directory is prepared then.
        """
        before = set(self._live)
        self._live = {key_id: live for key_id, live in self._live.items() if not self._ended(live)}
        alive = {live.epoch for live in self._live.values() if not live.replaced}
        for epoch in set(range(self.epoch, self._epoch_in(self._lead_s) + 2)) - alive:
            key = EpochKey.generate(epoch, self._epoch_s)
            left_s = window(epoch, self._epoch_s)[1] - self._now()
            self._live[key.config.key_id] = LiveKey(key=key, destroy_at=self._boot() + left_s)
        return set(self._live) != before

    def rotate(self) -> None:
        """Make new keys of this epoch and the next; the old ones go on until their windows end."""
        self.advance()
        for live in self._live.values():
            live.replaced = True
        self.advance()

    def revoke(self, ek_id: bytes) -> None:
        """Destroy a key at once and make another in its place. Raises StaleKey when there is no such key."""
        if ek_id not in self._live:
            raise StaleKey
        del self._live[ek_id]
        self.advance()

    def _ended(self, live: LiveKey) -> bool:
        return self._boot() >= live.destroy_at or self._now() > live.window[1]

    @property
    def _lead_s(self) -> float:
        return min(LEAD_S, self._epoch_s / 4)

    def _epoch_in(self, ahead_s: float) -> int:
        return int((self._now() + ahead_s) // self._epoch_s)

    def seconds_to_change(self) -> float:
        """Seconds until ``advance`` has something to do: an epoch begins or is near, or a key ends."""
        now, boot = self._now(), self._boot()
        grid = (self._epoch_s - (now + ahead_s) % self._epoch_s for ahead_s in (0, self._lead_s))
        ends = (min(live.destroy_at - boot, live.window[1] - now) for live in self._live.values())
        return max(0.0, min((*grid, *ends)))

    def current(self) -> tuple[LiveKey, ...]:
        """Return the keys of this epoch and the next: what the directory of this epoch lists."""
        return self._listed(self.epoch)

    def coming(self) -> tuple[LiveKey, ...]:
        """Return what the directory of the next epoch will list, once that is near; else nothing."""
        is_near = self._epoch_in(self._lead_s) > self.epoch
        return self._listed(self.epoch + 1) if is_near else ()

    def _listed(self, epoch: int) -> tuple[LiveKey, ...]:
        found = (live for live in self._live.values() if live.epoch in (epoch, epoch + 1) and not live.replaced)
        return tuple(sorted(found, key=lambda live: live.epoch))

    def accepted(self) -> tuple[LiveKey, ...]:
        """Return every key that still opens requests, the oldest first."""
        return tuple(sorted((k for k in self._live.values() if not self._ended(k)), key=lambda live: live.epoch))

    def name(self, configs: Sequence[KeyConfig], bundle_id: bytes, identity: IdentityKey) -> None:
        """Note the bundle that lists these keys; those that have ended meanwhile stay ended."""
        for config in configs:
            if live := self._live.get(config.key_id):
                live.bundles[bundle_id] = identity

    def find(self, named: Named) -> tuple[LiveKey, IdentityKey]:
        """Return the key a request was sealed to and the identity of the bundle it names.

        Raises StaleKey for another node, an unknown or ended key, one used too early, a bundle it is not in.
        """
        live = self._live.get(named.ek_id)
        if live is None or self._ended(live) or self._now() < live.window[0]:
            raise StaleKey
        identity = live.bundles.get(named.bundle_id)
        if identity is None or identity.public.node_id != named.node_id:
            raise StaleKey
        return live, identity
