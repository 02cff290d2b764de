"""Tail a log and say what is wrong with it (SPEC 5).

Found are forks, a missing quorum, entries that the tree does not hold, and two directories where there may be one.
What was read up to is kept, so that the next look continues it.
"""

import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.constants import CLOCK_TOLERANCE_S, MAX_SEQS_PER_EPOCH
from hybrid.wire.entries import DirectoryEntry, Entry, RevokeEntry, kind_of, open_entry
from hybrid.wire.errors import WireError
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.merkle import check_inclusion, leaf_hash
from hybrid.wire.note import NoteVerifier
from hybrid.wire.tiles import (
    earlier_root,
    entries_from_bundles,
    inclusion_from_tiles,
    needed_entries,
    needed_for_earlier_root,
    needed_for_inclusion,
)

from .errors import LogError
from .fetch import Read
from .store import SECRET_FILE, Store

_STEP = 256  # entries read at a time
_KEPT_EPOCHS = 1_000

# kind of entry -> keys that may sign it
Roles = Mapping[str, tuple[NoteVerifier, ...]]


@dataclass(slots=True)
class Report:
    """What one look found. t0: the quorum's time, None without a quorum. findings: none means all is well."""

    size: int = 0
    t0: int | None = None
    read: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    revoked: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


class Tail:
    """What is remembered between looks: the newest checkpoint that held, and which directories there were."""

    def __init__(self, path: Path) -> None:
        """Read the state file if there is one. Raises LogError for one that is damaged."""
        self._store, self._name = Store(path.parent), path.name
        data = self._store.get(path.name)
        try:
            known = json.loads(data) if data else {}
            self.note: str = known.get("note", "")
            self.directories: dict[str, dict[str, str]] = known.get("directories", {})
        except (ValueError, AttributeError):
            raise LogError(f"{path} is damaged; move it away to read the log from its beginning") from None

    def save(self) -> None:
        """Write the state file, atomically. Directories of epochs long past are forgotten."""
        newest = sorted(self.directories, key=_epoch_of)[-_KEPT_EPOCHS:]
        self.directories = {epoch: self.directories[epoch] for epoch in newest}
        known = {"note": self.note, "directories": self.directories}
        self._store.write(self._name, json.dumps(known).encode(), SECRET_FILE)

    def contradiction(self, note: bytes) -> None:
        """Keep two checkpoints that contradict each other, beside the state file: they are the proof."""
        for name, text in (("before", self.note.encode()), ("now", note)):
            self._store.write(f"{self._name}.contradiction.{name}", text)


def _epoch_of(key: str) -> int:
    return int(key.rpartition("/")[2])


