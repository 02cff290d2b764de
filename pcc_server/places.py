"""Who is inside a worker: places of requests, and the order in which those that wait are served."""

import asyncio
from bisect import bisect, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, takewhile, zip_longest

from hybrid.wire.errors import SealedCode

from .errors import Busy, Sealed
from .forecast import Running, Work

AGING_TPS = 2_000  # a prompt this much shorter overtakes those that came up to a second before it


class Place:
    """One request inside: it waits, then it runs, and says how far it has come.

    shed: the machine has no room left for it.  held_up: its reader is slow, so its times say nothing of the engine.
    """

    def __init__(self, work: Work, tenant: int, queue_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._queue_s = queue_s
        self.work = work
        self.tenant = tenant
        self.arrived_at = self._loop.time()
        self.granted: asyncio.Future[None] = self._loop.create_future()
        self.started_at = self.first_at = 0.0
        self.read = self.generated = 0
        self.shed = self.held_up = False

    @property
    def order(self) -> float:
        """Where it stands among its tenant's."""
        return standing(self.arrived_at, self.work)

    @property
    def running(self) -> Running:
        """How far it has come."""
        return Running(self.work, self.read, self.generated)

    async def turn(self) -> float:
        """Wait until it may run; returns the seconds waited.

        Raises Sealed with ``overloaded`` when that takes longer than anybody may wait.
        """
        try:
            async with asyncio.timeout(self._queue_s):
                await self.granted
        except TimeoutError:
            raise Sealed(SealedCode.OVERLOADED) from None
        return self.started_at - self.arrived_at

    def start(self) -> None:
        """Let it run."""
        self.started_at = self._loop.time()
        if not self.granted.done():  # it may have been cancelled in this very turn of the loop
            self.granted.set_result(None)

    def told(self, *, read: int | None = None, tokens: int = 0) -> None:
        """Note how much of the prompt was read, or so many more tokens of the answer."""
        if read is not None:
            self.read = read
        if tokens and not self.generated:
            self.first_at = self._loop.time()
            self.read = self.work.prompt
        self.generated += tokens

    @property
    def step_s(self) -> float:
        """Seconds a token has taken so far; 0 before the second one, and where the reader held it up."""
        if self.held_up or self.generated < 2:  # noqa: PLR2004 - a gap has two ends
            return 0.0
        return (self._loop.time() - self.first_at) / (self.generated - 1)

    def give_up(self) -> None:
        """End it, because the machine has no room left."""
        self.shed = True
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def ends_when_shed(self, retry: Callable[[], int]) -> Iterator[None]:
        """Turn the cancel of ``give_up`` into Busy, and leave any other as it is."""
        try:
            yield
        except asyncio.CancelledError:
            if self.shed and self._task is not None and not self._task.uncancel():
                raise Busy(retry()) from None
            raise


class Queue:
    """Who waits. Tenants take turns, who was served longest ago or never first; within one ``Place.order`` counts."""

    def __init__(self) -> None:
        self._tenants: dict[int, list[Place]] = {}
        self._served: dict[int, int] = {}  # by tenant: the number of its last turn
        self._turns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, place: Place) -> bool:
        return place in self._tenants.get(place.tenant, ())

    def add(self, place: Place) -> None:
        """Take one in."""
        insort(self._tenants.setdefault(place.tenant, []), place, key=lambda one: one.order)
        self._count += 1

    def take(self, place: Place) -> None:
        """Take one out whose turn it is."""
        self.remove(place)
        self._turns += 1
        self._served[place.tenant] = self._turns

    def remove(self, place: Place) -> None:
        """Take one out who leaves."""
        waiting = self._tenants[place.tenant]
        waiting.remove(place)
        self._count -= 1
        if not waiting:
            del self._tenants[place.tenant]

    def next(self) -> Place | None:
        """Return whose turn it is, if anybody waits."""
        tenant = min(self._tenants, key=self._last_turn, default=None)
        return None if tenant is None else self._tenants[tenant][0]

    def ahead(self, work: Work, tenant: int, now: float) -> list[Work]:
        """Return who would be served before one that came now, in their order."""
        waiting = {one: [place.work for place in places] for one, places in self._tenants.items()}
        before = bisect(self._tenants.get(tenant, ()), standing(now, work), key=lambda one: one.order)
        waiting[tenant] = [*waiting.get(tenant, ())[:before], work]
        rounds = chain.from_iterable(zip_longest(*(waiting[one] for one in sorted(waiting, key=self._last_turn))))
        return [one for one in takewhile(lambda one: one is not work, rounds) if one is not None]

    def _last_turn(self, tenant: int) -> int:
        return self._served.get(tenant, 0)

    def has_share(self, tenant: int, most: int) -> bool:
        """Tell whether one more may wait: somebody alone may fill the queue, but keeps nobody else out of it."""
        tenants = self._tenants.keys() | {tenant}
        return self._count < most or len(self._tenants.get(tenant, ())) < most // len(tenants)


def standing(arrived_at: float, work: Work) -> float:
    """Return where a request stands among its tenant's: by length of prompt, which waiting outweighs in time."""
    return arrived_at * AGING_TPS + work.prompt
