"""Evidence of a TPM 2.0: the record ``HTP1``, the event behind the runtime PCR, the TPM's own structures (SPEC 13).

Structures follow TCG "Trusted Platform Module Library, Part 2" (big-endian). Decoders are strict and judge nothing;
``hybrid.trust.tpm2`` does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Self

from .constants import DIGEST_BYTES, MAX_BUNDLE_BYTES
from .encoding import Reader, digest, fixed, u8, v2, v4
from .errors import Malformed

TPM2 = "tpm2"  # SPEC 13: tier 1
PCRS = 24  # TCG PC Client: PCR 0 to 23
MAX_EVENTS = 64
TPM_GENERATED = 0xFF544347  # Part 2, 6.2: only the TPM itself signs structures that begin so with a restricted key
ST_ATTEST_QUOTE = 0x8018
ALG_SHA256 = 0x000B
ALG_NULL = 0x0010
CURVE_P256 = 0x0003
RSA_BITS = 2048
_RSA_BYTES = RSA_BITS // 8
_P256_BYTES = 32
_MAX_TPM2B = 1024
_EVENT_VERSION = 1


class KeyKind(IntEnum):
    """Kinds of keys that may sign a quote (TPM_ALG_ID)."""

    RSA = 0x0001
    ECC = 0x0023


class Scheme(IntEnum):
    """Signature schemes that may sign a quote (TPM_ALG_ID)."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018


