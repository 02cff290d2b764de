"""Callers that have not sent their whole request yet, whoever they are: bounded, and open to one more at any time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Busy

RETRY_MS = 1_000


class Hall:
    """Bounded concurrency of what costs a caller nothing. most: how many may be inside.

    When it is full, who has been there longest goes: else a few callers that never end would keep everybody out, and
    no key is needed to be one. Who sends at once is never that one, unless the hall is filled within a round trip.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: dict[asyncio.Timeout, None] = {}  # the newest last

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Be inside. Raises Busy when it has to go."""
        if len(self._inside) >= self._most:
            oldest = next(iter(self._inside))
            del self._inside[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(None) as stay:
                self._inside[stay] = None
                try:
                    yield
                finally:
                    self._inside.pop(stay, None)
        except TimeoutError:
            raise Busy(RETRY_MS) from None
