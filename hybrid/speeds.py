"""How fast this machine's model and its node were when last seen: a handful of coarse numbers, never content."""

import contextlib
from collections.abc import Callable
from math import log2
from pathlib import Path

from .actions import Outcome
from .errors import ConfigurationError
from .estimate import NOT_SEEN, Speed
from .state import locked, read_json, write_json
from .wire.types import Chunk, EngineTiming, Route, Usage

FILE = "speeds.json"
MOST = 32
"""Answerers that are remembered; the one added first goes first."""

LEAST_READ, LEAST_WRITTEN = 16, 8
"""Tokens below which a rate says nothing."""


class SpeedBook:
    """Speeds by answerer: ``on_device MODEL`` or ``private_cloud ADDRESS``.

    folder: None remembers for this object's life. A folder that can't be written or read costs no answer: what was
    seen then counts for this object alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = folder / FILE if folder else None
        self._seen: dict[str, Speed] | None = None

    def of(self, route: Route, name: str) -> Speed:
        """Return what was seen of one answerer."""
        if self._seen is None:
            self._seen = self._read()
        return self._seen.get(f"{route} {name}", NOT_SEEN)

    def note(self, route: Route, name: str, newest: Speed) -> None:
        """Take one answer in."""
        self._seen = {**(self._seen or {}), f"{route} {name}": self.of(route, name).seen(newest)}
        if self._path is None:
            return
        with contextlib.suppress(ConfigurationError), locked(self._path):
            kept = self._read() | {f"{route} {name}": self._seen[f"{route} {name}"]}
            newest_last = list(kept.items())[-MOST:]
            write_json(self._path, {key: speed.to_dict() for key, speed in newest_last})

    def _read(self) -> dict[str, Speed]:
        with contextlib.suppress(ConfigurationError):
            found = read_json(self._path) if self._path else None
            if isinstance(found, dict):
                return {str(name): Speed.from_dict(values) for name, values in found.items()}
        return {}


class Stopwatch:
    """What one answer on its way says about the speed of who gives it. Its length counts as a power of two only."""

    def __init__(self, route: Route, *, ready: bool, now: Callable[[], float]) -> None:
        self._route, self._ready, self._now = route, ready, now
        self._began = now()
        self._first: float | None = None
        self._last = Chunk()

    def saw(self, item: object) -> None:
        """Look at one item of a route."""
        if not isinstance(item, Chunk):
            return
        if self._first is None and (item.text or item.progress):
            self._first = self._now() - self._began
        if item.timing or item.usage:
            self._last = item

    def speed(self, outcome: Outcome) -> Speed:
        """Return what an answer that ended well has shown."""
        timing, usage = self._last.timing or EngineTiming(), self._last.usage or Usage()
        away = self._route is Route.PRIVATE_CLOUD
        start = outcome.attest_s if away else self._first
        return Speed(
            prefill_tps=timing.prefill_tps if usage.input - usage.cached_input >= LEAST_READ else None,
            decode_tps=timing.decode_tps if usage.output >= LEAST_WRITTEN else None,
            answer_tokens=2.0 ** round(log2(usage.output)) if usage.output else None,
            start_s=None if self._ready else start,
            link_s=outcome.network_s + timing.queue_s if away else None,
        )
