"""What a client remembers of a transparency log between its runs: SPEC section 5. Judges nothing.

One file per log origin holds the newest accepted checkpoint and what the entries read so far say. Two checkpoints that
contradict each other are kept for good, both, as they came: they are the proof.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .state import read_json, write_json
from .trust.log_view import Seen, Tail

LOGS, CONTRADICTIONS = "logs", "contradictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of one log. behind_s: seconds of use for which the tail has been behind the checkpoint."""

    seen: Seen | None = None
    tail: Tail | None = None
    behind_s: float = 0.0


class LogMemory:
    """The memory of all logs of one client. folder: None keeps it for this process alone."""

    def __init__(self, folder: Path | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self._held: dict[str, Remembered] = {}

    def load(self, origin: str) -> Remembered:
        """Return what is remembered of a log, also by another process. Raises ConfigurationError for a broken file."""
        if self._folder is None:
            return self._held.get(origin, Remembered())
        path = self._path(origin)
        value = read_json(path)
        if value is None:
            return Remembered()
        try:
            return _read(value, origin)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigurationError(
                f"{path} is not a memory of the log {origin}", hint="look at the file; removing it forgets this log"
            ) from None

    def keep(self, origin: str, remembered: Remembered) -> None:
        """Remember a log; never a smaller checkpoint than another process has accepted meanwhile."""
        before = self.load(origin).seen
        if before is not None and remembered.seen is not None and before.size > remembered.seen.size:
            return
        self._held[origin] = remembered
        if self._folder is not None:
            write_json(self._path(origin), _written(origin, remembered))

    def contradiction(self, notes: tuple[bytes, bytes]) -> Path | None:
        """Keep both sides of a contradiction, older first; returns the file, None without a folder."""
        if self._folder is None:
            return None
        name = hashlib.sha256(b"\0".join(notes)).hexdigest()[:16]
        path = self._folder / CONTRADICTIONS / f"{name}.json"
        write_json(path, {"found_at": int(self._now()), "notes": [base64.b64encode(note).decode() for note in notes]})
        return path

    def contradictions(self) -> tuple[Path, ...]:
        """Return the files of every contradiction found on this device."""
        return () if self._folder is None else tuple(sorted((self._folder / CONTRADICTIONS).glob("*.json")))

    def _path(self, origin: str) -> Path:
        assert self._folder is not None  # noqa: S101 - callers ask before
        return self._folder / LOGS / f"{hashlib.sha256(origin.encode()).hexdigest()[:16]}.json"


def _written(origin: str, remembered: Remembered) -> dict[str, Any]:
    seen, tail = remembered.seen, remembered.tail
    return {
        "version": 1,
        "origin": origin,
        "behind_s": round(remembered.behind_s, 3),
        "seen": None
        if seen is None
        else {
            "size": seen.size,
            "root": seen.root.hex(),
            "t0": seen.t0,
            "note": base64.b64encode(seen.note).decode("ascii"),
        },
        "tail": None
        if tail is None
        else {
            "deployment": tail.deployment,
            "size": tail.size,
            "directories": {f"{e} {s}": value.hex() for (e, s), value in tail.directories.items()},
            "revoked": sorted(value.hex() for value in tail.revoked),
        },
    }


def _read(value: Mapping[str, Any], origin: str) -> Remembered:
    if value["version"] != 1 or value["origin"] != origin:
        raise ValueError
    seen, tail = value["seen"], value["tail"]
    return Remembered(
        behind_s=float(value["behind_s"]),
        seen=None
        if seen is None
        else Seen(
            origin=origin,
            size=int(seen["size"]),
            root=bytes.fromhex(seen["root"]),
            t0=None if seen["t0"] is None else int(seen["t0"]),
            note=base64.b64decode(seen["note"], validate=True),
        ),
        tail=None
        if tail is None
        else Tail(
            deployment=str(tail["deployment"]),
            size=int(tail["size"]),
            directories={_pair(key): bytes.fromhex(word) for key, word in tail["directories"].items()},
            revoked=frozenset(bytes.fromhex(word) for word in tail["revoked"]),
        ),
    )


def _pair(key: str) -> tuple[int, int]:
    epoch, seq = key.split(" ")
    return int(epoch), int(seq)
