"""One log: append entries, sign checkpoints, collect cosignatures, prove inclusion (SPEC 5, C2SP tlog-tiles).

``DIR`` holds public files alone, so any static server can serve it: ``checkpoint``, ``tile/…``, ``history/…``.
``DIR.private`` holds the key, the lock and the size that was appended. What is appended is on disk before it is
signed, and the checkpoint is written last: a crash at any moment leaves a tree that continues what was published.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.wire.checkpoint import Checkpoint, open_checkpoint
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO
from hybrid.wire.directory import Leaf
from hybrid.wire.entries import kind_of
from hybrid.wire.errors import WireError
from hybrid.wire.merkle import check_consistency, leaf_hash
from hybrid.wire.note import Note, NoteSigner, NoteVerifier, append_signatures
from hybrid.wire.tiles import (
    consistency_from_tiles,
    entries_from_bundles,
    inclusion_from_tiles,
    needed_entries,
    root_from_tiles,
    tiles_of,
)

from .cosign import Witness, collect
from .errors import LogError, WitnessError
from .growth import changed_files, outgrown_folders
from .key_files import make_key, read_signer
from .store import SECRET_FILE, Store

CHECKPOINT = "checkpoint"
HISTORY = "history"
_PRIVATE = ".private"
_KEY = "key"
_SIZE = "size"


def private_folder(folder: Path) -> Path:
    """Return where a log's key, lock and size are: beside the public folder, never inside."""
    return folder.with_name(folder.name + _PRIVATE)


class Tiles(Mapping[str, bytes]):
    """The stored tiles and bundles by path, read when asked for. A partial file may have grown into a longer one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, path: str) -> bytes:
        """Read one file. Raises LogError when neither it nor its full one is there."""
        return self._store.read(path)

    def __contains__(self, path: object) -> bool:
        """Say whether the file is there."""
        return isinstance(path, str) and self._store.get(path) is not None

    def __iter__(self) -> Iterator[str]:
        """Refuse: a log is not listed, it is computed."""
        raise LogError("the files of a log follow from its size; they are not listed")

    def __len__(self) -> int:
        """Refuse for the same reason."""
        raise LogError("the files of a log follow from its size; they are not counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What ``Log.verify`` found good. appended: entries on disk, of which the checkpoint may cover fewer."""

    checkpoint: Checkpoint
    appended: int
    history: int


