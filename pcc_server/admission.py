"""Admission in the worker, on exact tokens: who runs, who waits in which order, who is told to come back.

A request waits only if it will probably begin within ``max_queue_s`` and still end in its own time; a free place is
taken at once. Tenants are served in turn, each one's shortest prompt first, and who waits grows older until nobody
overtakes. Source: node design 3.4, 3.5.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hybrid.wire.errors import SealedCode

from .config import Settings
from .engines import Load
from .errors import Busy, DeadlinePassed, Sealed
from .forecast import BAND_NAMES, Room, Speeds, Work, band, kv_bytes, predicted_wait, retry_ms
from .places import Place, Queue
from .tally import Tally

LOOK_S = 0.5  # how often memory is looked at while anybody is inside
FRESH_S = 0.05  # what the engine said holds for so long
SHORTEST = Work(0, 1)
CAUTION = 0.75  # of the longest wait: a forecast is off by as much, and who has waited in vain is told last
UNKNOWN_S = 1.0  # when to come back, before anything is known of how long answers take


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What admission keeps to. running, queued: requests.  queue_s: seconds anybody may wait.

    soft, hard: shares of the engine's room; nothing new starts above the one, the youngest are shed above the other.
    """

    running: int
    queued: int
    queue_s: float
    soft: float
    hard: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Read them from a node's settings."""
        return cls(
            running=settings.max_running,
            queued=settings.max_queue,
            queue_s=settings.max_queue_s,
            soft=settings.soft,
            hard=settings.hard,
        )


