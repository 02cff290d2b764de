"""The client's own view of the transparency log: fetches tiles, remembers checkpoints, reads the tail. SPEC section 5.

Fetches and remembers; ``Verifier`` alone judges. What is asked for is the same for everybody with the same memory.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from .errors import RemoteError
from .exchange import Transport
from .seen import LogMemory, Remembered
from .trust.log_view import LogContradiction, LogView, Seen
from .trust.verify import Verifier
from .wire.codec import DirectoryReply

AT_ONCE = 8  # files fetched beside each other
LONGEST_STEP_S = 360.0  # between two refreshes of a client in use; a longer pause was no use


class LogClient:
    """One deployment's log, as one client follows it. Without a log in the trust policy it does nothing."""

    def __init__(
        self,
        transport: Transport,
        verifier: Verifier,
        memory: LogMemory,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._verifier = verifier
        self._memory = memory
        self._now = now
        self._used_at: float | None = None  # when use was last counted, while the tail is behind

    async def view(self, reply: DirectoryReply) -> LogView:
        """Fetch what the verification of a reply needs of the log. A file that can't be had is left out."""
        origin = self._verifier.origin(reply)
        if origin is None:
            return LogView()
        known = self._memory.load(origin)
        wanted = self._verifier.wanted(reply, known.seen)
        return LogView(
            stored=known.seen,
            tiles=await self._files(wanted),
            tail=known.tail,
            behind_since=self._now() - known.behind_s if known.behind_s else None,
        )

    def accept(self, seen: Seen | None) -> None:
        """Remember the checkpoint a verification accepted, and for how long the tail has been behind it."""
        if seen is None:
            return
        known = self._memory.load(seen.origin)
        behind = known.tail is None or known.tail.size < seen.size
        self._memory.keep(seen.origin, replace(known, seen=seen, behind_s=self._used(known) if behind else 0.0))

    async def read_tail(self, reply: DirectoryReply) -> None:
        """Read the entries since the last time, and remember what they say.

        Raises AttestationError when they contradict each other, RemoteError when they can't be had.
        """
        origin = self._verifier.origin(reply)
        if origin is None:
            return
        known = self._memory.load(origin)
        wanted = self._verifier.wanted_tail(reply, known.tail)
        tail = self._verifier.check_tail(reply, known.tail, await self._files(wanted))
        self._used_at = None
        self._memory.keep(origin, replace(self._memory.load(origin), tail=tail, behind_s=0.0))

    def record(self, error: BaseException) -> None:
        """Keep the proof when a failure is a contradiction; every other failure is nobody's guilt."""
        if isinstance(error, LogContradiction):
            self._memory.contradiction(error.notes)

    async def _files(self, paths: Iterable[str]) -> Mapping[str, bytes]:
        """Fetch files beside each other; one that can't be had is absent, and the check that needs it will say so."""
        slots, files = asyncio.Semaphore(AT_ONCE), dict[str, bytes]()

        async def fetch(path: str) -> None:
            async with slots:
                with contextlib.suppress(RemoteError):
                    files[path] = await self._transport.log_file(path)

        await asyncio.gather(*(fetch(path) for path in paths))
        return files

    def _used(self, known: Remembered) -> float:
        now = self._now()
        more = now - self._used_at if self._used_at is not None else 0.0
        self._used_at = now
        return known.behind_s + min(max(0.0, more), LONGEST_STEP_S)
