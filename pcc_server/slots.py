"""Admission in the worker: so many requests run, so many wait, the next is told to come back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from .errors import Busy

RETRY_MS = 1_000


class Slots:
    """Bounded concurrency with a bounded queue. running, queued: how many of each may be inside."""

    def __init__(self, *, running: int, queued: int) -> None:
        self._room = running + queued
        self._running = asyncio.Semaphore(running)
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place inside, running or waiting. Raises Busy when all are taken."""
        if self.inside >= self._room:
            raise Busy(RETRY_MS)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Wait for a running place, first come first served."""
        async with self._running:
            yield