class Attributes(IntFlag):
    """TPMA_OBJECT: the bits that say what a key may do. Bits without a name are kept."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmEvent:
    """What a node extends into the runtime PCR when it starts: three digests of 32 bytes."""

    release_leaf: bytes
    config_digest: bytes
    node_id: bytes

    def encode(self) -> bytes:
        """Encode the 97 bytes of the event. Raises Malformed for digests of another length."""
        parts = (self.release_leaf, self.config_digest, self.node_id)
        return u8(_EVENT_VERSION) + b"".join(fixed(part, DIGEST_BYTES, "a digest of an event") for part in parts)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one event. Raises Malformed for another version."""
        if reader.u8() != _EVENT_VERSION:
            raise Malformed("an event of another version")
        return cls(release_leaf=reader.digest(), config_digest=reader.digest(), node_id=reader.digest())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one event of 97 bytes. Raises Malformed."""
        reader = Reader(data)
        event = cls.read(reader)
        reader.end()
        return event

    def extend_digest(self) -> bytes:
        """H("tpm event"; event): the 32 bytes to give to TPM2_PCR_Extend."""
        return digest("tpm event", self.encode())


def extend(value: bytes, extended: bytes) -> bytes:
    """Return what a SHA-256 PCR of this value holds after TPM2_PCR_Extend; all 32 bytes."""
    return hashlib.sha256(value + extended).digest()


def qualifying_data(binding: bytes) -> bytes:
    """H("evidence tpm"; B_j): the 32 bytes a quote must carry for the binding ``B_j`` (SPEC 3)."""
    return digest("evidence tpm", binding)


def name_of(public: bytes) -> bytes:
    """Return the Name of a key, 34 bytes: 0x000B and the SHA-256 of its TPMT_PUBLIC."""
    return ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(public).digest()


def encode_pcrs(pcrs: Mapping[int, bytes]) -> bytes:
    """Encode PCR values as records carry them: a count, then index and 32 bytes each, ascending."""
    data = u8(len(pcrs)) + b"".join(u8(i) + fixed(pcrs[i], DIGEST_BYTES, "a PCR value") for i in sorted(pcrs))
    read_pcrs(Reader(data))
    return data


def read_pcrs(reader: Reader) -> dict[int, bytes]:
    """Read PCR values: 1 to 24, indices below 24 and strictly ascending. Raises Malformed."""
    pairs = [(reader.u8(), reader.digest()) for _ in range(reader.count(1, PCRS))]
    indices = [index for index, _ in pairs]
    if indices != sorted(set(indices)) or indices[-1] >= PCRS:
        raise Malformed("PCR values are listed in ascending order, each once")
    return dict(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm2Item:
    """The record ``HTP1``: one quote with all that is needed to judge it.

    public: TPMT_PUBLIC of the attestation key.  attest: TPMS_ATTEST.  signature: TPMT_SIGNATURE over attest.
    pcrs: value of every quoted PCR, 32 bytes each.  pcr_before: the runtime PCR before our first event.
    events: everything extended into the runtime PCR since.  certificates: DER, concatenated, informative.
    """

    public: bytes
    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]
    pcr_before: bytes = bytes(DIGEST_BYTES)
    events: tuple[TpmEvent, ...]
    certificates: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Encode the record. Raises Malformed for an item that would not decode."""
        data = b"".join(
            (
                b"HTP1" + v2(self.public) + v2(self.attest) + v2(self.signature) + encode_pcrs(self.pcrs),
                fixed(self.pcr_before, DIGEST_BYTES, "pcr_before"),
                u8(len(self.events)) + b"".join(event.encode() for event in self.events),
                v4(self.certificates),
            )
        )
        Tpm2Item.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record; the TPM's structures stay bytes. Raises Malformed."""
        reader = Reader(data)
        reader.magic(b"HTP1")
        item = cls(
            public=reader.v2(_MAX_TPM2B),
            attest=reader.v2(_MAX_TPM2B),
            signature=reader.v2(_MAX_TPM2B),
            pcrs=read_pcrs(reader),
            pcr_before=reader.digest(),
            events=tuple(TpmEvent.read(reader) for _ in range(reader.count(1, MAX_EVENTS))),
            certificates=reader.v4(MAX_BUNDLE_BYTES),
        )
        reader.end()
        return item


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmsAttest:
    """TPMS_ATTEST (Part 2, 10.12.8) of a quote: one PCR selection per bank, and the digest over the values.

    selections: (hash algorithm, PCR indices) in the TPM's order.  The rest is kept as the TPM said it.
    """

    qualified_signer: bytes
    qualifying_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[tuple[int, tuple[int, ...]], ...]
    pcr_digest: bytes

    @staticmethod
    def magic_of(data: bytes) -> int:
        """Return the first four bytes as a number; whatever they are."""
        return int.from_bytes(data[:4], "big")

    @staticmethod
    def type_of(data: bytes) -> int:
        """Return the two bytes after the magic as a number; whatever they are."""
        return int.from_bytes(data[4:6], "big")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse exactly one structure. Raises Malformed, also for other magics and types."""
        reader = Reader(data)
        if (reader.u32(), reader.u16()) != (TPM_GENERATED, ST_ATTEST_QUOTE):
            raise Malformed("not a quote of a TPM")
        attest = cls(
            qualified_signer=reader.v2(_MAX_TPM2B),
            qualifying_data=reader.v2(_MAX_TPM2B),
            clock=reader.u64(),
            reset_count=reader.u32(),
            restart_count=reader.u32(),
            safe=_yes_or_no(reader.u8()),
            firmware_version=reader.u64(),
            selections=_selections(reader),
            pcr_digest=reader.v2(_MAX_TPM2B),
        )
        reader.end()
        return attest


def _yes_or_no(code: int) -> bool:
    if code not in {0, 1}:
        raise Malformed("a TPMI_YES_NO is 0 or 1")
    return code == 1


def _selections(reader: Reader) -> tuple[tuple[int, tuple[int, ...]], ...]:
    banks = reader.u32()
    if banks > PCRS:
        raise Malformed("more PCR banks than a TPM has")
    return tuple((reader.u16(), _selected(reader.v1())) for _ in range(banks))


def _selected(bitmap: bytes) -> tuple[int, ...]:
    return tuple(index for index in range(8 * len(bitmap)) if bitmap[index // 8] >> index % 8 & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmtPublic:
    """TPMT_PUBLIC (Part 2, 12.2.4) of a signing key: ECC P-256 or RSA 2048 with exponent 65,537, named by SHA-256.

    scheme: None where the key leaves it to the caller.  point: x and y, 32 bytes each, of an ECC key.
    modulus: 256 bytes of an RSA key.
    """

    kind: KeyKind
    attributes: Attributes
    auth_policy: bytes
    scheme: Scheme | None
    point: tuple[bytes, bytes] | None = None
    modulus: bytes | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse exactly one structure. Raises Malformed for keys that can't sign a quote we accept."""
        reader = Reader(data)
        kind = _kind(reader.u16())
        _expect(reader.u16(), ALG_SHA256, "a key named by SHA-256")
        attributes, policy = Attributes(reader.u32()), reader.v2(_MAX_TPM2B)
        _expect(reader.u16(), ALG_NULL, "a key without a symmetric algorithm")
        scheme = _key_scheme(reader)
        if kind is KeyKind.ECC:
            public = cls(kind=kind, attributes=attributes, auth_policy=policy, scheme=scheme, point=_point(reader))
        else:
            public = cls(kind=kind, attributes=attributes, auth_policy=policy, scheme=scheme, modulus=_modulus(reader))
        reader.end()
        return public


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise Malformed(f"expected {what}, found 0x{found:x}")


