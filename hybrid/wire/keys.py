"""Suite, epoch keys and identity keys (SPEC 2): X-Wing for sealing, Ed25519 with ML-DSA-65 for signing.

Private parts live in slotted objects with a redacted repr. Python cannot erase them: their short life does.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from .constants import KEY_ID_BYTES, KEY_PACKAGE_BYTES, SECRET_BYTES, SIGNATURE_BYTES, SUITE
from .encoding import Reader, cat, digest, fixed, u32, u64
from .errors import BadVersion, Malformed, Rejected, SignatureFailure

_MLKEM_PK_BYTES = 1184
_X25519_BYTES = 32
_ED25519_SIGNATURE_BYTES = 64
_MLDSA65_PK_BYTES = 1952
_MLKEM_SEED_BYTES = 64
_SUITE_BYTES = 8


def hpke_suite() -> hpke.Suite:
    """Build the one suite of version 1: registered ids 0x647a, 0x0001, 0x0002."""
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyConfig:
    """One public epoch key: what a client seals to during epoch ``epoch`` of ``epoch_s`` seconds."""

    suite: bytes = SUITE
    epoch: int
    epoch_s: int
    mlkem_pk: bytes = field(repr=False)
    x25519_pk: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Encode the record ``HKC1``, 1,240 bytes."""
        return b"".join(
            (
                b"HKC1",
                fixed(self.suite, _SUITE_BYTES, "suite"),
                u64(self.epoch),
                u32(self.epoch_s),
                fixed(self.mlkem_pk, _MLKEM_PK_BYTES, "mlkem_pk"),
                fixed(self.x25519_pk, _X25519_BYTES, "x25519_pk"),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record. Raises Malformed."""
        reader = Reader(data)
        config = cls.read(reader)
        reader.end()
        return config

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read the record from the front of a longer one."""
        reader.magic(b"HKC1")
        return cls(
            suite=reader.take(_SUITE_BYTES),
            epoch=reader.u64(),
            epoch_s=reader.u32(),
            mlkem_pk=reader.take(_MLKEM_PK_BYTES),
            x25519_pk=reader.take(_X25519_BYTES),
        )

    @property
    def key_id(self) -> bytes:
        """The 16 bytes ``ek_id``: a digest of the whole record, so no key passes under another epoch."""
        return digest("ek", self.encode())[:KEY_ID_BYTES]

    def hpke_public_key(self) -> hpke.MLKEM768X25519PublicKey:
        """Import both halves. Raises BadVersion for another suite, Malformed for keys that do not import."""
        if self.suite != SUITE:
            raise BadVersion("the suite is not one of this version")
        try:
            return hpke.MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(self.mlkem_pk), X25519PublicKey.from_public_bytes(self.x25519_pk)
            )
        except ValueError:
            raise Malformed("a public key does not import") from None

    def encrypt(self, plaintext: bytes, info: bytes) -> bytes:
        """Seal in one shot (RFC 9180 base mode): enc, then ciphertext with tag.

        Raises Malformed for a key that takes no encryption, as low-order X25519 points do.
        """
        try:
            return hpke_suite().encrypt(plaintext, self.hpke_public_key(), info)
        except ValueError:
            raise Malformed("a public key takes no encryption") from None


class EpochKey:
    """The private half of a KeyConfig: X-Wing, made in memory, gone with its epoch."""

    __slots__ = ("__weakref__", "_private", "config")

    config: KeyConfig

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey, *, epoch: int, epoch_s: int) -> None:
        """Join both halves; use ``generate``."""
        self._private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.config = KeyConfig(
            epoch=epoch,
            epoch_s=epoch_s,
            mlkem_pk=mlkem.public_key().public_bytes_raw(),
            x25519_pk=x25519.public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(cls, epoch: int, epoch_s: int) -> Self:
        """Make a fresh key for one epoch."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate(), epoch=epoch, epoch_s=epoch_s)

    @classmethod
    def from_seed(cls, seed: bytes, epoch: int, epoch_s: int) -> Self:
        """Expand a 32-byte X-Wing seed, as vectors carry it (draft-connolly-cfrg-xwing-kem, section 5.2)."""
        fixed(seed, SECRET_BYTES, "seed")
        both = hashlib.shake_256(seed).digest(_MLKEM_SEED_BYTES + _X25519_BYTES)
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(both[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(both[_MLKEM_SEED_BYTES:]),
            epoch=epoch,
            epoch_s=epoch_s,
        )

    def decrypt(self, key_package: bytes, info: bytes) -> bytes:
        """Open what ``KeyConfig.encrypt`` sealed. Raises Rejected, whatever was wrong."""
        if len(key_package) != KEY_PACKAGE_BYTES:
            raise Rejected
        try:
            return hpke_suite().decrypt(key_package, self._private, info)
        except (InvalidTag, ValueError):
            raise Rejected from None

    def __repr__(self) -> str:
        """Show the epoch and nothing else."""
        return f"EpochKey(epoch={self.config.epoch}, <secret>)"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The public identity of one worker process. Both signatures must verify."""

    ed25519_pk: bytes = field(repr=False)
    mldsa65_pk: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Encode the record ``HIK1``, 1,988 bytes."""
        ed25519 = fixed(self.ed25519_pk, _X25519_BYTES, "ed25519_pk")
        return b"HIK1" + ed25519 + fixed(self.mldsa65_pk, _MLDSA65_PK_BYTES, "mldsa65_pk")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record. Raises Malformed."""
        reader = Reader(data)
        identity = cls.read(reader)
        reader.end()
        return identity

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read the record from the front of a longer one."""
        reader.magic(b"HIK1")
        return cls(ed25519_pk=reader.take(_X25519_BYTES), mldsa65_pk=reader.take(_MLDSA65_PK_BYTES))

    @cached_property
    def node_id(self) -> bytes:
        """The 32 bytes that name this worker: H("node"; Identity)."""
        return digest("node", self.encode())

    def verify(self, label: str, message: bytes, signature: bytes) -> None:
        """Check both halves of a signature over ``cat("sig " + label; message)``.

        Raises SignatureFailure when either half, or either public key, is not good.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureFailure("the signature has the wrong length")
        signed = cat(f"sig {label}", message)
        classical, lattice = signature[:_ED25519_SIGNATURE_BYTES], signature[_ED25519_SIGNATURE_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519_pk).verify(classical, signed)
            MLDSA65PublicKey.from_public_bytes(self.mldsa65_pk).verify(lattice, signed)
        except (InvalidSignature, ValueError):
            raise SignatureFailure("the signature does not verify") from None


class IdentityKey:
    """The private identity key IK of one worker process; never stored."""

    __slots__ = ("_ed25519", "_mldsa65", "public")

    public: Identity

    def __init__(self, ed25519: Ed25519PrivateKey, mldsa65: MLDSA65PrivateKey) -> None:
        """Join both halves; use ``generate``."""
        self._ed25519 = ed25519
        self._mldsa65 = mldsa65
        self.public = Identity(
            ed25519_pk=ed25519.public_key().public_bytes_raw(), mldsa65_pk=mldsa65.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> Self:
        """Make a fresh identity."""
        return cls(Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate())

    @classmethod
    def from_seeds(cls, ed25519: bytes, mldsa65: bytes) -> Self:
        """Rebuild an identity from two 32-byte seeds, as vectors carry them."""
        fixed(ed25519, SECRET_BYTES, "ed25519 seed")
        fixed(mldsa65, SECRET_BYTES, "mldsa65 seed")
        return cls(Ed25519PrivateKey.from_private_bytes(ed25519), MLDSA65PrivateKey.from_seed_bytes(mldsa65))

    def sign(self, label: str, message: bytes) -> bytes:
        """Sign ``cat("sig " + label; message)`` with both keys: 64 and 3,309 bytes."""
        signed = cat(f"sig {label}", message)
        return self._ed25519.sign(signed) + self._mldsa65.sign(signed)

    def __repr__(self) -> str:
        """Show the public name and nothing else."""
        return f"IdentityKey(node_id={self.public.node_id.hex()[:16]}, <secret>)"
