"""Signed notes (C2SP signed-note) with Ed25519: how log entries and checkpoints are signed (SPEC 5).

A note is text, a blank line, and lines "— name base64(key id, signature)".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .constants import MAX_CHECKPOINT_BYTES, MAX_NOTE_SIGNATURES
from .encoding import fixed, from_base64, to_base64
from .errors import Malformed, Oversized, SignatureFailure
from .note_keys import (
    ED25519_NOTE,
    KEY_ID_BYTES,
    SEED_BYTES,
    Keyed,
    PublicNoteKey,
    key_name,
    parse_private,
    parse_vkey,
    write_private,
)

_DASH = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line, not yet checked."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the line, newline included."""
        return f"{_DASH}{self.name} {to_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A parsed note. ``text`` ends with a newline and is what is signed."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Split a note at its last blank line. Raises Malformed."""
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise Oversized(len(data), MAX_CHECKPOINT_BYTES)
        text, gap, block = _clean(data).rpartition("\n\n")
        if not gap or not block.endswith("\n"):
            raise Malformed("a note ends with a blank line and signature lines")
        lines = block[:-1].split("\n")
        if len(lines) > MAX_NOTE_SIGNATURES:
            raise Malformed(f"a note has at most {MAX_NOTE_SIGNATURES} signature lines")
        return cls(text=text + "\n", signatures=tuple(_signature_line(line) for line in lines))

    def of(self, key: PublicNoteKey) -> list[bytes]:
        """Return the signatures under this key's name and id. Raises SignatureFailure when there is none."""
        own = [line.signature for line in self.signatures if (line.name, line.key_id) == (key.name, key.id)]
        if not own:
            raise SignatureFailure("the note carries no signature of the expected key")
        return own


def append_signatures(note: bytes, lines: Iterable[str]) -> bytes:
    """Add signature lines, such as cosignatures, to a note; a line it has already is not added again.

    Raises Malformed when the result is no note. Nothing is verified here.
    """
    parsed = Note.parse(note)
    added = [_signature_line(line.removesuffix("\n")) for line in lines]
    fresh = [line for line in dict.fromkeys(added) if line not in parsed.signatures]
    whole = note + "".join(line.encode() for line in fresh).encode("utf-8")
    Note.parse(whole)
    return whole


def _clean(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a note is UTF-8 text") from None
    if _CONTROL.search(text):
        raise Malformed("a note has no control characters but newline")
    return text


def _signature_line(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise Malformed("a signature line begins with an em dash and a space")
    raw = from_base64(encoded)
    if len(raw) <= KEY_ID_BYTES:
        raise Malformed("a note signature is too short")
    return NoteSignature(name=key_name(name), key_id=raw[:KEY_ID_BYTES], signature=raw[KEY_ID_BYTES:])


class NoteVerifier(Keyed):
    """A note key somebody chose to trust, in the form ``name+hash+base64``."""

    __slots__ = ("_imported",)

    def __init__(self, public: PublicNoteKey) -> None:
        """Take a public key; use ``parse``. Raises Malformed."""
        if public.kind != ED25519_NOTE:
            raise Malformed("the note key is no Ed25519 key")
        self.public = public
        try:
            self._imported = Ed25519PublicKey.from_public_bytes(public.raw)
        except ValueError:
            raise Malformed("a note key does not import") from None

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read ``name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
        return cls(parse_vkey(vkey))

    def check(self, note: Note) -> str:
        """Return the text of a parsed note that carries this key's valid signature.

        Raises SignatureFailure when no line is this key's, or one of them does not verify.
        Lines of other keys are ignored.
        """
        own = note.of(self.public)
        try:
            for signature in own:
                self._imported.verify(signature, note.text.encode("utf-8"))
        except InvalidSignature:
            raise SignatureFailure("the note's signature does not verify") from None
        return note.text

    def open(self, data: bytes) -> str:
        """Parse a note and return its text. Raises Malformed, SignatureFailure."""
        return self.check(Note.parse(data))


class NoteSigner(Keyed):
    """A private note key; the node holds the directory signer's in memory."""

    __slots__ = ("_private",)

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        """Join a name and a key; use ``generate``, ``from_seed`` or ``parse``."""
        self.public = PublicNoteKey(name, ED25519_NOTE, private.public_key().public_bytes_raw())
        self._private = private

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a fresh key under a name such as ``localhost/directory``. Raises Malformed for a bad name."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """Rebuild a key from its 32-byte seed."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(fixed(seed, SEED_BYTES, "note key seed")))

    @classmethod
    def parse(cls, secret: str) -> Self:
        """Read ``PRIVATE+KEY+name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
        name, _, seed = parse_private(secret, ED25519_NOTE)
        signer = cls.from_seed(name, seed)
        if signer.secret() != secret:
            raise Malformed("the private note key's hash is not its own")
        return signer

    def secret(self) -> str:
        """Write the private key as one line of text, for a file with mode 0600."""
        return write_private(self.public, self._private.private_bytes_raw())

    def sign(self, text: str) -> bytes:
        """Sign text that ends with a newline; the note has exactly one signature line."""
        if not text.endswith("\n"):
            raise Malformed("a note's text ends with a newline")
        signature = self._private.sign(text.encode("utf-8"))
        line = NoteSignature(name=self.name, key_id=self.public.id, signature=signature)
        return f"{text}\n{line.encode()}".encode()

    def __repr__(self) -> str:
        """Show the public name and nothing else."""
        return f"NoteSigner({self.name!r}, <secret>)"
