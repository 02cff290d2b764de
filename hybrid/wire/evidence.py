"""Statement, bundle and binding (SPEC 3): what a worker says about itself, and what evidence must cover.

Nothing here judges evidence; ``hybrid.trust`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from .constants import (
    MAX_BUNDLE_BYTES,
    MAX_EVIDENCE_ITEMS,
    MAX_STATEMENT_KEYS,
    MAX_STATEMENT_MODELS,
    SIGNATURE_BYTES,
)
from .encoding import Reader, deployment_name, digest, digest512, fixed, identifier, u8, u32, u64, v1, v4
from .errors import Malformed, Oversized
from .keys import Identity, IdentityKey, KeyConfig

SOFTWARE = "software"  # SPEC 13: tier 0, an empty item
NO_LOG = bytes(32)  # SPEC 3: release_leaf and checkpoint_digest where tier 0 runs without a log
_DIGEST_BYTES = 32
_MAGIC_BYTES = 4
_LENGTH_BYTES = 4


class Accelerator(IntEnum):
    """What the model runs on, in the worker's words."""

    CPU = 0
    GPU = 1
    APPLE_GPU = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model a node serves. manifest: SHA-256 over its files, templates included."""

    model_id: str
    manifest: bytes
    context_tokens: int
    max_output_tokens: int

    def encode(self) -> bytes:
        """Encode the entry as it stands in a statement."""
        manifest = fixed(self.manifest, _DIGEST_BYTES, "manifest")
        return v1(identifier(self.model_id)) + manifest + u32(self.context_tokens) + u32(self.max_output_tokens)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one entry."""
        return cls(
            model_id=reader.identifier(),
            manifest=reader.digest(),
            context_tokens=reader.u32(),
            max_output_tokens=reader.u32(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Everything a client relies on about one worker. Times are unix seconds."""

    deployment: str
    identity: Identity
    not_before: int
    not_after: int
    keys: tuple[KeyConfig, ...]
    models: tuple[ModelEntry, ...]
    release_leaf: bytes = NO_LOG
    config_digest: bytes
    accelerator: Accelerator = Accelerator.CPU
    checkpoint_digest: bytes = NO_LOG
    formats: tuple[str, ...] = (SOFTWARE,)

    def encode(self) -> bytes:
        """Encode the record ``HST1``. Raises Malformed for a statement that would not decode."""
        data = b"".join(
            (
                b"HST1" + v1(deployment_name(self.deployment)) + self.identity.encode(),
                u64(self.not_before) + u64(self.not_after),
                u8(len(self.keys)) + b"".join(key.encode() for key in self.keys),
                u8(len(self.models)) + b"".join(model.encode() for model in self.models),
                fixed(self.release_leaf, _DIGEST_BYTES, "release_leaf"),
                fixed(self.config_digest, _DIGEST_BYTES, "config_digest"),
                u8(self.accelerator) + fixed(self.checkpoint_digest, _DIGEST_BYTES, "checkpoint_digest"),
                u8(len(self.formats)) + b"".join(v1(identifier(name)) for name in self.formats),
            )
        )
        Statement.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record. Raises Malformed."""
        reader = Reader(data)
        reader.magic(b"HST1")
        statement = cls(
            deployment=reader.deployment(),
            identity=Identity.read(reader),
            not_before=reader.u64(),
            not_after=reader.u64(),
            keys=tuple(KeyConfig.read(reader) for _ in range(reader.count(1, MAX_STATEMENT_KEYS))),
            models=tuple(ModelEntry.read(reader) for _ in range(reader.count(1, MAX_STATEMENT_MODELS))),
            release_leaf=reader.digest(),
            config_digest=reader.digest(),
            accelerator=_accelerator(reader.u8()),
            checkpoint_digest=reader.digest(),
            formats=tuple(reader.identifier() for _ in range(reader.count(1, MAX_EVIDENCE_ITEMS))),
        )
        reader.end()
        _distinct([model.model_id for model in statement.models], "model_id")
        _distinct(statement.formats, "format")
        return statement


def _accelerator(code: int) -> Accelerator:
    try:
        return Accelerator(code)
    except ValueError:
        raise Malformed("an unknown accelerator") from None


def _distinct(names: Sequence[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise Malformed(f"a {what} appears twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceItem:
    """One piece of evidence and the format it is in."""

    format: str
    item: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Encode the item as it stands in a bundle."""
        return v1(identifier(self.format)) + v4(self.item)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one item."""
        return cls(format=reader.identifier(), item=reader.v4(MAX_BUNDLE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A signed statement with its evidence, decoded and not yet trusted. ``raw`` is what was received."""

    statement: Statement
    items: tuple[EvidenceItem, ...]
    signature: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """The 32 bytes ``bundle_id``."""
        return digest("bundle", self.raw)

    @property
    def statement_bytes(self) -> bytes:
        """The statement as received: what evidence binds."""
        start = _MAGIC_BYTES + _LENGTH_BYTES
        return self.raw[start : start + int.from_bytes(self.raw[_MAGIC_BYTES:start], "big")]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record. Raises Malformed."""
        if len(data) > MAX_BUNDLE_BYTES:
            raise Oversized(len(data), MAX_BUNDLE_BYTES)
        reader = Reader(data)
        reader.magic(b"HBN1")
        bundle = cls(
            statement=Statement.decode(reader.v4(MAX_BUNDLE_BYTES)),
            items=tuple(EvidenceItem.read(reader) for _ in range(reader.count(0, MAX_EVIDENCE_ITEMS))),
            signature=reader.take(SIGNATURE_BYTES),
            raw=data,
        )
        reader.end()
        return bundle

    def verify_signature(self) -> None:
        """Check both signatures of the statement's identity. Raises SignatureFailure."""
        self.statement.identity.verify("bundle", self.raw[:-SIGNATURE_BYTES], self.signature)


def make_bundle(statement: Statement, items: Sequence[EvidenceItem], identity: IdentityKey) -> bytes:
    """Encode and sign a bundle. Raises Malformed, Oversized."""
    unsigned = b"HBN1" + v4(statement.encode()) + u8(len(items)) + b"".join(item.encode() for item in items)
    data = unsigned + identity.sign("bundle", unsigned)
    Bundle.decode(data)
    return data


def binding(statement: bytes, before: Sequence[EvidenceItem], format_name: str) -> bytes:
    """B_j: the 64 bytes that evidence item j = len(before) must sign.

    statement: its bytes.  before: the items 0 to j-1, inside out.
    """
    chain = [digest("item", identifier(item.format), item.item) for item in before]
    return digest512("evidence", statement, u8(len(before)), identifier(format_name), *chain)
