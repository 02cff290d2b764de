"""What the worker publishes to the gateway: public bytes to hand out, and the names that requests may use."""

from dataclasses import dataclass
from typing import Protocol, Self

from hybrid.wire.codec import decode_directory_reply
from hybrid.wire.constants import KEY_ID_BYTES, MAX_DIRECTORY_BYTES
from hybrid.wire.directory import Directory
from hybrid.wire.encoding import Reader, identifier, u16, u64, v1, v4
from hybrid.wire.evidence import Bundle

_MAX_REPLY_BYTES = MAX_DIRECTORY_BYTES + 65_536  # the directory with its entry


class Named(Protocol):
    """What a request says about the node it was sealed to."""

    @property
    def node_id(self) -> bytes:
        """32 bytes."""

    @property
    def ek_id(self) -> bytes:
        """16 bytes."""

    @property
    def bundle_id(self) -> bytes:
        """32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One triple that requests may name, and the unix seconds between which they may."""

    node_id: bytes
    ek_id: bytes
    bundle_id: bytes
    opens: int
    closes: int

    def names(self, named: Named) -> bool:
        """Tell whether a request names exactly this."""
        return (named.node_id, named.ek_id, named.bundle_id) == (self.node_id, self.ek_id, self.bundle_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """All that the gateway knows: public bytes to hand out, and what to refuse without asking the worker."""

    model_id: str
    reply: bytes
    accepted: tuple[Accepted, ...]

    def encode(self) -> bytes:
        """Encode for the link."""
        rows = b"".join(a.node_id + a.ek_id + a.bundle_id + u64(a.opens) + u64(a.closes) for a in self.accepted)
        return v1(identifier(self.model_id)) + v4(self.reply) + u16(len(self.accepted)) + rows

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode what ``encode`` gave. Raises Malformed."""
        reader = Reader(data)
        model_id, reply = reader.identifier(), reader.v4(_MAX_REPLY_BYTES)
        rows = tuple(
            Accepted(
                node_id=reader.digest(),
                ek_id=reader.take(KEY_ID_BYTES),
                bundle_id=reader.digest(),
                opens=reader.u64(),
                closes=reader.u64(),
            )
            for _ in range(reader.u16())
        )
        reader.end()
        return cls(model_id=model_id, reply=reply, accepted=rows)


def newest_bundle(publication: Publication) -> Bundle:
    """Return the bundle of evidence that a publication hands out."""
    reply = decode_directory_reply(publication.reply)
    return Directory.decode(reply.directory).nodes[0].bundle
