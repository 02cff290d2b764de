"""The client's own view of the transparency log: fetches tiles, remembers checkpoints, reads the tail. SPEC section 5.

Fetches and remembers; ``Verifier`` alone judges. What is asked for is the same for everybody with the same memory.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from .errors import AttestationError, ConfigurationError, RemoteError
from .exchange import Transport
from .seen import LogMemory, Remembered
from .trust.log_view import LogContradiction, LogView, Seen, Tail
from .trust.verify import Verifier
from .wire.codec import DirectoryReply

AT_ONCE = 8  # files fetched beside each other
UNIQUE = "directory.unique"
LONGEST_STEP_S = 360.0  # between two refreshes of a client in use, or two runs in a row; the rest was no use


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
        self._counted = False  # whether this run has counted its use before

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
        """Remember the checkpoint a verification accepted, and for how long the tail has been behind it.

        Raises ConfigurationError when that can't be written down: without it nothing shows a rollback later.
        """
        if seen is not None:
            self._memory.keep(seen.origin, lambda known: self._accepted(known, seen))

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
        self._memory.keep(origin, lambda known: _read_to(known, tail))

    def record(self, error: BaseException, reply: DirectoryReply) -> None:
        """Keep the proof when a failure is a contradiction; every other failure is nobody's guilt.

        A folder that can't be written costs the proof; this run knows it all the same.
        """
        origin = self._verifier.origin(reply)
        if not isinstance(error, LogContradiction) or origin is None:
            return
        with contextlib.suppress(ConfigurationError):
            self._memory.contradiction(self._subject(origin, error.check), error)

    def contradicted(self, reply: DirectoryReply) -> AttestationError | None:
        """Return the failure when the log, or the deployment in it, has ever contradicted itself to this device."""
        origin = self._verifier.origin(reply)
        if origin is None:
            return None
        subjects = (origin, self._subject(origin, UNIQUE))
        return next((error for error in map(self._memory.contradicted, subjects) if error is not None), None)

    def _subject(self, origin: str, check: str) -> str:
        """Name whose words contradict each other: the log's, or one deployment's in it."""
        return f"{origin} {self._verifier.policy.deployment or ''}" if check == UNIQUE else origin

    async def _files(self, paths: Iterable[str]) -> Mapping[str, bytes]:
        """Fetch files beside each other; one that can't be had is absent, and the check that needs it will say so."""
        slots, files = asyncio.Semaphore(AT_ONCE), dict[str, bytes]()

        async def fetch(path: str) -> None:
            async with slots:
                with contextlib.suppress(RemoteError):
                    files[path] = await self._transport.log_file(path)

        await asyncio.gather(*(fetch(path) for path in paths))
        return files

    def _accepted(self, known: Remembered, seen: Seen) -> Remembered:
        if known.tail is not None and known.tail.size >= seen.size:
            return replace(known, seen=seen, behind_s=0.0, used_at=None)
        return replace(known, seen=seen, behind_s=self._used(known), used_at=self._now())

    def _used(self, known: Remembered) -> float:
        """Count the time since the last look as use: all of it within a run, between two runs a short one alone."""
        more = max(0.0, self._now() - known.used_at) if known.used_at is not None else 0.0
        before, self._counted = self._counted, True
        if more > LONGEST_STEP_S:
            more = LONGEST_STEP_S if before else 0.0
        return known.behind_s + more


def _read_to(known: Remembered, tail: Tail) -> Remembered:
    """Remember a tail, unless another process has read further."""
    if known.tail is not None and known.tail.deployment == tail.deployment and known.tail.size > tail.size:
        return known
    return replace(known, tail=tail, behind_s=0.0, used_at=None)