class Monitor:
    """Looks at one log. policy: its keys, witnesses and quorum. roles: who may sign which kind of entry."""

    def __init__(
        self, read: Read, policy: LogPolicy, roles: Roles, tail: Tail, now: Callable[[], float] = time.time
    ) -> None:
        self._read = read
        self._policy = policy
        self._roles = roles
        self._tail = tail
        self._now = now

    def look(self) -> Report:
        """Read what is new. Raises LogError when the log cannot be read; everything else is a finding."""
        report = Report()
        note = self._read("checkpoint")
        try:
            checkpoint, _ = self._policy.open(note)
        except WireError as error:
            report.findings.append(f"the checkpoint does not hold: {error}")
            return report
        report.size = checkpoint.size
        self._judge_quorum(note, report)
        last = self._last()
        if self._continues(last, checkpoint, note, report):
            try:
                self._read_entries(last.size if last else 0, checkpoint, report)
            except WireError as error:
                report.findings.append(f"the files are not what the checkpoint signs: {error}")
        if not report.findings:
            self._tail.note = note.decode("utf-8")
            self._tail.save()
        return report

    def _judge_quorum(self, note: bytes, report: Report) -> None:
        try:
            report.t0 = self._policy.quorum_time(note)
        except WireError as error:
            report.findings.append(f"the witnesses' quorum is not met: {error}")
        if report.t0 is not None and report.t0 > self._now() + CLOCK_TOLERANCE_S:
            report.findings.append("the witnesses' time lies ahead of this machine's clock")

    def _last(self) -> Checkpoint | None:
        try:
            return self._policy.open(self._tail.note.encode())[0] if self._tail.note else None
        except WireError:
            raise LogError("what was read up to is signed by another log's key; use another --state file") from None

    def _continues(self, last: Checkpoint | None, new: Checkpoint, note: bytes, report: Report) -> bool:
        if last is None or not last.size:
            return True
        if new.size < last.size:
            report.findings.append(f"the log went back from {last.size} to {new.size} entries")
            return False
        try:
            tiles = {path: self._read(path) for path in needed_for_earlier_root(last.size, new.size)}
            begun = earlier_root(last.size, newest_size=new.size, newest_root=new.root, tiles=tiles)
        except WireError as error:  # unproved: a bad mirror, not yet a fork
            report.findings.append(f"the files are not what the checkpoint signs: {error}")
            return False
        if not hmac.compare_digest(begun, last.root):
            self._tail.contradiction(note)
            report.findings.append(f"the log was rewritten: it does not continue the tree of {last.size} entries")
            return False
        return True

    def _read_entries(self, start: int, checkpoint: Checkpoint, report: Report) -> None:
        tiles: dict[str, bytes] = {}
        for at in range(start, checkpoint.size, _STEP):
            end = min(at + _STEP, checkpoint.size)
            bundles = {path: self._read(path) for path in needed_entries(at, end, checkpoint.size)}
            for index, entry in enumerate(entries_from_bundles(at, end, bundles), at):
                self._check_logged(entry, index, checkpoint, tiles)
                self._judge(entry, index, report)
                report.read += 1

    def _check_logged(self, entry: bytes, index: int, checkpoint: Checkpoint, tiles: dict[str, bytes]) -> None:
        for path in needed_for_inclusion(index, checkpoint.size):
            if path not in tiles:
                tiles[path] = self._read(path)
        check_inclusion(
            leaf=leaf_hash(entry),
            index=index,
            size=checkpoint.size,
            proof=inclusion_from_tiles(index, checkpoint.size, tiles),
            root=checkpoint.root,
        )

    def _judge(self, data: bytes, index: int, report: Report) -> None:
        """Take one entry that the tree holds. One that is properly signed by nobody we know is counted, no more."""
        entry = self._read_entry(data)
        kind = kind_of(data) if entry else "unknown"
        report.kinds[kind] = report.kinds.get(kind, 0) + 1
        if isinstance(entry, RevokeEntry):
            report.revoked.append(f"{entry.target.hex()} ({entry.reason})")
        elif isinstance(entry, DirectoryEntry):
            self._judge_directory(entry, index, report)

    def _read_entry(self, data: bytes) -> Entry | None:
        try:
            signers = self._roles.get(kind_of(data), ())
        except WireError:
            return None
        for signer in signers:
            try:
                return open_entry(data, signer)
            except WireError:
                continue
        return None

    def _judge_directory(self, entry: DirectoryEntry, index: int, report: Report) -> None:
        seen = self._tail.directories.setdefault(f"{entry.deployment}/{entry.epoch}", {})
        known = seen.setdefault(str(entry.seq), entry.directory_id.hex())
        where = f"{entry.deployment}, epoch {entry.epoch}, seq {entry.seq} (entry {index})"
        if known != entry.directory_id.hex():
            report.findings.append(f"two directories for {where}: {known[:32]} and {entry.directory_id.hex()[:32]}")
        if len(seen) == MAX_SEQS_PER_EPOCH + 1:
            report.findings.append(f"more than {MAX_SEQS_PER_EPOCH} directories in one epoch: {where}")
