"""The request header (SPEC 6), the digests that hang on it, and the context of one candidate."""

from dataclasses import dataclass, field
from typing import Self

from .body import BODY_LENGTHS
from .constants import (
    DEADLINES_MS,
    DIGEST_BYTES,
    KEY_ID_BYTES,
    MAX_CANDIDATES,
    MAX_HEADER_BYTES,
    RID_BYTES,
    SUITE,
)
from .encoding import Reader, cat, digest, fixed, identifier, u8, u32, v1
from .errors import BadVersion, Malformed, Oversized

NO_TOKEN = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRef:
    """A candidate as the header names it: node, epoch key, bundle."""

    node_id: bytes
    ek_id: bytes
    bundle_id: bytes

    def encode(self) -> bytes:
        """Encode the 80 bytes of one entry."""
        return b"".join(self.parts())

    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Node, key and bundle, in the order every context names them."""
        return (
            fixed(self.node_id, DIGEST_BYTES, "node_id"),
            fixed(self.ek_id, KEY_ID_BYTES, "ek_id"),
            fixed(self.bundle_id, DIGEST_BYTES, "bundle_id"),
        )

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one entry."""
        return cls(node_id=reader.digest(), ek_id=reader.take(KEY_ID_BYTES), bundle_id=reader.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What everybody on the way may read of a request."""

    suite: bytes = SUITE
    rid: bytes
    directory_id: bytes = field(repr=False)
    token_digest: bytes = field(default=NO_TOKEN, repr=False)
    model_id: str
    deadline_ms: int
    body_len: int
    candidates: tuple[CandidateRef, ...]

    def encode(self) -> bytes:
        """Encode the record ``HRQ1``. Raises Malformed for a header that would not decode."""
        data = b"".join(
            (
                b"HRQ1",
                self.suite,
                fixed(self.rid, RID_BYTES, "rid"),
                fixed(self.directory_id, DIGEST_BYTES, "directory_id"),
                fixed(self.token_digest, DIGEST_BYTES, "token_digest"),
                v1(identifier(self.model_id)),
                u32(self.deadline_ms) + u32(self.body_len),
                u8(len(self.candidates)) + b"".join(ref.encode() for ref in self.candidates),
            )
        )
        Header.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record and hold it to its limits. Raises Malformed."""
        if len(data) > MAX_HEADER_BYTES:
            raise Oversized(len(data), MAX_HEADER_BYTES)
        reader = Reader(data)
        reader.magic(b"HRQ1")
        header = cls(
            suite=reader.take(len(SUITE)),
            rid=reader.take(RID_BYTES),
            directory_id=reader.digest(),
            token_digest=reader.digest(),
            model_id=reader.identifier(),
            deadline_ms=reader.u32(),
            body_len=reader.u32(),
            candidates=tuple(CandidateRef.read(reader) for _ in range(reader.count(1, MAX_CANDIDATES))),
        )
        reader.end()
        _check(header)
        return header


def _check(header: Header) -> None:
    if header.suite != SUITE:
        raise BadVersion("the suite is not one of this version")
    if header.deadline_ms not in DEADLINES_MS:
        raise Malformed("the deadline is not one of the six")
    if header.body_len not in BODY_LENGTHS:
        raise Malformed("the body's length is no bucket's")
    if len({ref.node_id for ref in header.candidates}) != len(header.candidates):
        raise Malformed("a node is a candidate twice")


def header_digest(header: bytes) -> bytes:
    """Compute the digest h over the header's bytes."""
    return digest("hdr", header)


def body_context(header: bytes) -> bytes:
    """Name what the body's encryption is bound to."""
    return cat("req", header_digest(header))


def request_digest(header: bytes, body: bytes) -> bytes:
    """Compute the digest q that names a request; it covers header and encrypted body."""
    return digest("request", header_digest(header), digest("body", body))


def key_package_info(q: bytes, index: int, ref: CandidateRef) -> bytes:
    """HPKE info of one key package: request, position, node, key, bundle."""
    return cat("kp", q, u8(index), *ref.parts())


def token_digest(rid: bytes, token: bytes) -> bytes:
    """Compute what the header says of a token: a digest new with every request, or zeros without one."""
    return digest("token", rid, token) if token else NO_TOKEN
