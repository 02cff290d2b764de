"""The node's directory entry: statement, evidence, bundle, directory of one node, signed entry (SPEC 3, 4).

Built in the worker, published to the gateway in one step, renewed every epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from hybrid.wire.codec import encode_directory_reply
from hybrid.wire.constants import MAX_DIRECTORY_BYTES
from hybrid.wire.directory import Directory, ListedNode, sign_entry
from hybrid.wire.encoding import Reader, identifier, u16, u64, v1, v4
from hybrid.wire.evidence import Accelerator, Bundle, ModelEntry, Statement, binding, make_bundle
from hybrid.wire.keys import IdentityKey
from hybrid.wire.note import NoteSigner

from .attest.software import SoftwareAttester
from .keys import KeyRing, LiveKey, Named, boot_clock

IDENTITY_LIFE_S = 24 * 3600  # SPEC 15
_WEIGHT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the statement says about what this worker runs."""

    deployment: str
    model: ModelEntry
    config_digest: bytes
    accelerator: Accelerator = Accelerator.CPU


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
        model_id, reply = reader.identifier(), reader.v4(MAX_DIRECTORY_BYTES + 65_536)
        rows = tuple(
            Accepted(
                node_id=reader.digest(),
                ek_id=reader.take(16),
                bundle_id=reader.digest(),
                opens=reader.u64(),
                closes=reader.u64(),
            )
            for _ in range(reader.u16())
        )
        reader.end()
        return cls(model_id=model_id, reply=reply, accepted=rows)


class Entry:
    """Makes publications. It holds the identity key and the directory signer, both born here."""

    def __init__(self, served: Served, ring: KeyRing, *, boot: Callable[[], float] = boot_clock) -> None:
        self._served = served
        self._ring = ring
        self._boot = boot
        self._attester = SoftwareAttester()
        self._signer = NoteSigner.generate(f"{served.deployment}/directory")
        self._identity = IdentityKey.generate()
        self._born = boot()

    @property
    def node_key(self) -> str:
        """The directory signer's public key: what a client pins."""
        return self._signer.vkey

    @property
    def tier(self) -> int:
        """The tier its evidence can reach."""
        return self._attester.tier

    def publish(self, epoch_s: int) -> Publication:
        """Build the directory of this epoch and note in the ring which bundle names which key."""
        self._renew_identity(2 * epoch_s)
        keys = self._ring.current()
        bundle = Bundle.decode(self._bundle(keys, epoch_s))
        for live in keys:
            live.bundles[bundle.id] = self._identity
        node = ListedNode(weight=_WEIGHT, bundle=bundle)
        directory = Directory(
            deployment=self._served.deployment, epoch=keys[0].epoch, epoch_s=epoch_s, nodes=(node,)
        )
        reply = encode_directory_reply(
            directory=directory.encode(), leaf=sign_entry(directory, self._signer), checkpoint=b""
        )
        return Publication(model_id=self._served.model.model_id, reply=reply, accepted=self._accepted())

    def _renew_identity(self, bundle_life_s: int) -> None:
        if self._boot() - self._born + bundle_life_s > IDENTITY_LIFE_S:
            self._identity = IdentityKey.generate()
            self._born = self._boot()

    def _bundle(self, keys: tuple[LiveKey, ...], epoch_s: int) -> bytes:
        statement = Statement(
            deployment=self._served.deployment,
            identity=self._identity.public,
            not_before=keys[0].epoch * epoch_s,
            not_after=(keys[0].epoch + 2) * epoch_s,
            keys=tuple(live.key.config for live in keys),
            models=(self._served.model,),
            config_digest=self._served.config_digest,
            accelerator=self._served.accelerator,
            formats=(self._attester.format,),
        )
        item = self._attester.collect(binding(statement.encode(), (), self._attester.format))
        return make_bundle(statement, (item,), self._identity)

    def _accepted(self) -> tuple[Accepted, ...]:
        return tuple(
            Accepted(
                node_id=identity.public.node_id,
                ek_id=live.key.config.key_id,
                bundle_id=bundle_id,
                opens=live.window[0],
                closes=live.window[1],
            )
            for live in self._ring.accepted()
            for bundle_id, identity in live.bundles.items()
        )
