"""Sealing and opening of requests (SPEC 6, 7). Nothing is sent here, and no key is chosen here.

RequestSealer -> ReplyOpener on the client, RequestOpener -> ReplySealer on the node: each step is
used once and obtainable only from the step before.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .body import body_length, open_body, pad, seal_body, unpad
from .codec import encode_request
from .constants import (
    BODY_SALT_BYTES,
    DIGEST_BYTES,
    KEY_PACKAGE_BYTES,
    KEY_PACKAGE_PLAIN_BYTES,
    KEY_PACKAGE_VERSION,
    RID_BYTES,
    SECRET_BYTES,
)
from .encoding import u8
from .errors import Malformed, Misuse, Rejected, StaleKey
from .header import CandidateRef, Header, body_context, key_package_info, request_digest, token_digest
from .keys import EpochKey, Identity, KeyConfig
from .reply import Expected, ReplyOpener, ReplySealer
from .types import GenerateRequest

__all__ = [
    "Candidate",
    "CandidateRef",
    "Header",
    "ReplyOpener",
    "ReplySealer",
    "RequestOpener",
    "RequestSealer",
    "Rng",
    "SealedRequest",
]

Rng = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Everything the client relies on about one node it may seal to, already verified.

    manifest: the served model's 32-byte digest from the node's statement.
    """

    identity: Identity
    key: KeyConfig
    bundle_id: bytes
    manifest: bytes

    @property
    def ref(self) -> CandidateRef:
        """The candidate as the header names it."""
        return CandidateRef(node_id=self.identity.node_id, ek_id=self.key.key_id, bundle_id=self.bundle_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRequest:
    """What leaves: header, body, one key package per candidate. q: its digest.  request_id: rid."""

    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    key_packages: tuple[bytes, ...] = field(repr=False)
    q: bytes
    request_id: bytes


class RequestSealer:
    """Seals one request to 1 to 4 candidates, in the client's order of preference."""

    __slots__ = ("_candidates", "_deadline_ms", "_directory_id", "_model_id", "_rng", "_token", "_used")

    def __init__(
        self,
        *,
        candidates: Sequence[Candidate],
        model_id: str,
        directory_id: bytes,
        deadline_ms: int,
        token: bytes = b"",
        rng: Rng = secrets.token_bytes,
    ) -> None:
        """Take what the header will say. deadline_ms: one of ``DEADLINES_MS``, counted from arrival."""
        self._candidates = tuple(candidates)
        self._model_id, self._directory_id, self._deadline_ms = model_id, directory_id, deadline_ms
        self._token, self._rng, self._used = token, rng, False

    def seal(self, request: GenerateRequest) -> tuple[SealedRequest, ReplyOpener]:
        """Encrypt; every secret is fresh. Raises Oversized, Malformed, or Misuse when called twice."""
        if self._used:
            raise Misuse("a request is sealed once; a resend is sealed anew")
        self._used = True
        plaintext = pad(encode_request(request))
        rid, key, salt = (self._rng(size) for size in (RID_BYTES, SECRET_BYTES, BODY_SALT_BYTES))
        reply_keys = [self._rng(SECRET_BYTES) for _ in self._candidates]
        refs = tuple(candidate.ref for candidate in self._candidates)
        header = self._header(rid, refs, body_length(len(plaintext)))
        body = seal_body(plaintext, key=key, salt=salt, context=body_context(header))
        q = request_digest(header, body)
        packages = tuple(
            candidate.key.encrypt(u8(KEY_PACKAGE_VERSION) + key + reply_key, key_package_info(q, index, ref))
            for index, (candidate, ref, reply_key) in enumerate(zip(self._candidates, refs, reply_keys, strict=True))
        )
        sealed = SealedRequest(header=header, body=body, key_packages=packages, q=q, request_id=rid)
        expected = [
            Expected(candidate.identity, ref, candidate.manifest)
            for candidate, ref in zip(self._candidates, refs, strict=True)
        ]
        return sealed, ReplyOpener(reply_keys, expected, q=q, model_id=self._model_id)

    def _header(self, rid: bytes, refs: tuple[CandidateRef, ...], body_len: int) -> bytes:
        return Header(
            rid=rid,
            directory_id=self._directory_id,
            token_digest=token_digest(rid, self._token),
            model_id=self._model_id,
            deadline_ms=self._deadline_ms,
            body_len=body_len,
            candidates=refs,
        ).encode()

    def __repr__(self) -> str:
        """Show the number of candidates and nothing else."""
        return f"RequestSealer(candidates={len(self._candidates)})"


class RequestOpener:
    """The node's end of one request. Making it is step 1 of SPEC 7; steps 2, 3 and 7 are the node's.

    Raises Malformed. Compare ``entry`` with the node's own names and keys, and ``q`` with the replay
    set, before ``open``; claim ``q`` after it.
    """

    __slots__ = ("_body", "_header_bytes", "_index", "_key_package", "_used", "entry", "header", "q")

    header: Header
    entry: CandidateRef
    q: bytes

    def __init__(self, *, header: bytes, body: bytes, key_package: bytes, index: int) -> None:
        """Decode the header and hold body, key package and index to it."""
        self.header = Header.decode(header)
        if len(body) != self.header.body_len or len(key_package) != KEY_PACKAGE_BYTES:
            raise Malformed("the body or the key package has another length than it must")
        if not 0 <= index < len(self.header.candidates):
            raise Malformed("the index names no candidate")
        self.entry = self.header.candidates[index]
        self.q = request_digest(header, body)
        self._header_bytes, self._body, self._key_package = header, body, key_package
        self._index, self._used = index, False

    def open(self, key: EpochKey, rng: Rng = secrets.token_bytes) -> tuple[bytes, ReplySealer]:
        """Take steps 4 to 6; returns the serialised request and the reply's sealer.

        Raises StaleKey when the entry names another key, Rejected for everything else, without detail.
        """
        if self._used:
            raise Misuse("a request is opened once")
        self._used = True
        if not hmac.compare_digest(key.config.key_id, self.entry.ek_id):
            raise StaleKey("the request was sealed to another key")
        opened = key.decrypt(self._key_package, key_package_info(self.q, self._index, self.entry))
        if len(opened) != KEY_PACKAGE_PLAIN_BYTES or opened[0] != KEY_PACKAGE_VERSION:
            raise Rejected
        body_key, reply_key = opened[1 : 1 + SECRET_BYTES], opened[1 + SECRET_BYTES :]
        message = unpad(open_body(self._body, key=body_key, context=body_context(self._header_bytes)))
        sealer = ReplySealer(reply_key, rng(DIGEST_BYTES), q=self.q, index=self._index, ref=self.entry)
        return message, sealer

    def __repr__(self) -> str:
        """Show the public name of the request and nothing else."""
        return f"RequestOpener(rid={self.header.rid.hex()})"
