"""One node as its router knows it: where it is, what it published last, whether that may be listed (SPEC 4)."""

from dataclasses import dataclass, field

from hybrid.wire.checkpoint import checkpoint_digest
from hybrid.wire.codec import decode_directory_reply
from hybrid.wire.directory import Directory, ListedNode
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import NO_LOG, SOFTWARE, Bundle

from .route_config import NodePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What one node published. note: the signed checkpoint its statement names; empty where it names none."""

    place: NodePlace
    bundle: Bundle = field(repr=False)
    note: bytes = field(default=b"", repr=False)

    @property
    def node_id(self) -> bytes:
        """The 32 bytes that requests name the node by."""
        return self.bundle.statement.identity.node_id

    @property
    def epoch(self) -> int:
        """The epoch it was published in: its first key's."""
        return self.bundle.statement.keys[0].epoch

    @property
    def listed(self) -> ListedNode:
        """The node as it stands in a directory."""
        return ListedNode(weight=self.place.weight, bundle=self.bundle)

    def covers(self, epoch: int) -> bool:
        """Tell whether it holds a key of this epoch."""
        return any(key.epoch == epoch for key in self.bundle.statement.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a node's publication must agree with. allow_software: also tier 0 on other machines."""

    deployment: str
    epoch_s: int
    allow_software: bool = False

    def read(self, place: NodePlace, reply: bytes) -> Listing:
        """Read what a node's Directory.Get returned. A client judges evidence; this keeps out what no client takes.

        Raises Malformed, SignatureFailure.
        """
        decoded = decode_directory_reply(reply)
        directory = Directory.decode(decoded.directory)
        if len(directory.nodes) != 1 or directory.unreadable:
            raise Malformed("a node lists itself and nobody else")
        bundle = directory.nodes[0].bundle
        bundle.verify_signature()
        self._check(place, bundle)
        return Listing(place=place, bundle=bundle, note=_named_note(bundle, decoded.checkpoint))

    def _check(self, place: NodePlace, bundle: Bundle) -> None:
        statement = bundle.statement
        if statement.deployment != self.deployment:
            raise Malformed("the node is of another deployment")
        if any(key.epoch_s != self.epoch_s for key in statement.keys):
            raise Malformed("the node's epochs have another length")
        if not (place.is_local or self.allow_software) and set(statement.formats) == {SOFTWARE}:
            raise Malformed("a node on another machine is tier 0, and that was not allowed")


def _named_note(bundle: Bundle, note: bytes) -> bytes:
    named = bundle.statement.checkpoint_digest
    if named == NO_LOG:
        return b""
    if checkpoint_digest(note) != named:
        raise Malformed("the node's checkpoint is not the one its statement names")
    return note
