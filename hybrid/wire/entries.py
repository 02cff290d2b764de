"""Entries of the transparency log (SPEC 5): signed notes ``hpcc/1 <kind>``, one line of canonical JSON each.

The signature block of a note is malleable, so an entry has exactly one signature line, and other entries and policies
name it by ``entry_digest``, which is over its text. Everything here is decoded and authentic, not yet accepted: whether
a signer may say this, and whether it is in the log, is for ``hybrid.trust``.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from .canonical import JsonValue, canonical_json, decode_canonical_json
from .constants import MAX_ENTRY_BYTES, PROTOCOL
from .encoding import deployment_name, digest
from .errors import Malformed, Oversized
from .fields import Fields
from .note import Note, NoteSigner, NoteVerifier
from .release import ReleaseEntry

EntryKind = Literal["release", "model", "directory", "revoke"]

REASONS = ("key-compromise", "vulnerability", "wrong-measurement", "superseded", "withdrawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntryNote:
    """What the model signer says: these are the files of a model. SHA-256 ``manifest`` as in Statements.

    context: tokens.  issued: Unix seconds.
    """

    model_id: str
    manifest: bytes
    licence: str
    context: int
    issued: int

    def fields(self) -> dict[str, JsonValue]:
        """Return the entry's words."""
        return {
            "context": self.context,
            "issued": self.issued,
            "licence": self.licence,
            "manifest": self.manifest.hex(),
            "model_id": self.model_id,
        }

    @classmethod
    def read(cls, fields: Fields) -> "ModelEntryNote":
        """Read the entry's words. Raises Malformed."""
        return cls(
            model_id=fields.identifier("model_id"),
            manifest=fields.digest("manifest"),
            licence=fields.text("licence"),
            context=fields.number("context"),
            issued=fields.number("issued"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """What the directory signer says: this directory is the one of this epoch. nodes: their number."""

    deployment: str
    epoch: int
    seq: int
    directory_id: bytes
    nodes: int

    def fields(self) -> dict[str, JsonValue]:
        """Return the entry's words."""
        return {
            "deployment": self.deployment,
            "directory_id": self.directory_id.hex(),
            "epoch": self.epoch,
            "nodes": self.nodes,
            "seq": self.seq,
        }

    @classmethod
    def read(cls, fields: Fields) -> "DirectoryEntry":
        """Read the entry's words. Raises Malformed."""
        return cls(
            deployment=deployment_name(fields.text("deployment")).decode("ascii"),
            epoch=fields.number("epoch"),
            seq=fields.number("seq"),
            directory_id=fields.digest("directory_id"),
            nodes=fields.number("nodes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeEntry:
    """What a release or directory signer takes back. target: ``entry_digest``; reason: one of ``REASONS``."""

    target: bytes = field(repr=False)
    reason: str
    issued: int

    def fields(self) -> dict[str, JsonValue]:
        """Return the entry's words."""
        return {"issued": self.issued, "reason": self.reason, "target": self.target.hex()}

    @classmethod
    def read(cls, fields: Fields) -> "RevokeEntry":
        """Read the entry's words. Raises Malformed."""
        reason = fields.text("reason")
        if reason not in REASONS:
            raise Malformed(f"a revocation's reason is one of {', '.join(REASONS)}")
        return cls(target=fields.digest("target"), reason=reason, issued=fields.number("issued"))


Entry: TypeAlias = ReleaseEntry | ModelEntryNote | DirectoryEntry | RevokeEntry

_TYPES: dict[EntryKind, type[Entry]] = {
    "release": ReleaseEntry,
    "model": ModelEntryNote,
    "directory": DirectoryEntry,
    "revoke": RevokeEntry,
}


def sign(entry: Entry, signer: NoteSigner) -> bytes:
    """Sign an entry. Raises Malformed when it would not open again, Oversized."""
    kind = next(kind for kind, of in _TYPES.items() if isinstance(entry, of))
    text = f"{PROTOCOL} {kind}\n{canonical_json(entry.fields()).decode('ascii')}\n"
    if _read(text) != entry:
        raise Malformed("an entry's field has a type or a form of its own")
    data = signer.sign(text)
    _within(data)
    return data


def open_entry(data: bytes, verifier: NoteVerifier) -> Entry:
    """Check an entry's one signature and read it. Raises Malformed, NonCanonical, Oversized, SignatureFailure."""
    return _read(verifier.check(_note(data)))


def kind_of(data: bytes) -> EntryKind:
    """Read an entry's kind; its signature is not checked. Raises Malformed."""
    return _split(_note(data).text)[0]


def entry_digest(data: bytes) -> bytes:
    """Digest an entry's text, 32 bytes: its name in ``revoke``, ``pins`` and ``deny``. Raises Malformed."""
    return digest("entry", _note(data).text.encode("utf-8"))


def _note(data: bytes) -> Note:
    _within(data)
    note = Note.parse(data)
    if len(note.signatures) != 1:
        raise Malformed("an entry has exactly one signature line")
    return note


def _within(data: bytes) -> None:
    if len(data) > MAX_ENTRY_BYTES:
        raise Oversized(len(data), MAX_ENTRY_BYTES)


def _split(text: str) -> tuple[EntryKind, str]:
    title, _, words = text.partition("\n")
    for kind in get_args(EntryKind):
        if title == f"{PROTOCOL} {kind}":
            return kind, words
    raise Malformed(f"an entry's first line is {PROTOCOL} and one of {', '.join(get_args(EntryKind))}")


def _read(text: str) -> Entry:
    kind, words = _split(text)
    if not words.endswith("\n"):
        raise Malformed("an entry has two lines")
    fields = Fields(decode_canonical_json(words[:-1].encode("utf-8")))
    entry = _TYPES[kind].read(fields)
    fields.end()
    return entry