def _kind(code: int) -> KeyKind:
    try:
        return KeyKind(code)
    except ValueError:
        raise Malformed(f"a kind of key that can't sign a quote: 0x{code:04x}") from None


def _scheme(code: int, hash_algorithm: int) -> Scheme:
    _expect(hash_algorithm, ALG_SHA256, "a signature over SHA-256")
    try:
        return Scheme(code)
    except ValueError:
        raise Malformed(f"a scheme that can't sign a quote: 0x{code:04x}") from None


def _key_scheme(reader: Reader) -> Scheme | None:
    code = reader.u16()
    return None if code == ALG_NULL else _scheme(code, reader.u16())


def _point(reader: Reader) -> tuple[bytes, bytes]:
    _expect(reader.u16(), CURVE_P256, "the curve P-256")
    _expect(reader.u16(), ALG_NULL, "a key without a derivation scheme")
    return _padded(reader.v2(_P256_BYTES)), _padded(reader.v2(_P256_BYTES))


def _padded(number: bytes) -> bytes:
    return number.rjust(_P256_BYTES, b"\0")  # some TPMs drop leading zeros


def _modulus(reader: Reader) -> bytes:
    _expect(reader.u16(), RSA_BITS, "a key of 2,048 bits")
    _expect(reader.u32(), 0, "the exponent 65,537")  # Part 2, 12.2.3.5: zero stands for it
    modulus = fixed(reader.v2(_RSA_BYTES), _RSA_BYTES, "a modulus")
    if int.from_bytes(modulus, "big").bit_length() != RSA_BITS:
        raise Malformed("a modulus shorter than its key says")
    return modulus


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmtSignature:
    """TPMT_SIGNATURE (Part 2, 11.3.4) over SHA-256. rsa: 256 bytes; ecdsa: the numbers r and s."""

    scheme: Scheme
    rsa: bytes = b""
    ecdsa: tuple[int, int] = (0, 0)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse exactly one structure. Raises Malformed."""
        reader = Reader(data)
        scheme = _scheme(reader.u16(), reader.u16())
        if scheme is Scheme.ECDSA:
            signature = cls(scheme=scheme, ecdsa=(_number(reader), _number(reader)))
        else:
            signature = cls(scheme=scheme, rsa=fixed(reader.v2(_RSA_BYTES), _RSA_BYTES, "an RSA signature"))
        reader.end()
        return signature


def _number(reader: Reader) -> int:
    return int.from_bytes(reader.v2(_P256_BYTES), "big")
