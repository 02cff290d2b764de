"""The signed receipt of one reply (SPEC 9), and the two reply messages it speaks about.

A receipt binds request, node, key, answer, model and counts; it never holds content.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from .constants import DIGEST_BYTES, KEY_ID_BYTES, SIGNATURE_BYTES
from .encoding import Reader, fixed, identifier, u8, u32, u64, v1
from .errors import Malformed, ReceiptMismatch, SealedCode, SignatureFailure
from .keys import Identity, IdentityKey
from .types import EngineTiming, FinishReason, Usage

STATUS_OK = 0
STATUS_ERROR = 1
_MINUTE_S = 60

FINISH_CODES: dict[FinishReason, int] = {
    FinishReason.STOP: 1,
    FinishReason.LENGTH: 2,
    FinishReason.TOOL_CALLS: 3,
    FinishReason.CONTENT_FILTER: 4,
    FinishReason.CANCELLED: 5,
}
FINISH_REASONS = {code: reason for reason, code in FINISH_CODES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What the node says about one answer: counts, why it ended, parameters as applied, times.

    params: names to integers or strings, decimals as strings; stop strings make them content.
    """

    usage: Usage
    finish: FinishReason
    params: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    timing: EngineTiming = field(default_factory=EngineTiming)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedError:
    """A refusal that depends on content, with at most two integers (SPEC 10)."""

    code: SealedCode
    first: int = 0
    second: int = 0

    def encode(self) -> bytes:
        """Encode the nine bytes of an error frame."""
        return u8(self.code) + u32(self.first) + u32(self.second)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one error. Raises Malformed."""
        reader = Reader(data)
        code, first, second = reader.u8(), reader.u32(), reader.u32()
        reader.end()
        try:
            return cls(code=SealedCode(code), first=first, second=second)
        except ValueError:
            raise Malformed("an unknown sealed error") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFacts:
    """What the node adds to a receipt; everything else it knows from request and reply.

    manifest: the served model's 32-byte digest.  status: 0 complete, 1 ended by a sealed error.
    """

    model_id: str
    manifest: bytes
    usage: UsageReport | None = None
    finish: FinishReason | None = None
    status: int = STATUS_OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The record ``HRC1``. ``decode`` only parses it; the reply opener and ``verify`` check it.

    request: q.  index: position of the candidate.  frames: m, frames before the receipt.
    minute: unix seconds, rounded down to a minute.
    """

    request: bytes
    index: int
    node_id: bytes
    ek_id: bytes
    bundle_id: bytes
    resp_salt: bytes
    frames: int
    transcript: bytes
    model_id: str
    manifest: bytes
    params_digest: bytes
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    finish: FinishReason | None
    status: int
    minute: int
    signature: bytes = field(default=b"", repr=False)

    def signed_bytes(self) -> bytes:
        """Everything before the signature."""
        return b"".join(
            (
                b"HRC1",
                fixed(self.request, DIGEST_BYTES, "q"),
                u8(self.index),
                fixed(self.node_id, DIGEST_BYTES, "node_id"),
                fixed(self.ek_id, KEY_ID_BYTES, "ek_id"),
                fixed(self.bundle_id, DIGEST_BYTES, "bundle_id"),
                fixed(self.resp_salt, DIGEST_BYTES, "resp_salt"),
                u32(self.frames),
                fixed(self.transcript, DIGEST_BYTES, "transcript"),
                v1(identifier(self.model_id)),
                fixed(self.manifest, DIGEST_BYTES, "manifest"),
                fixed(self.params_digest, DIGEST_BYTES, "params_digest"),
                u32(self.tokens_in),
                u32(self.tokens_cached),
                u32(self.tokens_out),
                u8(FINISH_CODES[self.finish] if self.finish else 0),
                u8(self.status),
                u64(self.minute),
            )
        )

    def encode(self) -> bytes:
        """Encode the record with its signature."""
        return self.signed_bytes() + fixed(self.signature, SIGNATURE_BYTES, "signature")

    def signed(self, identity: IdentityKey) -> bytes:
        """Sign with the worker's identity key and encode."""
        unsigned = self.signed_bytes()
        return unsigned + identity.sign("receipt", unsigned)

    def verify(self, identity: Identity) -> None:
        """Check both signatures. Raises ReceiptMismatch("receipt.signature")."""
        try:
            identity.verify("receipt", self.signed_bytes(), self.signature)
        except SignatureFailure:
            raise ReceiptMismatch("receipt.signature") from None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record. Raises Malformed."""
        reader = Reader(data)
        reader.magic(b"HRC1")
        receipt = cls(
            request=reader.digest(),
            index=reader.u8(),
            node_id=reader.digest(),
            ek_id=reader.take(KEY_ID_BYTES),
            bundle_id=reader.digest(),
            resp_salt=reader.digest(),
            frames=reader.u32(),
            transcript=reader.digest(),
            model_id=reader.identifier(),
            manifest=reader.digest(),
            params_digest=reader.digest(),
            tokens_in=reader.u32(),
            tokens_cached=reader.u32(),
            tokens_out=reader.u32(),
            finish=_finish(reader.u8()),
            status=_status(reader.u8()),
            minute=_minute(reader.u64()),
            signature=reader.take(SIGNATURE_BYTES),
        )
        reader.end()
        return receipt


def _finish(code: int) -> FinishReason | None:
    if code and code not in FINISH_REASONS:
        raise Malformed("an unknown finish code")
    return FINISH_REASONS.get(code)


def _status(code: int) -> int:
    if code not in (STATUS_OK, STATUS_ERROR):
        raise Malformed("an unknown status")
    return code


def _minute(seconds: int) -> int:
    if seconds % _MINUTE_S:
        raise Malformed("the time of a receipt is a whole minute")
    return seconds
