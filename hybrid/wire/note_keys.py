"""How keys of signed notes are named and written down (C2SP signed-note, verifier keys): no signature is made here.

A public key reads ``name+hash+base64(type, key)``, a private one ``PRIVATE+KEY+name+hash+base64(type, seed)``.
"""

import hashlib
import unicodedata
from dataclasses import dataclass, field

from .encoding import from_base64, to_base64
from .errors import Malformed

ED25519_NOTE = b"\x01"
ED25519_COSIGNATURE = b"\x04"
MLDSA44_COSIGNATURE = b"\x06"
KEY_ID_BYTES = 4
SEED_BYTES = 32
PUBLIC_BYTES = {ED25519_NOTE: 32, ED25519_COSIGNATURE: 32, MLDSA44_COSIGNATURE: 1312}

_PRIVATE = "PRIVATE+KEY+"
_PARTS = 3
_NOT_IN_NAMES = {"Cc", "Cs"}


@dataclass(frozen=True, slots=True)
class PublicNoteKey:
    """A public key: its name, the byte for its signature type, and its raw bytes."""

    name: str
    kind: bytes
    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a name or a length no key has. Raises Malformed."""
        key_name(self.name)
        if len(self.raw) != PUBLIC_BYTES.get(self.kind, -1):
            raise Malformed("the note key is of an unknown type, or has another length than its type")

    @property
    def id(self) -> bytes:
        """The 4 bytes that go with the name in a signature line; no security boundary."""
        words = self.name.encode("utf-8") + b"\n" + self.kind + self.raw
        return hashlib.sha256(words).digest()[:KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The key as text."""
        return f"{self.name}+{self.id.hex()}+{to_base64(self.kind + self.raw)}"


class Keyed:
    """What verifiers and signers share: the public key they stand for."""

    __slots__ = ("public",)

    public: PublicNoteKey

    @property
    def name(self) -> str:
        """The key's name; a log's is its origin."""
        return self.public.name

    @property
    def vkey(self) -> str:
        """The public key in its textual form."""
        return self.public.vkey


def parse_vkey(text: str) -> PublicNoteKey:
    """Read ``name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
    name, raw = _parts(text)
    key = PublicNoteKey(name, raw[:1], raw[1:])
    if key.vkey != text:
        raise Malformed("the note key's hash is not its own")
    return key


def write_private(public: PublicNoteKey, seed: bytes) -> str:
    """Write a private key as one line of text, without a newline. Keep it secret."""
    return f"{_PRIVATE}{public.name}+{public.id.hex()}+{to_base64(public.kind + seed)}"


def parse_private(text: str, *kinds: bytes) -> tuple[str, bytes, bytes]:
    """Read a private key of one of these types into name, type and 32-byte seed. Raises Malformed.

    The caller rebuilds the key and compares the text, which checks the hash.
    """
    if not text.startswith(_PRIVATE):
        raise Malformed("a private note key begins with PRIVATE+KEY+")
    name, raw = _parts(text.removeprefix(_PRIVATE))
    if raw[:1] not in kinds or len(raw) != 1 + SEED_BYTES:
        raise Malformed("the private note key is of another type than the one needed here")
    return name, raw[:1], raw[1:]


def key_name(name: str) -> str:
    """Return a name that may stand in a signature line. Raises Malformed for any other."""
    if not name or "+" in name or any(char.isspace() or unicodedata.category(char) in _NOT_IN_NAMES for char in name):
        raise Malformed("a note key's name has no spaces and no plus sign")
    return name


def _parts(text: str) -> tuple[str, bytes]:
    parts = text.split("+", 2)  # base64 may hold a plus sign itself
    if len(parts) != _PARTS:
        raise Malformed("a note key reads name+hash+base64")
    return parts[0], from_base64(parts[2])
