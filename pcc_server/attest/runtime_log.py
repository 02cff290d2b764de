"""What this machine's nodes have extended into the runtime PCR since it started (SPEC 13, ``tpm2``).

A node that starts again on a running machine finds the PCR as its predecessor left it, and a client replays every
event; so the events are kept in a file that, like the PCR, need not survive a restart of the machine. They are three
public digests each. The file is never believed: what doesn't lead to the PCR's value is forgotten.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from .collector import CollectFailure

MAX_EVENTS = 64  # SPEC 13
EVENT_BYTES = 97
DIGEST_BYTES = 32


class Extended(NamedTuple):
    """One event, and the digest that stands for it in the PCR."""

    event: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class RuntimeLog:
    """The PCR's value before our first event, 32 bytes, and the events since."""

    before: bytes
    entries: tuple[Extended, ...] = ()

    @property
    def value(self) -> bytes:
        """What the PCR must hold now."""
        value = self.before
        for entry in self.entries:
            value = hashlib.sha256(value + entry.digest).digest()
        return value

    @property
    def last(self) -> bytes:
        """The newest event; empty when there is none."""
        return self.entries[-1].event if self.entries else b""

    def plus(self, event: bytes, digest: bytes) -> Self:
        """Return the log with one event more. Raises CollectFailure when it is full."""
        if len(self.entries) == MAX_EVENTS:
            raise CollectFailure(f"{MAX_EVENTS} events since this machine started; restart the machine")
        return type(self)(self.before, (*self.entries, Extended(event, digest)))

    def without_last(self) -> Self:
        """Return the log as it was one event ago."""
        return type(self)(self.before, self.entries[:-1])

    def encode(self) -> str:
        """Encode as lines of hex: the value before, then event and digest together."""
        return "".join(f"{line.hex()}\n" for line in (self.before, *(e.event + e.digest for e in self.entries)))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Decode what ``encode`` gave. Raises ValueError."""
        before, *lines = (bytes.fromhex(line) for line in text.splitlines())
        if len(before) != DIGEST_BYTES or len(lines) > MAX_EVENTS:
            raise ValueError("not a runtime log")
        if any(len(line) != EVENT_BYTES + DIGEST_BYTES for line in lines):
            raise ValueError("not a runtime log")
        return cls(before, tuple(Extended(line[:EVENT_BYTES], line[EVENT_BYTES:]) for line in lines))


class LogFile:
    """Where the log is kept between runs: a file of mode 0600 in a folder of mode 0700."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, pcr: bytes) -> RuntimeLog:
        """Return the log that leads to the PCR's value; an empty one that starts there when none does."""
        try:
            kept = RuntimeLog.decode(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return RuntimeLog(pcr)
        candidates = (kept, kept.without_last())  # the last event was written before it was extended
        return next((log for log in candidates if log.value == pcr), RuntimeLog(pcr))

    def save(self, log: RuntimeLog) -> None:
        """Replace the file in one step. Raises CollectFailure."""
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            new.touch(mode=0o600, exist_ok=False)
            new.write_text(log.encode(), "ascii")
            new.replace(self._path)
        except OSError as error:
            raise CollectFailure(f"the runtime log {self._path} cannot be written: {error.strerror}") from None
