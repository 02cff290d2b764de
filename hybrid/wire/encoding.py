"""The encodings of SPEC 1: length prefixes, ``cat``, labelled digests, and a strict reader.

Everything of ours that is hashed, signed or used as HPKE info goes through ``cat``.
"""

import base64
import binascii
import hashlib
import re

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .constants import DIGEST_BYTES, MAX_IDENTIFIER_CHARS, PROTOCOL
from .errors import BadVersion, Malformed, NonCanonical, Oversized

_IDENTIFIER = re.compile(rf"[A-Za-z0-9._/@:-]{{1,{MAX_IDENTIFIER_CHARS}}}")
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DEPLOYMENT = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_MAX_DEPLOYMENT_CHARS = 253
_MAX_ITEMS = 255


def u8(value: int) -> bytes:
    """Encode one byte. Raises Malformed when the value does not fit."""
    return _unsigned(value, 1)


def u16(value: int) -> bytes:
    """Encode two bytes, big-endian. Raises Malformed when the value does not fit."""
    return _unsigned(value, 2)


def u32(value: int) -> bytes:
    """Encode four bytes, big-endian. Raises Malformed when the value does not fit."""
    return _unsigned(value, 4)


def u64(value: int) -> bytes:
    """Encode eight bytes, big-endian. Raises Malformed when the value does not fit."""
    return _unsigned(value, 8)


def v1(data: bytes) -> bytes:
    """Prefix data with its length as u8."""
    return _unsigned(len(data), 1) + data


def v2(data: bytes) -> bytes:
    """Prefix data with its length as u16."""
    return _unsigned(len(data), 2) + data


def v4(data: bytes) -> bytes:
    """Prefix data with its length as u32."""
    return _unsigned(len(data), 4) + data


def _unsigned(value: int, width: int) -> bytes:
    try:
        return value.to_bytes(width, "big")
    except OverflowError:
        raise Malformed(f"a number does not fit into {width} bytes") from None


def fixed(data: bytes, length: int, what: str) -> bytes:
    """Return data when it has exactly this length. Raises Malformed naming the field otherwise."""
    if len(data) != length:
        raise Malformed(f"{what} must have {length} bytes, not {len(data)}")
    return data


def cat(label: str, *items: bytes) -> bytes:
    """Join a label and items so that no two inputs share an encoding (SPEC 1)."""
    if len(items) > _MAX_ITEMS:
        raise Malformed(f"cat takes at most {_MAX_ITEMS} items")
    head = v1(f"{PROTOCOL} {label}".encode("ascii")) + u8(len(items))
    return head + b"".join(v4(item) for item in items)


def digest(label: str, *items: bytes) -> bytes:
    """H of SPEC 1: SHA-256 over ``cat``; 32 bytes."""
    return hashlib.sha256(cat(label, *items)).digest()


def digest512(label: str, *items: bytes) -> bytes:
    """H512 of SPEC 1: SHA-512 over ``cat``; 64 bytes."""
    return hashlib.sha512(cat(label, *items)).digest()


def expand(prk: bytes, label: str, *items: bytes, length: int) -> bytes:
    """Expand of SPEC 1: HKDF-Expand-SHA-256 with ``cat`` as info (RFC 5869, section 2.3)."""
    return HKDFExpand(algorithm=SHA256(), length=length, info=cat(label, *items)).derive(prk)


def to_base64(data: bytes) -> str:
    """Encode in standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    """Decode standard base64, and only its one canonical spelling. Raises Malformed, NonCanonical."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("base64 does not decode") from None
    if to_base64(raw) != text:  # validate=True accepts unused bits that are not zero
        raise NonCanonical("base64 is not in its canonical spelling")
    return raw


def from_hex(text: str, length: int, what: str) -> bytes:
    """Decode lower-case hexadecimal of exactly ``length`` bytes. Raises Malformed, NonCanonical naming the field."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise Malformed(f"{what} is not hexadecimal") from None
    if value.hex() != text:
        raise NonCanonical(f"{what} is not in lower-case hexadecimal")
    return fixed(value, length, what)


def identifier(text: str) -> bytes:
    """Encode an identifier: 1 to 128 of ``A-Z a-z 0-9 . _ / @ : -``. Raises Malformed otherwise."""
    if not _IDENTIFIER.fullmatch(text):
        raise Malformed("an identifier is 1 to 128 of the characters A-Z a-z 0-9 . _ / @ : -")
    return text.encode("ascii")


def deployment_name(text: str) -> bytes:
    """Encode a deployment's name, a lower-case DNS name. Raises Malformed otherwise."""
    if len(text) > _MAX_DEPLOYMENT_CHARS or not _DEPLOYMENT.fullmatch(text):
        raise Malformed("a deployment is named by a lower-case DNS name")
    return text.encode("ascii")


class Reader:
    """Reads one record from the front. Call ``end`` last: nothing may be left over.

    Every method raises Malformed when the bytes run out or exceed a limit.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Read exactly count bytes."""
        end = self._at + count
        if end > len(self._data):
            raise Malformed("the record ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def u8(self) -> int:
        """Read an unsigned byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Read two bytes, big-endian."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Read four bytes, big-endian."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Read eight bytes, big-endian."""
        return int.from_bytes(self.take(8), "big")

    def v1(self) -> bytes:
        """Read bytes preceded by their length as u8."""
        return self.take(self.u8())

    def v2(self, limit: int = 0xFFFF) -> bytes:
        """Read bytes preceded by their length as u16, at most limit of them."""
        return self.take(_within(self.u16(), limit))

    def v4(self, limit: int) -> bytes:
        """Read bytes preceded by their length as u32, at most limit of them."""
        return self.take(_within(self.u32(), limit))

    def digest(self) -> bytes:
        """Read a 32-byte digest."""
        return self.take(DIGEST_BYTES)

    def count(self, low: int, high: int) -> int:
        """Read a number of entries as u8 that must lie between low and high."""
        number = self.u8()
        if not low <= number <= high:
            raise Malformed(f"a list of {low} to {high} entries has {number}")
        return number

    def identifier(self) -> str:
        """Read an identifier with its length as u8."""
        return _ascii(self.v1(), _IDENTIFIER, MAX_IDENTIFIER_CHARS)

    def deployment(self) -> str:
        """Read a deployment's name with its length as u8."""
        return _ascii(self.v1(), _DEPLOYMENT, _MAX_DEPLOYMENT_CHARS)

    def magic(self, expected: bytes) -> None:
        """Read the four letters that name record and version. Raises BadVersion for others."""
        if self.take(len(expected)) != expected:
            raise BadVersion(f"the record is not a {expected.decode('ascii')}")

    def end(self) -> None:
        """Insist that every byte was read."""
        if self._at != len(self._data):
            raise Malformed("the record has bytes left over")


def _within(length: int, limit: int) -> int:
    if length > limit:
        raise Oversized(length, limit)
    return length


def _ascii(data: bytes, pattern: re.Pattern[str], limit: int) -> str:
    text = data.decode("latin-1")  # one character per byte, so the pattern judges every byte
    if len(text) > limit or not pattern.fullmatch(text):
        raise Malformed("a name has characters that are not allowed")
    return text
