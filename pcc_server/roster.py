"""The nodes of a router, asked again and again, and when a new directory is due (SPEC 4). It knows no transport.

A directory is published once per epoch, as soon as every node that answers has renewed its keys and after a fifth of
the epoch at the latest, and again when bundles change within an epoch.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hybrid.wire.errors import ErrorCode, WireError

from . import events
from .composer import Composed, Composer
from .errors import NodeError, Refused
from .events import Event
from .listing import Listing, Rules
from .route_config import NodePlace
from .tlog.errors import LogError

POLL_S = 5.0
EAGER_S = 1.0  # while something is due, and never more often: a node's limit on Directory.Get bears no more
PATIENCE_S = 60.0  # SPEC 4 says e·T + 90 s
START_PATIENCE_S = 20.0  # for every node to have answered once
MISSES = 3  # so often in a row a node may be silent before it is left out


class Node(Protocol):
    """One node as a transport reaches it."""

    @property
    def place(self) -> NodePlace:
        """Where it is and how often it should be drawn."""

    async def directory(self) -> bytes:
        """Fetch its DirectoryReply. Raises NodeError, WireError."""


NodeT = TypeVar("NodeT", bound=Node)


@dataclass(slots=True, eq=False)
class _Known(Generic[NodeT]):
    """A node and what it published last. misses: failures in a row."""

    node: NodeT
    number: int
    listing: Listing | None = None
    misses: int = 0

    @property
    def asked(self) -> bool:
        """Whether it has answered, or has been silent for long enough."""
        return self.listing is not None or self.misses >= MISSES

    def answered(self, listing: Listing) -> None:
        """Note what it published."""
        if self.listing is None:
            events.emit(Event.NODE_LISTED, node=self.number)
        self.listing, self.misses = listing, 0

    def missed(self) -> None:
        """Note a failure; after a few the node is left out."""
        self.misses += 1
        if self.misses == MISSES:
            events.emit(Event.NODE_LEFT_OUT, node=self.number)
        if self.misses >= MISSES:
            self.listing = None


class Roster(Generic[NodeT]):
    """Which nodes there are, and which directory says so. published: called with every new directory."""

    def __init__(
        self,
        nodes: Sequence[NodeT],
        rules: Rules,
        composer: Composer,
        published: Callable[[Composed], None],
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = [_Known(node, number) for number, node in enumerate(nodes)]
        self._rules = rules
        self._composer = composer
        self._published = published
        self._now = now
        self._clock = clock
        self._born = clock()
        self._routes: dict[bytes, NodeT] = {}
        self._last: Composed | None = None
        self._considered: list[bytes] = []
        self._poked = asyncio.Event()

    def find(self, node_id: bytes) -> NodeT | None:
        """Return the node that a request names, also one of the directory before; None when there is none."""
        return self._routes.get(node_id)

    def poke(self) -> None:
        """Look at once: a node did not answer, or no longer knows a key it is listed with."""
        self._poked.set()

    async def run(self) -> None:
        """Ask and publish, for ever."""
        while True:
            await self.turn()
            await self._pause()

    async def turn(self) -> None:
        """Ask every node once, and publish when a directory is due. A log that fails is asked again next time."""
        await asyncio.gather(*(self._ask(known) for known in self._known))
        epoch = int(self._now() // self._rules.epoch_s)
        covering = [k.listing for k in self._known if k.listing is not None and k.listing.covers(epoch)]
        listings = list({listing.node_id: listing for listing in covering}.values())  # one node under two names
        if not listings or not self._composer.may_publish(epoch) or not self._due(epoch, listings):
            return
        try:
            composed = await asyncio.to_thread(self._composer.compose, listings, epoch)
        except (LogError, WireError) as error:
            events.fault(error)
            events.emit(Event.LOG_FAILED, epoch=epoch)
            return
        self._considered = _bundles(listings)
        self._publish(composed)

    async def _ask(self, known: _Known[NodeT]) -> None:
        try:
            listing = self._rules.read(known.node.place, await known.node.directory())
        except Exception as error:  # noqa: BLE001 - whatever one node sends, the others are served
            self._failed(known, error)
            return
        known.answered(listing)
        self._routes[listing.node_id] = known.node

    @staticmethod
    def _failed(known: _Known[NodeT], error: Exception) -> None:
        if isinstance(error, Refused) and error.code is ErrorCode.LIMIT:
            return  # it is there: somebody at our address asks too often
        if not isinstance(error, NodeError | WireError):
            events.fault(error)
        known.missed()

    # --- when --------------------------------------------------------------------------------------

    def _due(self, epoch: int, listings: Sequence[Listing]) -> bool:
        if self._last is None:
            return all(k.asked for k in self._known) or self._clock() - self._born > START_PATIENCE_S
        if epoch > self._last.epoch:
            return self._is_late(epoch) or all(listing.epoch == epoch for listing in listings)
        return _bundles(listings) != self._considered

    def _is_late(self, epoch: int) -> bool:
        return self._now() - epoch * self._rules.epoch_s > min(PATIENCE_S, self._rules.epoch_s / 5)

    async def _pause(self) -> None:
        epoch_s = self._rules.epoch_s
        doubt = any(0 < known.misses < MISSES for known in self._known)
        waiting = doubt or self._last is None or int(self._now() // epoch_s) > self._last.epoch
        usual_s = EAGER_S if waiting else max(EAGER_S, min(POLL_S, epoch_s / 8))
        to_next_s = epoch_s - self._now() % epoch_s + 0.05
        until = time.monotonic() + EAGER_S  # also when poked: anybody can poke, with a request for no node
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(usual_s, to_next_s)):
                await self._poked.wait()
        await asyncio.sleep(until - time.monotonic())
        self._poked.clear()

    def _publish(self, composed: Composed) -> None:
        before = self._last.listings if self._last else ()
        held = {listing.node_id for listing in (*before, *composed.listings)}
        self._routes = {node_id: node for node_id, node in self._routes.items() if node_id in held}
        self._last = composed
        self._published(composed)
        events.emit(Event.DIRECTORY, epoch=composed.epoch, seq=composed.seq, nodes=len(composed.listings))


def _bundles(listings: Sequence[Listing]) -> list[bytes]:
    return [listing.bundle.id for listing in listings]
