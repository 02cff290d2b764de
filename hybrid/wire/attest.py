"""What ``Evidence.Attest`` answers, and what its items cover (SPEC 3, interactive freshness)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from .constants import DIGEST_BYTES, MAX_EVIDENCE_ITEMS
from .encoding import Reader, digest, digest512, fixed, identifier, u8, u16
from .errors import Malformed
from .evidence import EvidenceItem

NONCE_BYTES = 32
MAX_NONCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestReply:
    """Evidence made for up to 256 callers at once. nonces: theirs, 32 bytes each, in order of arrival."""

    nonces: tuple[bytes, ...]
    items: tuple[EvidenceItem, ...] = field(repr=False)

    def encode(self) -> bytes:
        """Encode the reply. Raises Malformed when it would not decode."""
        nonces = b"".join(fixed(nonce, NONCE_BYTES, "nonce") for nonce in self.nonces)
        data = u16(len(self.nonces)) + nonces + u8(len(self.items)) + b"".join(item.encode() for item in self.items)
        AttestReply.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one reply. Raises Malformed."""
        reader = Reader(data)
        number = reader.u16()
        if not 1 <= number <= MAX_NONCES:
            raise Malformed(f"a reply holds 1 to {MAX_NONCES} nonces")
        nonces = tuple(reader.take(NONCE_BYTES) for _ in range(number))
        items = tuple(EvidenceItem.read(reader) for _ in range(reader.count(1, MAX_EVIDENCE_ITEMS)))
        reader.end()
        return cls(nonces=nonces, items=items)


def nonce_binding(bundle_id: bytes, nonces: Sequence[bytes], before: Sequence[EvidenceItem], format_name: str) -> bytes:
    """Return the 64 bytes that item ``len(before)`` covers: H512("nonce"; bundle_id, nonces, j, format, d_0 ...)."""
    chain = [digest("item", identifier(item.format), item.item) for item in before]
    joined = b"".join(fixed(nonce, NONCE_BYTES, "nonce") for nonce in nonces)
    bundle = fixed(bundle_id, DIGEST_BYTES, "bundle_id")
    return digest512("nonce", bundle, joined, u8(len(before)), identifier(format_name), *chain)
