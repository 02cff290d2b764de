"""The node's directory entry: statement, evidence, bundle, directory of one node, signed entry (SPEC 3, 4).

Built in the worker, published to the gateway in one step, renewed every epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hybrid.wire.codec import encode_directory_reply
from hybrid.wire.directory import Directory, ListedNode, sign_entry
from hybrid.wire.evidence import Accelerator, Bundle, ModelEntry, Statement, binding, make_bundle
from hybrid.wire.keys import IdentityKey
from hybrid.wire.note import NoteSigner

from .attest.software import SoftwareAttester
from .keys import KeyRing, LiveKey, boot_clock
from .publication import Accepted, Publication

IDENTITY_LIFE_S = 24 * 3600  # SPEC 15
_WEIGHT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the statement says about what this worker runs."""

    deployment: str
    model: ModelEntry
    config_digest: bytes
    accelerator: Accelerator = Accelerator.CPU


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
        directory = Directory(deployment=self._served.deployment, epoch=keys[0].epoch, epoch_s=epoch_s, nodes=(node,))
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