class Log:
    """A log's folder. Every writing method takes the lock for itself, so a router and a command line can share it."""

    def __init__(self, folder: Path, signer: NoteSigner | None, verifier: NoteVerifier | None) -> None:
        """Use ``open`` or ``init``."""
        self._store = Store(folder)
        self._private = Store(private_folder(folder))
        self._signer = signer
        self._verifier = verifier
        self._tiles = Tiles(self._store)

    @classmethod
    def init(cls, folder: Path, origin: str) -> "Log":
        """Make an empty log with a fresh key in ``DIR.private/key``. Raises LogError when there is one already."""
        private = Store(private_folder(folder))
        with private.locked():
            if Store(folder).get(CHECKPOINT) is not None or private.get(_SIZE) is not None:
                raise LogError(f"{folder} is a log already")
            make_key(private.folder / _KEY, origin)
            _write_size(private, 0)
        log = cls.open(folder)
        log.checkpoint()
        return log

    @classmethod
    def open(cls, folder: Path) -> "Log":
        """Open a log to write to it. Raises LogError when the folder is none or its key cannot be read."""
        key = private_folder(folder) / _KEY
        if not key.exists():
            raise LogError(f"{folder} has no key {key}; make a log with: pcc-server log init {folder} --origin NAME")
        signer = read_signer(key)
        return cls(folder, signer, NoteVerifier.parse(signer.vkey))

    @classmethod
    def read(cls, folder: Path, vkey: str) -> "Log":
        """Open a copy of a log's public folder to check it and to make proofs. Raises LogError."""
        try:
            return cls(folder, None, NoteVerifier.parse(vkey))
        except WireError as error:
            raise LogError(f"this is no log key: {error}") from None

    @property
    def vkey(self) -> str:
        """The log's public key; its name is the origin."""
        assert self._verifier is not None  # noqa: S101 - both ways to open one set it
        return self._verifier.vkey

    @property
    def size(self) -> int:
        """Entries that are on disk, signed for or not."""
        if self._private.get(_SIZE) is None:
            return self.published().size
        return _read_size(self._private)

    # --- reading -----------------------------------------------------------------------------------

    def note(self) -> bytes:
        """Return the published checkpoint as it stands. Raises LogError when there is none."""
        return self._store.read(CHECKPOINT)

    def has_published(self, note: bytes) -> bool:
        """Tell whether this is the published checkpoint or an earlier one, byte for byte. Raises LogError."""
        if note == self._store.get(CHECKPOINT):
            return True
        try:
            size = Checkpoint.parse_text(Note.parse(note).text).size
        except WireError:
            return False
        names = [name for name in self._store.names(HISTORY) if name.startswith(f"{HISTORY}/{size:012d}-")]
        return any(self._store.get(name) == note for name in names)

    def published(self) -> Checkpoint:
        """Return the published checkpoint, its signature checked. Raises LogError."""
        return self._opened(self.note(), CHECKPOINT)

    def entry(self, index: int) -> bytes:
        """Return one entry. Raises LogError when there is none."""
        if not 0 <= index < self.size:
            raise LogError(f"the log has {self.size} entries; there is none numbered {index}")
        return self.entries(index, index + 1)[0]

    def entries(self, start: int, end: int) -> tuple[bytes, ...]:
        """Return the entries from start up to, not including, end."""
        size = self.size
        try:
            bundles = {path: self._tiles[path] for path in needed_entries(start, end, size)}
            return entries_from_bundles(start, end, bundles)
        except WireError as error:
            raise LogError(f"{self._store.folder} is damaged: {error}") from None

    def leaf(self, index: int, checkpoint_no: int = ENTRY_CHECKPOINT_NO, size: int | None = None) -> Leaf:
        """Return an entry with its inclusion proof. size: of the checkpoint it is proved under, else the published."""
        under = self.published().size if size is None else size
        if not 0 <= index < under <= self.size:
            raise LogError(f"entry {index} is not covered by a checkpoint of {under} entries")
        try:
            hashes = inclusion_from_tiles(index, under, self._tiles)
        except WireError as error:
            raise LogError(f"{self._store.folder} is damaged: {error}") from None
        return Leaf(entry=self.entry(index), checkpoint_no=checkpoint_no, index=index, hashes=hashes)

    def verify(self) -> Verified:
        """Recompute everything from the entries: tiles, roots, and that every old checkpoint is a prefix.

        Raises LogError naming what differs.
        """
        checkpoint = self.published()
        size = self.size
        self._check_files(size)
        old = [self._opened(self._store.read(name), name) for name in self._store.names(HISTORY)]
        for name, earlier in zip([CHECKPOINT, *self._store.names(HISTORY)], [checkpoint, *old], strict=True):
            if earlier.size > size or self._root(earlier.size) != earlier.root:
                raise LogError(f"{name} is signed over another tree of {earlier.size} entries than the one stored")
        return Verified(checkpoint=checkpoint, appended=size, history=len(old))

    def _check_files(self, size: int) -> None:
        entries = self.entries(0, size)
        for entry in entries:
            check_entry(entry)
        for path, data in tiles_of([leaf_hash(entry) for entry in entries], 0, size).items():
            if self._store.get(path) != data:
                raise LogError(f"{self._store.folder / path} is not what the entries make")

    def _opened(self, note: bytes, name: str) -> Checkpoint:
        assert self._verifier is not None  # noqa: S101 - both ways to open one set it
        try:
            return open_checkpoint(note, self._verifier)
        except WireError as error:
            raise LogError(f"{self._store.folder / name} is no checkpoint of {self._verifier.name}: {error}") from None

    def _root(self, size: int) -> bytes:
        try:
            return root_from_tiles(size, self._tiles)
        except WireError as error:
            raise LogError(f"{self._store.folder} is damaged: {error}") from None

    # --- writing -----------------------------------------------------------------------------------

    def append(self, entries: Sequence[bytes]) -> list[int]:
        """Put entries on disk, in order; returns their indices. A checkpoint covers them once it is made.

        Raises LogError for bytes that are no entry of a known kind, before anything is written.
        """
        for entry in entries:
            check_entry(entry)
        with self._private.locked():
            size = _read_size(self._private)
            for path, data in changed_files(self._tiles, size, entries).items():
                if self._store.get(path) != data:
                    self._store.write(path, data)
            _write_size(self._private, size + len(entries))
        return list(range(size, size + len(entries)))

    def checkpoint(
        self,
        now: Callable[[], float] = time.time,
        witnesses: Sequence[Witness] = (),
        failed: Callable[[WitnessError], None] = lambda _: None,
    ) -> bytes:
        """Sign what is appended, collect cosignatures, publish; returns the note.

        failed: told of each witness that gave none; the checkpoint is published without it.
        Raises LogError, and signs nothing, when the stored tree does not continue the published one; and when a
        witness has seen a longer tree than this folder holds: it was restored from an old copy.
        """
        if self._signer is None:
            raise LogError("this log was opened to read; its key is elsewhere")
        with self._private.locked():
            size = _read_size(self._private)
            earlier = self.published() if self._store.get(CHECKPOINT) is not None else None
            if earlier and earlier.size > size:
                raise LogError(f"the checkpoint covers {earlier.size} entries, the folder holds {size}: signing stops")
            checkpoint = Checkpoint(origin=self._signer.name, size=size, root=self._root(size))
            if earlier:
                self._check_continues(earlier, checkpoint)
            note = self._signer.sign(checkpoint.encode_text())
            lines = self._cosigned(note, checkpoint, earlier.size if earlier else 0, witnesses, failed)
            return self._publish(append_signatures(note, lines), size, now())

    def _check_continues(self, earlier: Checkpoint, new: Checkpoint) -> None:
        try:
            check_consistency(
                old_size=earlier.size,
                old_root=earlier.root,
                new_size=new.size,
                new_root=new.root,
                proof=self._consistency(earlier.size, new.size),
            )
        except WireError:
            raise LogError("the stored tree does not continue the published checkpoint: signing stops") from None

    def _consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        return consistency_from_tiles(old, new, self._tiles) if 0 < old < new else ()

    def _cosigned(
        self,
        note: bytes,
        checkpoint: Checkpoint,
        old: int,
        witnesses: Sequence[Witness],
        failed: Callable[[WitnessError], None],
    ) -> list[str]:
        lines: list[str] = []
        for answer in collect(witnesses, note, checkpoint.size, old, self._consistency):
            if not isinstance(answer, WitnessError):
                lines.append(answer)
            elif answer.size is not None and answer.size > checkpoint.size:
                raise LogError(f"{answer}: this folder is older than what was published; signing stops")
            else:
                failed(answer)
        return lines

    def _publish(self, note: bytes, size: int, now: float) -> bytes:
        current = self._store.get(CHECKPOINT)
        if current is not None and current != note:
            self._store.write(f"{HISTORY}/{self.published().size:012d}-{int(now)}", current)
        self._store.write(CHECKPOINT, note)
        for folder in outgrown_folders(size):
            self._store.remove_folder(folder)
        return note


def check_entry(entry: bytes) -> str:
    """Return the kind of a signed entry. Raises LogError for bytes no reader would accept."""
    try:
        return kind_of(entry)
    except WireError as error:
        raise LogError(f"this is no entry: {error}") from None


def _read_size(private: Store) -> int:
    try:
        return int(json.loads(private.read(_SIZE))["size"])
    except (ValueError, KeyError, TypeError):
        raise LogError(f"{private.folder / _SIZE} is damaged; restore it from the published checkpoint") from None


def _write_size(private: Store, size: int) -> None:
    private.write(_SIZE, json.dumps({"size": size}).encode(), SECRET_FILE)
