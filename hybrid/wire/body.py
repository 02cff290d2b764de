"""The request body (SPEC 6): Cobblestone-256 of C2SP chunked encryption over a padded message.

The header of a body commits to its key, so one ciphertext has one plaintext.
"""

import hmac
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .constants import BODY_BUCKETS, BODY_CHUNK_BYTES, BODY_SALT_BYTES, HPKE_TAG_BYTES, SECRET_BYTES
from .encoding import fixed, v4
from .errors import Oversized, Rejected

_INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
_NONCE_BYTES = 12
_COMMITMENT_BYTES = 32
_HEADER_BYTES = BODY_SALT_BYTES + _COMMITMENT_BYTES
_SEALED_CHUNK_BYTES = BODY_CHUNK_BYTES + HPKE_TAG_BYTES
_LENGTH_BYTES = 4


class _Keys(NamedTuple):
    key: bytes
    base_nonce: int
    commitment: bytes

    def __repr__(self) -> str:
        return "_Keys(<secret>)"


def pad(message: bytes) -> bytes:
    """Prefix a message with its length and fill it with zeros up to its bucket.

    Raises Oversized when it does not fit into the largest bucket.
    """
    need = _LENGTH_BYTES + len(message)
    bucket = next((size for size in BODY_BUCKETS if size >= need), None)
    if bucket is None:
        raise Oversized(need, BODY_BUCKETS[-1])
    return v4(message) + bytes(bucket - need)


def unpad(plaintext: bytes) -> bytes:
    """Take the message out of its padding. Raises Rejected when length or zeros are wrong."""
    end = _LENGTH_BYTES + int.from_bytes(plaintext[:_LENGTH_BYTES], "big")
    if end > len(plaintext) or plaintext[end:] != bytes(len(plaintext) - end):
        raise Rejected
    return plaintext[_LENGTH_BYTES:end]


def body_length(plaintext_bytes: int) -> int:
    """Bytes of a body over so many bytes of padded plaintext."""
    return _HEADER_BYTES + plaintext_bytes + HPKE_TAG_BYTES * (plaintext_bytes // BODY_CHUNK_BYTES + 1)


BODY_LENGTHS = frozenset(body_length(bucket) for bucket in BODY_BUCKETS)


def seal_body(plaintext: bytes, *, key: bytes, salt: bytes, context: bytes) -> bytes:
    """Encrypt: salt, commitment, then chunks of 16 KiB of which the last is shorter, even empty.

    key: the 32-byte input key S, used for this body alone.  salt: 24 bytes.
    """
    keys = _derive(key, fixed(salt, BODY_SALT_BYTES, "salt"), context)
    cipher = AESGCM(keys.key)
    chunks = [
        cipher.encrypt(_nonce(keys, at), plaintext[at * BODY_CHUNK_BYTES : (at + 1) * BODY_CHUNK_BYTES], None)
        for at in range(len(plaintext) // BODY_CHUNK_BYTES + 1)
    ]
    return b"".join((salt, keys.commitment, *chunks))


def open_body(body: bytes, *, key: bytes, context: bytes) -> bytes:
    """Decrypt: the commitment first, then every chunk. Raises Rejected, whatever was wrong."""
    if len(key) != SECRET_BYTES or len(body) < _HEADER_BYTES + HPKE_TAG_BYTES:
        raise Rejected
    keys = _derive(key, body[:BODY_SALT_BYTES], context)
    if not hmac.compare_digest(keys.commitment, body[BODY_SALT_BYTES:_HEADER_BYTES]):
        raise Rejected
    count, last = divmod(len(body) - _HEADER_BYTES, _SEALED_CHUNK_BYTES)
    if last < HPKE_TAG_BYTES:  # the last chunk is always shorter than a whole one: that is the end mark
        raise Rejected
    return _open_chunks(body, keys, count + 1)


def _open_chunks(body: bytes, keys: _Keys, count: int) -> bytes:
    cipher = AESGCM(keys.key)
    starts = range(_HEADER_BYTES, _HEADER_BYTES + count * _SEALED_CHUNK_BYTES, _SEALED_CHUNK_BYTES)
    try:
        return b"".join(
            cipher.decrypt(_nonce(keys, number), body[start : start + _SEALED_CHUNK_BYTES], None)
            for number, start in enumerate(starts)
        )
    except InvalidTag:
        raise Rejected from None


def _derive(key: bytes, salt: bytes, context: bytes) -> _Keys:
    fixed(key, SECRET_BYTES, "key")
    length = SECRET_BYTES + _NONCE_BYTES + _COMMITMENT_BYTES
    out = HKDFExpand(algorithm=SHA512(), length=length, info=_INFO + salt + context).derive(key)
    return _Keys(out[:32], int.from_bytes(out[32:44], "big"), out[44:])


def _nonce(keys: _Keys, chunk: int) -> bytes:
    return (keys.base_nonce ^ chunk).to_bytes(_NONCE_BYTES, "big")
