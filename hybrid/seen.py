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

from .errors import AttestationError, ConfigurationError
from .state import locked, read_json, write_json
from .trust.checks import Check, CheckStatus
from .trust.log_view import LogContradiction, Seen, Tail

LOGS, CONTRADICTIONS = "logs", "contradictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of one log. behind_s: seconds of use for which the tail has been behind the checkpoint.

    used_at: Unix seconds when those were counted last, None while the tail is not behind.
    """

    seen: Seen | None = None
    tail: Tail | None = None
    behind_s: float = 0.0
    used_at: float | None = None


class LogMemory:
    """The memory of all logs of one client. folder: None keeps it for this process alone."""

    def __init__(self, folder: Path | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self._held: dict[str, Remembered] = {}
        self._found: dict[str, AttestationError] = {}

    def load(self, origin: str) -> Remembered:
        """Return what is remembered of a log, also by another process. Raises ConfigurationError for a broken file.

        What this process has seen counts even where it could not be written down, or the file has gone.
        """
        held, stored = self._held.get(origin, Remembered()), self._stored(origin)
        return held if _size(held) > _size(stored) else stored

    def _stored(self, origin: str) -> Remembered:
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

    def keep(self, origin: str, change: Callable[[Remembered], Remembered]) -> None:
        """Change what is remembered of a log; never to a smaller checkpoint than another process has accepted.

        change: gets what is remembered now, and is alone with it.  Raises ConfigurationError when it can't be written.
        """
        if self._folder is None:
            self._change(origin, change)
            return
        with locked(self._path(origin)):
            self._change(origin, change)
            write_json(self._path(origin), _written(origin, self._held[origin]))

    def _change(self, origin: str, change: Callable[[Remembered], Remembered]) -> None:
        before = self.load(origin)
        after = change(before)
        self._held[origin] = after if _size(after) >= _size(before) else before

    def contradiction(self, subject: str, error: LogContradiction) -> None:
        """Keep both sides of a contradiction, older first. subject: whose words they are."""
        self._found[subject] = error
        if self._folder is None:
            return
        both = hashlib.sha256(b"\0".join(error.notes)).hexdigest()[:16]
        notes = [base64.b64encode(note).decode("ascii") for note in error.notes]
        what = {"subject": subject, "check": error.check, "expected": error.expected, "got": error.got}
        path = self._folder / CONTRADICTIONS / f"{_digest(subject)}-{both}.json"
        write_json(path, {"found_at": int(self._now()), "notes": notes, **what})

    def contradicted(self, subject: str) -> AttestationError | None:
        """Return the failure that ends the use of what has contradicted itself, in this run or an earlier one."""
        if subject in self._found:
            return self._found[subject]
        found = [path for path in self.contradictions() if path.name.startswith(f"{_digest(subject)}-")]
        return _standing(found[0]) if found else None

    def contradictions(self) -> tuple[Path, ...]:
        """Return the files of every contradiction found on this device."""
        return () if self._folder is None else tuple(sorted((self._folder / CONTRADICTIONS).glob("*.json")))

    def _path(self, origin: str) -> Path:
        assert self._folder is not None  # noqa: S101 - callers ask before
        return self._folder / LOGS / f"{_digest(origin)}.json"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _size(remembered: Remembered) -> int:
    return remembered.seen.size if remembered.seen else -1


def _standing(path: Path) -> AttestationError:
    """Return the failure a kept contradiction stands for; one that can't be read any more stands all the same."""
    try:
        told = read_json(path) or {}
        check, expected, got = (str(told[name]) for name in ("check", "expected", "got"))
    except (ConfigurationError, KeyError, TypeError):
        check, expected, got = "log.consistency", "no contradiction", "one that was found earlier"
    error = AttestationError(
        f"the node failed the check {check}: expected {expected}, got {got} (found earlier on this device)",
        check=check,
        expected=expected,
        got=got,
        hint=f"show {path} to the node's operator and to others: it is the proof; without that file it counts no more",
    )
    detail = f"found earlier: expected {expected}, got {got}"
    error.checks = (Check(name=check, status=CheckStatus.FAIL, detail=detail),)
    return error


def _written(origin: str, remembered: Remembered) -> dict[str, Any]:
    seen, tail = remembered.seen, remembered.tail
    return {
        "version": 1,
        "origin": origin,
        "behind_s": round(remembered.behind_s, 3),
        "used_at": remembered.used_at,
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
        used_at=None if value.get("used_at") is None else float(value["used_at"]),
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
