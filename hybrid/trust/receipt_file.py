"""The file a client keeps of one answer: everything to check it again years later, and no content. SPEC section 9.

One canonical JSON object, bytes in base64. Decoding judges nothing; ``reverify`` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hybrid.wire.canonical import JsonValue, canonical_json, decode_canonical_json
from hybrid.wire.constants import MAX_CHECKPOINTS, PROTOCOL
from hybrid.wire.directory import Leaf
from hybrid.wire.encoding import fixed, from_base64, to_base64
from hybrid.wire.errors import Malformed
from hybrid.wire.tiles import parse_path

from .checks import Check, CheckStatus
from .log_view import NonceProof
from .policy import Policy
from .proof import NodeProof
from .toml import write_trust
from .verify import VerifiedNode

MAX_RECEIPT_FILE_BYTES = 8 * 1024 * 1024
KIND = f"{PROTOCOL} receipt file 1"
_MAX_LEAVES = 255
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFile:
    """One answer's evidence. header: record HRQ1.  body: H("body"; Body).  head: 65 bytes.  receipt: record HRC1.

    sealed_at: Unix seconds by the client's clock.  proof: what the node was judged by.  trust: the trust file then,
    as text.  policy: its digest.  results: the checks of that day, for people; they prove nothing.
    """

    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    head: bytes = field(repr=False)
    receipt: bytes = field(repr=False)
    sealed_at: int
    proof: NodeProof
    trust: str = field(repr=False)
    policy: str
    results: tuple[Check, ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls, node: VerifiedNode, policy: Policy, *, header: bytes, body: bytes, head: bytes, receipt: bytes, at: float
    ) -> "ReceiptFile":
        """Join what an exchange kept with what its node was verified by. at: when it was sealed, Unix seconds."""
        return cls(
            header=header,
            body=body,
            head=head,
            receipt=receipt,
            sealed_at=int(at),
            proof=node.proof,
            trust=write_trust({node.deployment: policy}),
            policy=policy.digest,
            results=node.checks,
        )

    def encode(self) -> bytes:
        """Write the file. Raises Malformed."""
        return canonical_json(
            {
                "kind": KIND,
                "header": to_base64(self.header),
                "body": to_base64(self.body),
                "head": to_base64(self.head),
                "receipt": to_base64(self.receipt),
                "sealed_at": self.sealed_at,
                "proof": _write_proof(self.proof),
                "trust": self.trust,
                "policy": self.policy,
                "results": [[check.name, str(check.status), check.detail] for check in self.results],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "ReceiptFile":
        """Read a file strictly. Raises Malformed, NonCanonical, Oversized."""
        fields = _Fields(decode_canonical_json(data, limit=MAX_RECEIPT_FILE_BYTES))
        if fields.text("kind") != KIND:
            raise Malformed(f"the file is not a {KIND}")
        file = cls(
            header=fields.raw("header"),
            body=fixed(fields.raw("body"), 32, "body"),
            head=fields.raw("head"),
            receipt=fields.raw("receipt"),
            sealed_at=fields.number("sealed_at"),
            proof=_read_proof(_Fields(fields.take("proof"))),
            trust=fields.text("trust"),
            policy=fields.text("policy"),
            results=fields.items("results", _check),
        )
        fields.end()
        return file


def _write_proof(proof: NodeProof) -> JsonValue:
    return {
        "bundle": to_base64(proof.bundle),
        "entry": to_base64(proof.entry),
        "leaves": [to_base64(leaf.encode()) for leaf in proof.leaves],
        "checkpoint": to_base64(proof.checkpoint),
        "checkpoints": [to_base64(note) for note in proof.checkpoints],
        "tiles": {path: to_base64(data) for path, data in proof.tiles.items()},
        "nonces": [_write_nonce(proof.nonce)] if proof.nonce else [],
        "peer": "loopback" if proof.peer_is_loopback else "network",
        "directory": to_base64(proof.directory),
    }


def _read_proof(fields: "_Fields") -> NodeProof:
    nonces = fields.items("nonces", lambda value: _read_nonce(_Fields(value)), most=1)
    proof = NodeProof(
        bundle=fields.raw("bundle"),
        entry=fields.raw("entry"),
        leaves=fields.items("leaves", lambda value: Leaf.decode(_raw(value)), most=_MAX_LEAVES),
        checkpoint=fields.raw("checkpoint"),
        checkpoints=fields.items("checkpoints", _raw, most=MAX_CHECKPOINTS),
        tiles=fields.tiles("tiles"),
        nonce=nonces[0] if nonces else None,
        peer_is_loopback=fields.one_of("peer", ("network", "loopback")) == "loopback",
        directory=fields.raw("directory"),
    )
    fields.end()
    return proof


def _write_nonce(nonce: NonceProof) -> JsonValue:
    return {
        "bundle_id": to_base64(nonce.bundle_id),
        "nonce": to_base64(nonce.nonce),
        "made_at": int(nonce.made_at),
        "reply": to_base64(nonce.reply),
    }


def _read_nonce(fields: "_Fields") -> NonceProof:
    nonce = NonceProof(
        bundle_id=fields.raw("bundle_id"),
        nonce=fields.raw("nonce"),
        made_at=float(fields.number("made_at")),
        reply=fields.raw("reply"),
    )
    fields.end()
    return nonce


def _check(value: JsonValue) -> Check:
    match value:
        case [str(name), str(status), str(detail)] if status in tuple(CheckStatus):
            return Check(name=name, status=CheckStatus(status), detail=detail)
    raise Malformed("a result has a name, a status and a detail")


def _raw(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        raise Malformed("bytes are written in base64")
    return from_base64(value)


class _Fields:
    """An object of the file whose fields are each read once. Every method raises Malformed."""

    __slots__ = ("_left",)

    def __init__(self, value: JsonValue) -> None:
        if not isinstance(value, Mapping):
            raise Malformed("a part of the receipt file is no object")
        self._left: dict[str, Any] = dict(value)

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise Malformed(f"the receipt file has no {name}")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise Malformed(f"the receipt file's {name} is no text")
        return value

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in words:
            raise Malformed(f"the receipt file's {name} is one of {', '.join(words)}")
        return value

    def raw(self, name: str) -> bytes:
        return _raw(self.take(name))

    def number(self, name: str) -> int:
        value = self.take(name)
        if not isinstance(value, int) or value < 0:
            raise Malformed(f"the receipt file's {name} is no number")
        return value

    def items(self, name: str, read: Callable[[Any], _T], *, most: int = 1024) -> tuple[_T, ...]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > most:
            raise Malformed(f"the receipt file's {name} is no list of at most {most}")
        return tuple(read(member) for member in value)

    def tiles(self, name: str) -> dict[str, bytes]:
        value = self.take(name)
        if not isinstance(value, Mapping) or any(parse_path(path) is None for path in value):
            raise Malformed(f"the receipt file's {name} are files of a log by path")
        return {path: _raw(member) for path, member in value.items()}

    def end(self) -> None:
        if self._left:
            raise Malformed("the receipt file has fields that do not belong to it")
