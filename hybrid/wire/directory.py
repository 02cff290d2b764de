"""The directory of one deployment (SPEC 4): decoded, not yet trusted. Its signed entry is in ``entries``."""

from dataclasses import dataclass, field
from typing import Self

from .constants import (
    DIGEST_BYTES,
    ENTRY_CHECKPOINT_NO,
    MAX_BUNDLE_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINTS,
    MAX_DIRECTORY_BYTES,
    MAX_ENTRY_BYTES,
    MAX_LEAF_BYTES,
    MAX_NODES,
    MAX_PROOF_HASHES,
    MAX_WEIGHT,
)
from .encoding import Reader, deployment_name, digest, fixed, u8, u16, u32, u64, v1, v2, v4
from .entries import DirectoryEntry
from .errors import Malformed, Oversized
from .evidence import Bundle

_MAX_LEAVES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A log entry with its inclusion proof: index and hashes under one checkpoint of the directory."""

    entry: bytes = field(repr=False)
    checkpoint_no: int
    index: int = 0
    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    def encode(self) -> bytes:
        """Encode the leaf."""
        hashes = b"".join(fixed(value, DIGEST_BYTES, "hash") for value in self.hashes)
        return v2(self.entry) + u8(self.checkpoint_no) + u64(self.index) + u8(len(self.hashes)) + hashes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one leaf. Raises Malformed."""
        reader = Reader(data)
        leaf = cls.read(reader)
        reader.end()
        return leaf

    @classmethod
    def decode_own(cls, data: bytes) -> Self:
        """Decode a directory's own leaf, which is proved under the checkpoint beside it. Raises Malformed."""
        if len(data) > MAX_LEAF_BYTES:
            raise Oversized(len(data), MAX_LEAF_BYTES)
        leaf = cls.decode(data)
        if leaf.checkpoint_no != ENTRY_CHECKPOINT_NO:
            raise Malformed("a directory's own leaf names the checkpoint beside it")
        return leaf

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one leaf from the front of a longer record."""
        return cls(
            entry=reader.v2(MAX_ENTRY_BYTES),
            checkpoint_no=reader.u8(),
            index=reader.u64(),
            hashes=tuple(reader.digest() for _ in range(reader.count(0, MAX_PROOF_HASHES))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedNode:
    """A node as listed: how often it should be drawn, and its bundle."""

    weight: int
    bundle: Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableNode:
    """A listed node whose bundle does not decode: it fails ``bundle.format``, and its weight counts."""

    weight: int
    raw: bytes = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Which nodes belong to a deployment in one epoch. ``raw`` is the record, as received or as made here.

    unreadable: entries that ``decode`` could not read; a directory made here has none.
    """

    deployment: str
    epoch: int
    epoch_s: int
    seq: int = 0
    checkpoints: tuple[bytes, ...] = field(default=(), repr=False)
    leaves: tuple[Leaf, ...] = ()
    nodes: tuple[ListedNode, ...]
    unreadable: tuple[UnreadableNode, ...] = ()
    raw: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Encode a directory that is made here. Raises Malformed when it would not decode."""
        if not self.raw:
            object.__setattr__(self, "raw", _encode(self))
            Directory.decode(self.raw)

    @property
    def id(self) -> bytes:
        """The 32 bytes ``directory_id``."""
        return digest("directory", self.raw)

    def entry(self) -> DirectoryEntry:
        """Return what its signer says about it in the log."""
        return DirectoryEntry(
            deployment=self.deployment,
            epoch=self.epoch,
            seq=self.seq,
            directory_id=self.id,
            nodes=len(self.nodes) + len(self.unreadable),
        )

    def encode(self) -> bytes:
        """Return the record ``HDY1``."""
        return self.raw

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record; bundles that do not decode are set aside. Raises Malformed."""
        if len(data) > MAX_DIRECTORY_BYTES:
            raise Oversized(len(data), MAX_DIRECTORY_BYTES)
        reader = Reader(data)
        reader.magic(b"HDY1")
        deployment, epoch, epoch_s, seq = reader.deployment(), reader.u64(), reader.u32(), reader.u16()
        checkpoints = tuple(reader.v4(MAX_CHECKPOINT_BYTES) for _ in range(reader.count(0, MAX_CHECKPOINTS)))
        leaves = tuple(_listed_leaf(reader, len(checkpoints)) for _ in range(reader.count(0, _MAX_LEAVES)))
        listed = [_listed_node(reader) for _ in range(reader.count(1, MAX_NODES))]
        reader.end()
        return cls(
            deployment=deployment,
            epoch=epoch,
            epoch_s=epoch_s,
            seq=seq,
            checkpoints=checkpoints,
            leaves=leaves,
            nodes=tuple(node for node in listed if isinstance(node, ListedNode)),
            unreadable=tuple(node for node in listed if isinstance(node, UnreadableNode)),
            raw=data,
        )


def _encode(directory: Directory) -> bytes:
    nodes = b"".join(u16(node.weight) + v4(node.bundle.raw) for node in directory.nodes)
    return b"".join(
        (
            b"HDY1" + v1(deployment_name(directory.deployment)),
            u64(directory.epoch) + u32(directory.epoch_s) + u16(directory.seq),
            u8(len(directory.checkpoints)) + b"".join(v4(note) for note in directory.checkpoints),
            u8(len(directory.leaves)) + b"".join(leaf.encode() for leaf in directory.leaves),
            u8(len(directory.nodes)) + nodes,
        )
    )


def _listed_leaf(reader: Reader, checkpoints: int) -> Leaf:
    leaf = Leaf.read(reader)
    if leaf.checkpoint_no >= checkpoints:
        raise Malformed("a leaf names a checkpoint the directory does not hold")
    return leaf


def _listed_node(reader: Reader) -> ListedNode | UnreadableNode:
    weight, raw = reader.u16(), reader.v4(MAX_BUNDLE_BYTES)
    if not 1 <= weight <= MAX_WEIGHT:
        raise Malformed(f"a weight lies between 1 and {MAX_WEIGHT}")
    try:
        return ListedNode(weight=weight, bundle=Bundle.decode(raw))
    except Malformed as error:
        return UnreadableNode(weight=weight, raw=raw, reason=str(error))
