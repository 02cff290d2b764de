"""What one node's verification stood on, as received: enough to repeat it without a network. SPEC section 9."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.wire.directory import Leaf

from .log_view import NonceProof


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProof:
    """Everything a node was judged by, kept for its receipts.

    bundle: record HBN1.  entry: the directory's own Leaf.  leaves: RELEASE and MODEL, counting ``checkpoints``.
    checkpoint: the newest, as it came with the directory.  tiles: what shows that ``checkpoints`` lead to it.
    directory: the whole record HDY1 for software evidence alone, where nothing but its listing vouches for a node.
    """

    bundle: bytes = field(repr=False)
    entry: bytes = field(repr=False)
    leaves: tuple[Leaf, ...] = field(default=(), repr=False)
    checkpoint: bytes = field(default=b"", repr=False)
    checkpoints: tuple[bytes, ...] = field(default=(), repr=False)
    tiles: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    nonce: NonceProof | None = None
    peer_is_loopback: bool
    directory: bytes = field(default=b"", repr=False)
