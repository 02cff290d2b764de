"""MakeCredential of TPM 2.0 in software: a secret that only the TPM with this EK opens, and only for this AK.

TCG "Trusted Platform Module Library, Part 1": 11.4.10 (key derivation), 24 (credential protection), annexes B.10 and
C.6 (the seed for RSA and ECC). Both EKs are those of the templates L-1 and L-2: SHA-256 and AES-128-CFB.
"""

import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.hashes import SHA256

from .tpm_commands import DIGEST_BYTES, sized

EkKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_LABEL = b"IDENTITY\0"
_AES_BYTES = 16


class Sealed(NamedTuple):
    """What TPM2_ActivateCredential takes: TPMS_ID_OBJECT, and the encrypted seed."""

    blob: bytes
    secret: bytes


def make_credential(ek: EkKey, name: bytes, credential: bytes, seed: bytes) -> Sealed:
    """Seal a credential of at most 32 bytes to an EK and the Name (34 bytes) of an AK.

    seed: 32 random bytes, for an RSA key; an ECC key makes its own from an ephemeral key.
    """
    if isinstance(ek, rsa.RSAPublicKey):
        secret = ek.encrypt(seed, padding.OAEP(padding.MGF1(SHA256()), SHA256(), _LABEL))
    else:
        seed, secret = _ecc_seed(ek)
    encryptor = Cipher(AES(_kdfa(seed, b"STORAGE", name, 8 * _AES_BYTES)), CFB(bytes(_AES_BYTES))).encryptor()
    identity = encryptor.update(sized(credential)) + encryptor.finalize()
    key = _kdfa(seed, b"INTEGRITY", b"", 8 * DIGEST_BYTES)
    return Sealed(sized(hmac.digest(key, identity + name, "sha256")) + identity, secret)


def _ecc_seed(ek: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    ephemeral = ec.generate_private_key(ek.curve)
    shared = ephemeral.exchange(ec.ECDH(), ek)
    ours, theirs = _coordinates(ephemeral.public_key()), _coordinates(ek)
    seed = hashlib.sha256(b"\0\0\0\1" + shared + _LABEL + ours[0] + theirs[0]).digest()  # KDFe, one block
    return seed, sized(ours[0]) + sized(ours[1])


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(DIGEST_BYTES, "big"), numbers.y.to_bytes(DIGEST_BYTES, "big")


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    block = b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4, "big")  # one block is enough
    return hmac.digest(key, block, "sha256")[: bits // 8]
