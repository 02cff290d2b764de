"""The transparency log as a router uses it: what its nodes run is proved, every directory is appended (SPEC 5)."""

from collections.abc import Sequence

from hybrid.wire.canonical import decode_canonical_json
from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest
from hybrid.wire.entries import DirectoryEntry, kind_of, open_entry
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import Statement
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import Note, NoteVerifier

from . import events
from .composer import Logged
from .events import Event
from .tlog.cosign import Witness
from .tlog.log import Log

_BATCH = 256  # entries read at once


class LogLedger:
    """A ``Ledger`` on a folder. directory_key: of the signer whose earlier directories are looked for."""

    def __init__(self, log: Log, witnesses: Sequence[Witness], directory_key: NoteVerifier) -> None:
        """Take a log that is open for writing."""
        self._log = log
        self._witnesses = tuple(witnesses)
        self._directory_key = directory_key
        self._read_to = 0
        self._notes: set[bytes] = set()
        self._releases: dict[bytes, int] = {}
        self._models: dict[tuple[str, str], int] = {}
        self._newest: dict[str, tuple[int, int]] = {}

    def statements(self, statements: Sequence[Statement], checkpoint_no: int) -> Logged:
        """Return the published checkpoint, and under it the RELEASE and MODEL leaves of what these nodes run.

        What is not in the log is left out: a client that wants it says so. Raises LogError.
        """
        self._read()
        note = self._log.note()
        size = _size(note)
        found = [self._releases.get(statement.release_leaf) for statement in statements]
        models = [model for statement in statements for model in statement.models]
        found += [self._models.get((model.model_id, model.manifest.hex())) for model in models]
        indices = sorted({index for index in found if index is not None and index < size})
        return Logged(note=note, leaves=tuple(self._log.leaf(index, checkpoint_no, size) for index in indices))

    def holds(self, note: bytes) -> bool:
        """Tell whether the log published this signed checkpoint, byte for byte. Raises LogError."""
        digest = checkpoint_digest(note)
        if digest not in self._notes and self._log.has_published(note):
            self._notes.add(digest)
        return digest in self._notes

    def append(self, entry: bytes) -> Logged:
        """Append one DIRECTORY entry; returns the new checkpoint and the entry's own leaf. Raises LogError."""
        (index,) = self._log.append([entry])
        silent: list[Exception] = []
        note = self._log.checkpoint(witnesses=self._witnesses, failed=silent.append)
        if silent:
            events.emit(Event.WITNESS_SILENT, witnesses=len(silent))
        return Logged(note=note, leaves=(self._log.leaf(index, size=_size(note)),))

    def last(self, deployment: str) -> tuple[int, int] | None:
        """Return (epoch, seq) of the newest directory that is logged for a deployment, or None. Raises LogError."""
        self._read()
        return self._newest.get(deployment)

    def _read(self) -> None:
        """Take note of entries that were appended since, by this router or by others."""
        size = self._log.size
        for start in range(self._read_to, size, _BATCH):
            for index, entry in enumerate(self._log.entries(start, min(start + _BATCH, size)), start):
                self._note(index, entry)
        self._read_to = size

    def _note(self, index: int, entry: bytes) -> None:
        try:
            kind = kind_of(entry)
            if kind == "release":
                self._releases[leaf_hash(entry)] = index
            elif kind == "model":
                self._models[_model_of(entry)] = index
            elif kind == "directory":
                self._note_directory(open_entry(entry, self._directory_key))
        except WireError:
            return  # another deployment's directory, or an entry nobody can use

    def _note_directory(self, entry: object) -> None:
        if isinstance(entry, DirectoryEntry):
            said = (entry.epoch, entry.seq)
            self._newest[entry.deployment] = max(said, self._newest.get(entry.deployment, said))


def _size(note: bytes) -> int:
    return Checkpoint.parse_text(Note.parse(note).text).size


def _model_of(entry: bytes) -> tuple[str, str]:
    """Read which model an entry is about; its signature is the client's to judge. Raises Malformed."""
    words = Note.parse(entry).text.split("\n")[1]
    fields = decode_canonical_json(words.encode("utf-8"))
    return (str(fields.get("model_id")), str(fields.get("manifest"))) if isinstance(fields, dict) else ("", "")
