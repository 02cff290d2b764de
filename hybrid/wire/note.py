"""Signed notes (C2SP signed-note) with Ed25519: how directory entries are signed (SPEC 5).

A note is text, a blank line, and lines "— name base64(key id, signature)".
"""

import base64
import binascii
import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .constants import MAX_CHECKPOINT_BYTES, MAX_NOTE_SIGNATURES
from .encoding import fixed
from .errors import Malformed, NonCanonical, Oversized, SignatureFailure

_ALGORITHM_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_PUBLIC_BYTES = 32
_SEED_BYTES = 32
_DASH = "\u2014 "
_VKEY_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line, not yet checked."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)


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


def _clean(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a note is UTF-8 text") from None
    if any(ord(char) < ord(" ") and char != "\n" for char in text):
        raise Malformed("a note has no control characters but newline")
    return text


def _signature_line(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise Malformed("a signature line begins with an em dash and a space")
    raw = _base64(encoded)
    if len(raw) <= _KEY_ID_BYTES:
        raise Malformed("a note signature is too short")
    return NoteSignature(name=_key_name(name), key_id=raw[:_KEY_ID_BYTES], signature=raw[_KEY_ID_BYTES:])


def _base64(text: str) -> bytes:
    """Decode standard base64, and only its one canonical spelling."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("base64 does not decode") from None
    if base64.b64encode(raw).decode("ascii") != text:  # validate=True accepts unused bits that are not zero
        raise NonCanonical("base64 is not in its canonical spelling")
    return raw


def _key_name(name: str) -> str:
    if not name or "+" in name or any(char.isspace() or unicodedata.category(char) == "Cc" for char in name):
        raise Malformed("a note key's name has no spaces and no plus sign")
    return name


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode("utf-8") + b"\n" + _ALGORITHM_ED25519 + public).digest()[:_KEY_ID_BYTES]


def _vkey(name: str, public: bytes) -> str:
    encoded = base64.b64encode(_ALGORITHM_ED25519 + public).decode("ascii")
    return f"{name}+{_key_id(name, public).hex()}+{encoded}"


class NoteVerifier:
    """A note key somebody chose to trust, in the form ``name+hash+base64``."""

    __slots__ = ("_key_id", "_public", "name")

    name: str

    def __init__(self, name: str, public: bytes) -> None:
        """Take a name and a raw Ed25519 public key. Raises Malformed."""
        self.name = _key_name(name)
        try:
            self._public = Ed25519PublicKey.from_public_bytes(fixed(public, _PUBLIC_BYTES, "note key"))
        except ValueError:
            raise Malformed("a note key does not import") from None
        self._key_id = _key_id(name, public)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read ``name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
        parts = vkey.split("+", 2)  # base64 may hold a plus sign itself
        if len(parts) != _VKEY_PARTS:
            raise Malformed("a note key reads name+hash+base64")
        raw = _base64(parts[2])
        if raw[:1] != _ALGORITHM_ED25519:
            raise Malformed("the note key is no Ed25519 key")
        verifier = cls(parts[0], raw[1:])
        if verifier.vkey != vkey:
            raise Malformed("the note key's hash is not its own")
        return verifier

    @property
    def vkey(self) -> str:
        """The key in its textual form."""
        return _vkey(self.name, self._public.public_bytes_raw())

    def check(self, note: Note) -> str:
        """Return the text of a parsed note that carries this key's valid signature.

        Raises SignatureFailure when no line is this key's, or one of them does not verify.
        Lines of other keys are ignored.
        """
        own = [line for line in note.signatures if line.name == self.name and line.key_id == self._key_id]
        if not own:
            raise SignatureFailure("the note carries no signature of the expected key")
        try:
            for line in own:
                self._public.verify(line.signature, note.text.encode("utf-8"))
        except InvalidSignature:
            raise SignatureFailure("the note's signature does not verify") from None
        return note.text

    def open(self, data: bytes) -> str:
        """Parse a note and return its text. Raises Malformed, SignatureFailure."""
        return self.check(Note.parse(data))


class NoteSigner:
    """A private note key; the node holds the directory signer's in memory."""

    __slots__ = ("_private", "name")

    name: str

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        """Join a name and a key; use ``generate``."""
        self.name = _key_name(name)
        self._private = private

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a fresh key under a name such as ``localhost/directory``. Raises Malformed for a bad name."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """Rebuild a key from its 32-byte seed."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(fixed(seed, _SEED_BYTES, "note key seed")))

    @property
    def vkey(self) -> str:
        """The public key in its textual form."""
        return _vkey(self.name, self._private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """Sign text that ends with a newline; the note has exactly one signature line."""
        if not text.endswith("\n"):
            raise Malformed("a note's text ends with a newline")
        key_id = _key_id(self.name, self._private.public_key().public_bytes_raw())
        signature = base64.b64encode(key_id + self._private.sign(text.encode("utf-8"))).decode("ascii")
        return f"{text}\n{_DASH}{self.name} {signature}\n".encode()

    def __repr__(self) -> str:
        """Show the public name and nothing else."""
        return f"NoteSigner({self.name!r}, <secret>)"