class Admission:
    """Decides for one worker. load: asks the engine what it can hold; None: nothing is known but the rows.

    Everything here happens in one turn of the loop, so no request sees another's half-made decision.
    """

    def __init__(
        self,
        bounds: Bounds,
        load: Callable[[], Load] | None = None,
        *,
        pick: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.bounds = bounds
        self._ask = load or Load
        self._pick = pick
        self._loop = asyncio.get_running_loop()
        self._running: dict[Place, Work] = {}  # the youngest last
        self._queue = Queue()
        self._speeds = Speeds()
        self._load, self._asked_at = self._ask(), self._loop.time()
        self._inside = self._rebuilds = 0
        self._looking: asyncio.TimerHandle | None = None

    # --- who is let in -----------------------------------------------------------------------------

    @contextmanager
    def enter(self, tenant: int) -> Iterator[None]:
        """Count a request that is not opened yet, while it is inside. Raises Busy where even the shortest cannot be."""
        is_full = self._inside >= self.bounds.running + 2 * self.bounds.queued
        if is_full or (self._running and _above(self.bounds.soft, self._engine())):
            raise Busy(self._retry(SHORTEST, tenant))
        if not self._is_free_for(SHORTEST):
            self._check_wait(SHORTEST, tenant, CAUTION * self.bounds.queue_s)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def place(self, *, tenant: int, prompt: int, most: int, deadline: float) -> Iterator[Place]:
        """Hold a place for a request, which waits for its ``turn``. deadline: on the loop's clock.

        Raises Busy when it cannot be taken in now, DeadlinePassed when its time is too short in any case, Sealed when
        it can never fit; Busy also from within, when the machine runs out of memory and this is the youngest.
        """
        work = Work(prompt, most)
        self._check(work, tenant, deadline - self._loop.time())
        place = Place(work, tenant, self.bounds.queue_s)
        self._queue.add(place)
        self._advance()
        try:
            with place.ends_when_shed(lambda: self._retry(work, tenant)):
                yield place
        except BaseException:
            self._leave(place)
            raise
        self._learn(place)
        self._leave(place)

    def _check(self, work: Work, tenant: int, left_s: float) -> None:
        room, speeds = self._room(), self._known()
        if not room.holds((), work):
            most = room.kv_budget_bytes // room.kv_token_bytes
            raise Sealed(SealedCode.CONTEXT_LENGTH, most, work.width)
        if speeds.reading_s(work.prompt) > left_s:
            raise DeadlinePassed
        if self._is_free_for(work):  # it begins at once, and a short answer may well end in time
            return
        if not self._queue.has_share(tenant, self.bounds.queued):
            raise Busy(self._retry(work, tenant))
        if speeds.run_s(work) > left_s:
            raise DeadlinePassed
        self._check_wait(work, tenant, min(CAUTION * self.bounds.queue_s, left_s - speeds.run_s(work)))

    def _is_free_for(self, work: Work) -> bool:
        return not self._queue and self._may_start(work)

    def _check_wait(self, work: Work, tenant: int, most_s: float) -> None:
        if self._wait(work, tenant) > most_s:
            raise Busy(self._retry(work, tenant))

    def _wait(self, work: Work, tenant: int) -> float:
        return predicted_wait(
            [place.running for place in self._running],
            self._queue.ahead(work, tenant, self._loop.time()),
            work,
            room=self._room(),
            speeds=self._known(),
        )

    def _retry(self, work: Work, tenant: int) -> int:
        return retry_ms(self._wait(work, tenant) or UNKNOWN_S, self._pick)

    def _engine(self) -> Load:
        now = self._loop.time()
        if now - self._asked_at >= FRESH_S:
            self._load, self._asked_at = self._ask(), now
        return self._load

    def _room(self) -> Room:
        return Room.of(self._engine(), self.bounds.running)

    def _known(self) -> Speeds:
        """Return what is known of speeds; before the first answer has ended, from those that run."""
        speeds = self._speeds.told(self._engine())
        steps = [] if speeds.step_s else [place.step_s for place in self._running if place.step_s]
        return replace(speeds, step_s=sum(steps) / len(steps)) if steps else speeds

    # --- who runs ----------------------------------------------------------------------------------

    def _may_start(self, work: Work) -> bool:
        """Tell whether one more may run. Somebody always may: a node over its soft mark is not empty for ever."""
        if not self._running:
            return True
        return self._room().holds(self._running.values(), work) and not _above(self.bounds.soft, self._engine())

    def _advance(self) -> None:
        """Start whose turn it is, as many as may run; see to memory while anybody is inside."""
        while (place := self._queue.next()) is not None and self._may_start(place.work):
            self._queue.take(place)
            self._running[place] = place.work
            place.start()
        if self._looking is None and (self._running or self._queue):
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        if _above(self.bounds.hard, self._engine()):
            self._shed_youngest()
        self._advance()

    def _shed_youngest(self) -> None:
        """End one a look, so that what it frees is seen before the next."""
        if place := next((place for place in reversed(self._running) if not place.shed), None):
            place.give_up()

    def _learn(self, place: Place) -> None:
        if step_s := place.step_s:
            first_s = place.first_at - place.started_at
            self._speeds = self._speeds.learned(first_s=first_s, step_s=step_s, answer=place.generated)

    def _leave(self, place: Place) -> None:
        if place in self._running:
            del self._running[place]
        elif place in self._queue:
            self._queue.remove(place)
        self._advance()

    # --- what is seen of it ------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    def tell(self, tally: Tally) -> None:
        """Note how full it is. The wait is that of a short request of somebody new."""
        load = self._engine()
        works = self._running.values()
        tally.gauges(
            running=len(works),
            waiting=len(self._queue),
            predicted_wait_s=self._wait(SHORTEST, -1),
            kv_used_bytes=load.kv_used_bytes or kv_bytes(works, load.kv_token_bytes),
            kv_room_bytes=load.kv_budget_bytes,
            memory_bytes=load.memory_bytes,
            rows=dict(zip(BAND_NAMES, load.bands, strict=False)) or Counter(band(work) for work in works),
        )
        if load.rebuilds > self._rebuilds:
            tally.rebuilt(load.rebuilds - self._rebuilds)
            self._rebuilds = load.rebuilds


def _above(mark: float, load: Load) -> bool:
    return bool(load.room_bytes) and load.memory_bytes > mark * load.room_bytes
