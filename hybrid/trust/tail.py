"""The tail check of SPEC section 5: every client is shown the same directory, and revocations are found.

Reads the newest entries of the log, proves that they are the log's, and looks at those properly signed for this
deployment. Pure: the files arrive as bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.constants import MAX_SEQS_PER_EPOCH
from hybrid.wire.entries import DirectoryEntry, Entry, RevokeEntry, kind_of, open_entry
from hybrid.wire.errors import WireError
from hybrid.wire.merkle import check_inclusion, leaf_hash
from hybrid.wire.note import NoteVerifier
from hybrid.wire.tiles import (
    TILE_WIDTH,
    entries_from_bundles,
    inclusion_from_tiles,
    needed_entries,
    needed_for_inclusion,
    tile_path,
)

from .checks import Findings
from .log_view import LogContradiction, Tail, own_tail

TAIL_ENTRIES = 2048  # SPEC 5: about a week of epochs; a fresh client reads as many
STALLED_S = 600.0  # SPEC 5: of use, with entries that could have been read
KEPT_DIRECTORIES = 2 * TAIL_ENTRIES

_UNIQUE = "directory.unique"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailSigners:
    """Whose entries count, and for which deployment."""

    deployment: str
    directory: tuple[NoteVerifier, ...]
    release: tuple[NoteVerifier, ...] = ()


def wanted_files(size: int, tail: Tail | None) -> tuple[str, ...]:
    """Name the bundles of entries to read for a log of this size, and the tiles that prove them."""
    start = _start(size, tail)
    if start == size:
        return ()
    own = set(_own_tiles(start, size))
    groups = range(start, size, TILE_WIDTH)
    tiles = dict.fromkeys(path for at in groups for path in needed_for_inclusion(at, size) if path not in own)
    return (*needed_entries(start, size, size), *tiles)


def read_tail(
    newest: Checkpoint, tail: Tail | None, files: Mapping[str, bytes], signers: TailSigners, findings: Findings
) -> Tail:
    """Read up to this checkpoint. Raises AttestationError (``directory.unique``), LogContradiction for two at once."""
    tail = own_tail(tail, signers.deployment)
    start = _start(newest.size, tail)
    entries = _proved(start, newest, files, findings) if start < newest.size else ()
    reading = _Reading(dict(tail.directories) if tail else {}, set(tail.revoked) if tail else set(), findings)
    for data in entries:
        reading.add(data, signers)
    kept = dict(sorted(reading.directories.items())[-KEPT_DIRECTORIES:])
    size = max(newest.size, tail.size if tail else 0)
    return Tail(deployment=signers.deployment, size=size, directories=kept, revoked=frozenset(reading.revoked))


def _start(size: int, tail: Tail | None) -> int:
    """Return where to begin: whole bundles, so that what is read can be proved from itself."""
    start = max(min(tail.size, size) if tail else 0, size - TAIL_ENTRIES)
    return start if start == size else start - start % TILE_WIDTH


def _own_tiles(start: int, size: int) -> Iterable[str]:
    return (tile_path(0, at // TILE_WIDTH, min(TILE_WIDTH, size - at)) for at in range(start, size, TILE_WIDTH))


def _proved(start: int, newest: Checkpoint, files: Mapping[str, bytes], findings: Findings) -> Sequence[bytes]:
    """Return the entries once they lead to the checkpoint's root: their own hashes make the lowest tiles."""
    try:
        entries = entries_from_bundles(start, newest.size, files)
        leaves = [leaf_hash(entry) for entry in entries]
        groups = range(0, len(leaves), TILE_WIDTH)
        own = {
            path: b"".join(leaves[at : at + TILE_WIDTH])
            for path, at in zip(_own_tiles(start, newest.size), groups, strict=True)
        }
        for at in groups:  # one proof covers the whole tile: its other hashes are on the leaf's path
            index = start + at
            proof = inclusion_from_tiles(index, newest.size, {**files, **own})
            check_inclusion(leaf=leaves[at], index=index, size=newest.size, proof=proof, root=newest.root)
    except WireError as error:
        raise findings.failed(_UNIQUE, expected="the log's newest entries", got=str(error)) from None
    return entries


@dataclass(slots=True)
class _Reading:
    directories: dict[tuple[int, int], bytes]
    revoked: set[bytes]
    findings: Findings
    notes: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add(self, data: bytes, signers: TailSigners) -> None:
        entry = _signed(data, signers)
        if isinstance(entry, RevokeEntry):
            self.revoked.add(entry.target)
        elif isinstance(entry, DirectoryEntry) and entry.deployment == signers.deployment:
            self._directory(entry, data)

    def _directory(self, entry: DirectoryEntry, data: bytes) -> None:
        key = (entry.epoch, entry.seq)
        if self.directories.setdefault(key, entry.directory_id) != entry.directory_id:
            got = f"two for epoch {entry.epoch}, seq {entry.seq}"
            error = self.findings.failed(_UNIQUE, expected="one directory per epoch and number in the log", got=got)
            raise LogContradiction.of(error, (self.notes.get(key, b""), data))
        self.notes[key] = data
        if sum(epoch == entry.epoch for epoch, _ in self.directories) > MAX_SEQS_PER_EPOCH:
            raise self.findings.failed(
                _UNIQUE, expected=f"at most {MAX_SEQS_PER_EPOCH} directories per epoch", got="more"
            )


def _signed(data: bytes, signers: TailSigners) -> Entry | None:
    """Open an entry that one of the deployment's keys signed; others' entries share the log and say nothing here."""
    try:
        kind = kind_of(data)
    except WireError:
        return None
    keys = {"directory": signers.directory, "revoke": (*signers.directory, *signers.release)}.get(kind, ())
    for key in keys:
        try:
            return open_entry(data, key)
        except WireError:
            continue
    return None
