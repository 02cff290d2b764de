"""Quotes as a TPM 2.0 makes them, from keys of our own: any one thing in them can be wrong, and is then signed anew."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from hybrid.trust.tpm2 import AK_MUST, event_of
from hybrid.wire.encoding import u8, u16, u32, u64, v1, v2
from hybrid.wire.evidence import ModelEntry, Statement
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.tpm2 import Tpm2Item, extend, qualifying_data

BINDING = bytes(range(64))
BOOT = {4: b"\x44" * 32, 7: b"\x77" * 32, 11: b"\xbb" * 32}
RUNTIME_PCR = 15
NULL, RSASSA, RSAPSS, ECDSA = 0x10, 0x14, 0x16, 0x18


def statement(**changes: Any) -> Statement:
    """A node's statement; identity and keys are new each time."""
    given = {
        "deployment": "localhost",
        "identity": IdentityKey.generate().public,
        "not_before": 0,
        "not_after": 600,
        "keys": (EpochKey.generate(0, 300).config,),
        "models": (ModelEntry(model_id="m", manifest=bytes(32), context_tokens=1, max_output_tokens=1),),
        "release_leaf": b"\x01" * 32,
        "config_digest": b"\x02" * 32,
        "formats": ("tpm2",),
    }
    return Statement(**{**given, **changes})


def ecc_public(key: ec.EllipticCurvePrivateKey, attributes: int = AK_MUST) -> bytes:
    """TPMT_PUBLIC of a P-256 key that signs with ECDSA."""
    point = key.public_key().public_numbers()
    head = u16(0x23) + u16(0x0B) + u32(attributes) + v2(b"") + u16(NULL) + u16(ECDSA) + u16(0x0B) + u16(3) + u16(NULL)
    return head + v2(point.x.to_bytes(32, "big")) + v2(point.y.to_bytes(32, "big"))


def rsa_public(key: rsa.RSAPublicKey, scheme: int = RSASSA, attributes: int = AK_MUST) -> bytes:
    """TPMT_PUBLIC of an RSA 2048 key."""
    modulus = key.public_numbers().n.to_bytes(256, "big")
    head = u16(1) + u16(0x0B) + u32(attributes) + v2(b"") + u16(NULL) + u16(scheme) + u16(0x0B)
    return head + u16(2048) + u32(0) + v2(modulus)


def ecdsa_signature(key: ec.EllipticCurvePrivateKey, attest: bytes) -> bytes:
    """TPMT_SIGNATURE with ECDSA."""
    r, s = decode_dss_signature(key.sign(attest, ec.ECDSA(SHA256())))
    return u16(ECDSA) + u16(0x0B) + v2(r.to_bytes(32, "big")) + v2(s.to_bytes(32, "big"))


def rsa_signature(key: rsa.RSAPrivateKey, attest: bytes, scheme: int = RSASSA) -> bytes:
    """TPMT_SIGNATURE with RSASSA or RSAPSS."""
    pss = padding.PSS(padding.MGF1(SHA256()), 32)
    return u16(scheme) + u16(0x0B) + v2(key.sign(attest, padding.PKCS1v15() if scheme == RSASSA else pss, SHA256()))


@dataclass(kw_only=True)
class Quote:
    """TPMS_ATTEST, in parts. banks: hash algorithm to quoted PCRs; digest: over the values, None computes it."""

    pcrs: Mapping[int, bytes]
    extra: bytes = field(default_factory=lambda: qualifying_data(BINDING))
    magic: int = 0xFF544347
    kind: int = 0x8018
    banks: Mapping[int, tuple[int, ...]] | None = None
    digest: bytes | None = None

    def encode(self) -> bytes:
        values = b"".join(self.pcrs[index] for index in sorted(self.pcrs))
        banks = self.banks if self.banks is not None else {0x0B: tuple(self.pcrs)}
        selections = b"".join(u16(code) + v1(_bitmap(indices)) for code, indices in banks.items())
        clock = u64(1234) + u32(5) + u32(6) + u8(1) + u64(7)
        head = u32(self.magic) + u16(self.kind) + v2(b"\x00\x0b" + bytes(32)) + v2(self.extra) + clock
        digest = hashlib.sha256(values).digest() if self.digest is None else self.digest
        return head + u32(len(banks)) + selections + v2(digest)


def _bitmap(indices: tuple[int, ...]) -> bytes:
    return sum(1 << index for index in indices).to_bytes(3, "little")


@dataclass(kw_only=True)
class Tpm:
    """A machine with a P-256 attestation key, booted as ``BOOT``, on which the node of ``statement`` has started."""

    statement: Statement = field(default_factory=statement)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def pcrs(self) -> dict[int, bytes]:
        return {**BOOT, RUNTIME_PCR: extend(bytes(32), event_of(self.statement).extend_digest())}

    def item(self, *, quote: Mapping[str, Any] | None = None, public: bytes | None = None, **changes: Any) -> Tpm2Item:
        """An item with these parts of the quote or of the item changed, and signed by this key."""
        pcrs = changes.get("pcrs", self.pcrs())
        attest = Quote(**{"pcrs": pcrs, **(quote or {})}).encode()
        given = {
            "public": public or ecc_public(self.key),
            "attest": attest,
            "signature": ecdsa_signature(self.key, attest),
            "pcrs": pcrs,
            "events": (event_of(self.statement),),
        }
        return Tpm2Item(**{**given, **changes})
