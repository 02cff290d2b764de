"""X.509 certificates as AMD issues them: a strict DER reader and one signature algorithm. SPEC section 13.

``cryptography`` 50 warns about AMD's serial number 0, says a later release will refuse it, and ignores parts of the
outer, unsigned algorithm identifier (SPEC E4): hence a reader of our own, for RSA-PSS with SHA-384 and nothing else.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hybrid.wire.encoding import Reader
from hybrid.wire.errors import Malformed, SignatureFailure

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
IA5_STRING, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x16, 0x17, 0x18, 0x30, 0x31
_EXPLICIT_VERSION, _EXTENSIONS = 0xA0, 0xA3
_VERSION_3 = bytes.fromhex("a003020102")
_LONG_FORM = 0x80
_TIME_CHARS = len("20200101000000Z")
_COMMON_NAME = bytes.fromhex("550403")
_SHA384 = "300d06096086480165030402020500"
# RFC 4055: SHA-384, MGF1 with SHA-384, 48 bytes of salt; AMD writes it with and without the default trailer field
_PSS_BODY = "06092a864886f70d01010a30{}a00f" + _SHA384 + "a11c301a06092a864886f70d010108" + _SHA384 + "a203020130"
PSS_SHA384 = frozenset(
    {bytes.fromhex("3041" + _PSS_BODY.format("34")), bytes.fromhex("3046" + _PSS_BODY.format("39") + "a303020101")}
)
_SALT_BYTES = 48
_MAX_SMALL = 255
_CENTURY_SPLIT = "50"  # RFC 5280, 4.1.2.5.1: a two-digit year from 50 on is 19xx


class DerReader:
    """Reads DER elements from the front; lengths definite and minimal. Every method raises Malformed."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self._at = 0

    @property
    def tag(self) -> int | None:
        """The tag of the next element; None at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def raw(self, tag: int) -> bytes:
        """Read one element with this tag, header included."""
        start = self._at
        self.take(tag)
        return self._data[start : self._at]

    def take(self, tag: int) -> bytes:
        """Read one element with this tag and return its content."""
        if self.tag != tag:
            raise Malformed("a DER element of another type, or none")
        reader = Reader(self._data[self._at + 1 :])
        content = reader.take(_length(reader))
        self._at += 1 + len(_length_bytes(len(content))) + len(content)
        return content

    def inside(self, tag: int) -> "DerReader":
        """Read one element with this tag and return a reader of its content."""
        return DerReader(self.take(tag))

    def end(self) -> None:
        """Insist that every byte was read."""
        if self.tag is not None:
            raise Malformed("a DER element has bytes left over")


def _length(reader: Reader) -> int:
    first = reader.u8()
    if first < _LONG_FORM:
        return first
    raw = reader.take(first - _LONG_FORM)
    length = int.from_bytes(raw, "big")
    if bytes([first]) + raw != _length_bytes(length):
        raise Malformed("a DER length that is not minimal")
    return length


def _length_bytes(length: int) -> bytes:
    if length < _LONG_FORM:
        return bytes([length])
    raw = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([_LONG_FORM + len(raw)]) + raw


def small_integer(der: bytes) -> int:
    """Decode exactly one INTEGER from 0 to 255. Raises Malformed."""
    reader = DerReader(der)
    content = reader.take(INTEGER)
    reader.end()
    value = int.from_bytes(content, "big", signed=True)
    if not content or not 0 <= value <= _MAX_SMALL or len(content) > value.bit_length() // 8 + 1:
        raise Malformed("an INTEGER that is not minimal, or not from 0 to 255")
    return value


def printable(text: bytes) -> str:
    """Return a certificate's text, which errors repeat to people. Raises Malformed unless it is printable ASCII."""
    word = text.decode("latin-1")
    if not (word.isascii() and word.isprintable()):
        raise Malformed("a certificate's text is not printable ASCII")
    return word


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, parsed and not yet trusted. Times are Unix seconds; names are DER.

    signed: the bytes under the signature.  inner, outer: the algorithm identifier inside and outside of them, DER.
    extensions: values by object identifier, both as bytes; none restricts what AMD's three fixed names already say.
    """

    signed: bytes = field(repr=False)
    inner: bytes = field(repr=False)
    outer: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    public_key_info: bytes = field(repr=False)
    extensions: dict[bytes, bytes] = field(repr=False)

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Parse exactly one X.509 version 3 certificate. Raises Malformed."""
        outside = DerReader(der)
        body = outside.inside(SEQUENCE)
        outside.end()
        signed, outer, bits = body.raw(SEQUENCE), body.raw(SEQUENCE), body.take(BIT_STRING)
        body.end()
        if bits[:1] != b"\0":
            raise Malformed("a signature that is not whole bytes")
        return cls._parse_signed(signed, outer=outer, signature=bits[1:])

    @classmethod
    def _parse_signed(cls, signed: bytes, *, outer: bytes, signature: bytes) -> Self:
        reader = DerReader(signed).inside(SEQUENCE)
        if reader.raw(_EXPLICIT_VERSION) != _VERSION_3:
            raise Malformed("a certificate that is not version 3")
        reader.take(INTEGER)  # the serial number: zero in AMD's VCEKs, and no concern of ours
        inner, issuer, validity = reader.raw(SEQUENCE), reader.raw(SEQUENCE), reader.inside(SEQUENCE)
        times = (_time(validity), _time(validity))
        validity.end()
        subject, key, extensions = reader.raw(SEQUENCE), reader.raw(SEQUENCE), _extensions(reader.inside(_EXTENSIONS))
        reader.end()
        return cls(
            signed=signed,
            inner=inner,
            outer=outer,
            signature=signature,
            issuer=issuer,
            subject=subject,
            not_before=times[0],
            not_after=times[1],
            public_key_info=key,
            extensions=extensions,
        )

    @property
    def common_name(self) -> str:
        """The subject's common name. Raises Malformed unless it has exactly one, printable."""
        names, found = DerReader(self.subject).inside(SEQUENCE), []
        while names.tag is not None:
            attribute = names.inside(SET)
            pair = attribute.inside(SEQUENCE)
            attribute.end()
            oid, text = pair.take(OID), pair.take(pair.tag or 0)
            pair.end()
            if oid == _COMMON_NAME:
                found.append(text)
        if len(found) != 1:
            raise Malformed("a certificate with no common name, or several")
        return printable(found[0])

    @property
    def public_key(self) -> PublicKeyTypes:
        """The subject's key. Raises Malformed for one that can't be used."""
        try:
            return load_der_public_key(self.public_key_info)
        except (ValueError, UnsupportedAlgorithm):
            raise Malformed("a public key that can't be used") from None

    def verify_issued_by(self, issuer: "Certificate") -> None:
        """Check names, algorithm identifiers and the signature by this issuer's key. Raises SignatureFailure."""
        if self.issuer != issuer.subject:
            raise SignatureFailure("the issuer has another name")
        if self.inner != self.outer or self.inner not in PSS_SHA384:
            raise SignatureFailure("the algorithm is not RSA-PSS with SHA-384, inside and outside alike")
        key = issuer.public_key
        if not isinstance(key, rsa.RSAPublicKey):
            raise SignatureFailure("the issuer's key is not RSA")
        pss = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=_SALT_BYTES)
        try:
            key.verify(self.signature, self.signed, pss, SHA384())
        except (InvalidSignature, ValueError):  # ValueError: a key too short for digest and salt
            raise SignatureFailure("the issuer's signature does not verify") from None


def _time(reader: DerReader) -> int:
    short = reader.tag == UTC_TIME
    text = reader.take(UTC_TIME if short else GENERALIZED_TIME).decode("latin-1")
    if short:
        text = ("19" if text >= _CENTURY_SPLIT else "20") + text
    if len(text) != _TIME_CHARS or not text.isascii() or not text[:-1].isdigit():
        raise Malformed("a certificate's time is malformed")
    try:
        return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise Malformed("a certificate's time is malformed") from None


def _extensions(outer: DerReader) -> dict[bytes, bytes]:
    reader, found = outer.inside(SEQUENCE), dict[bytes, bytes]()
    outer.end()
    while reader.tag is not None:
        extension = reader.inside(SEQUENCE)
        name = extension.take(OID)
        if extension.tag == BOOLEAN:
            extension.take(BOOLEAN)
        if name in found:
            raise Malformed("a certificate has an extension twice")
        found[name] = extension.take(OCTET_STRING)
        extension.end()
    return found
