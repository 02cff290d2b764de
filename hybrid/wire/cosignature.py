"""Cosignatures of witnesses (C2SP tlog-cosignature): a statement, with its time, that a checkpoint only added leaves.

Two kinds: Ed25519 (``cosignature/v1``, type 0x04) and ML-DSA-44 (``subtree/v1``, type 0x06).
"""

import time
from collections.abc import Callable
from typing import Literal, Self, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from .checkpoint import Checkpoint
from .encoding import Reader, fixed, u64, v1
from .errors import Malformed, SignatureFailure
from .note import Note, NoteSignature
from .note_keys import (
    ED25519_COSIGNATURE,
    MLDSA44_COSIGNATURE,
    SEED_BYTES,
    Keyed,
    PublicNoteKey,
    parse_private,
    parse_vkey,
    write_private,
)

CosignatureKind: TypeAlias = Literal["ed25519", "ml-dsa-44"]

_TYPES: dict[CosignatureKind, bytes] = {"ed25519": ED25519_COSIGNATURE, "ml-dsa-44": MLDSA44_COSIGNATURE}
_SIGNATURE_BYTES = {ED25519_COSIGNATURE: 64, MLDSA44_COSIGNATURE: 2420}
_SUBTREE_LABEL = b"subtree/v1\n\x00"
_MAX_TIME = 2**63 - 1


def _message(key: PublicNoteKey, text: str, stamp: int) -> bytes:
    """Build what a witness signs about a checkpoint's text at a time. Raises Malformed for text of another kind."""
    if stamp > _MAX_TIME:
        raise Malformed("a cosignature's time is too large")
    checkpoint = Checkpoint.parse_text(text)
    if key.kind == ED25519_COSIGNATURE:
        return f"cosignature/v1\ntime {stamp}\n{text}".encode()
    names = v1(key.name.encode("utf-8")) + u64(stamp) + v1(checkpoint.origin.encode("utf-8"))
    return _SUBTREE_LABEL + names + u64(0) + u64(checkpoint.size) + checkpoint.root


class CosignatureVerifier(Keyed):
    """A witness key somebody chose to trust, in the form ``name+hash+base64``."""

    __slots__ = ("_imported",)

    def __init__(self, public: PublicNoteKey) -> None:
        """Take a public key; use ``parse``. Raises Malformed."""
        if public.kind not in _SIGNATURE_BYTES:
            raise Malformed("the witness key is no cosignature key (type 0x04 or 0x06)")
        kind = Ed25519PublicKey if public.kind == ED25519_COSIGNATURE else MLDSA44PublicKey
        self.public = public
        try:
            self._imported: Ed25519PublicKey | MLDSA44PublicKey = kind.from_public_bytes(public.raw)
        except ValueError:
            raise Malformed("a witness key does not import") from None

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read ``name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
        return cls(parse_vkey(vkey))

    def time(self, note: Note) -> int:
        """Return the time, in Unix seconds, of this witness's newest cosignature of a checkpoint.

        Raises SignatureFailure when no line is this witness's, or one of them does not verify.
        """
        return max(self._time_of(note.text, signature) for signature in note.of(self.public))

    def _time_of(self, text: str, signature: bytes) -> int:
        reader = Reader(signature)
        try:
            stamp, raw = reader.u64(), reader.take(_SIGNATURE_BYTES[self.public.kind])
            reader.end()
            self._imported.verify(raw, _message(self.public, text, stamp))
        except (InvalidSignature, Malformed):
            raise SignatureFailure(f"the cosignature of {self.name} does not verify") from None
        return stamp


class CosignatureSigner(Keyed):
    """A witness's private key."""

    __slots__ = ("_private",)

    def __init__(self, name: str, private: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
        """Join a name and a key; use ``generate``, ``from_seed`` or ``parse``."""
        kind = ED25519_COSIGNATURE if isinstance(private, Ed25519PrivateKey) else MLDSA44_COSIGNATURE
        self.public = PublicNoteKey(name, kind, private.public_key().public_bytes_raw())
        self._private = private

    @classmethod
    def generate(cls, name: str, kind: CosignatureKind = "ed25519") -> Self:
        """Make a fresh key. Raises Malformed for a bad name."""
        make = Ed25519PrivateKey if kind == "ed25519" else MLDSA44PrivateKey
        return cls(name, make.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes, kind: CosignatureKind = "ed25519") -> Self:
        """Rebuild a key from its 32-byte seed."""
        fixed(seed, SEED_BYTES, "witness key seed")
        if kind == "ed25519":
            return cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        return cls(name, MLDSA44PrivateKey.from_seed_bytes(seed))

    @classmethod
    def parse(cls, secret: str) -> Self:
        """Read ``PRIVATE+KEY+name+hash+base64``. Raises Malformed, also when the hash is not this key's."""
        name, found, seed = parse_private(secret, *_SIGNATURE_BYTES)
        signer = cls.from_seed(name, seed, "ed25519" if found == ED25519_COSIGNATURE else "ml-dsa-44")
        if signer.secret() != secret:
            raise Malformed("the private witness key's hash is not its own")
        return signer

    def secret(self) -> str:
        """Write the private key as one line of text, for a file with mode 0600."""
        return write_private(self.public, self._private.private_bytes_raw())

    def cosign(self, note_text: str, *, now: Callable[[], float] = time.time) -> str:
        """Make the signature line, newline included, for a checkpoint's text. Raises Malformed for other text.

        The caller has checked consistency with every tree of this log it has cosigned before.
        """
        stamp = int(now())
        signature = u64(stamp) + self._private.sign(_message(self.public, note_text, stamp))
        return NoteSignature(name=self.name, key_id=self.public.id, signature=signature).encode()

    def __repr__(self) -> str:
        """Show the public name and nothing else."""
        return f"CosignatureSigner({self.name!r}, <secret>)"
