"""One collection of evidence for everybody who waits (SPEC 3): a device can sign about once a second."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hybrid.wire.attest import MAX_NONCES

from .errors import Limit

EVERY_S = 1.0  # SPEC 15


class Turns:
    """Gathers nonces and collects for all of them at once. collect: nonces to the bytes of an AttestReply."""

    def __init__(self, collect: Callable[[Sequence[bytes]], Awaitable[bytes]], *, every_s: float = EVERY_S) -> None:
        self._collect = collect
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._turn: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def take(self, nonce: bytes) -> bytes:
        """Wait for the next turn and return its reply. Raises Limit, and what collecting raises."""
        if nonce not in self._waiting and len(self._waiting) >= MAX_NONCES:
            raise Limit
        reply = self._waiting.setdefault(nonce, self._loop.create_future())
        if self._turn is None or self._turn.done():
            self._turn = self._loop.create_task(self._run())
        return await asyncio.shield(reply)

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._next_at - self._loop.time())
            self._next_at = self._loop.time() + self._every_s
            taken, self._waiting = self._waiting, {}
            try:
                reply = await self._collect(tuple(taken))
            except Exception as error:  # noqa: BLE001 - every waiting handler ends it in the table of errors.py
                for waiting in taken.values():
                    waiting.set_exception(error)
                    waiting.exception()  # a caller that has gone asks no more
            else:
                for waiting in taken.values():
                    waiting.set_result(reply)
