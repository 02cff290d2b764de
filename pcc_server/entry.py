"""The node's directory entry: statement, evidence, bundle, directory of one node, signed entry (SPEC 3, 4).

Built in the worker, published to the gateway in one step, renewed every epoch and whenever its keys change.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hybrid.wire.attest import AttestReply, nonce_binding
from hybrid.wire.checkpoint import checkpoint_digest
from hybrid.wire.codec import encode_directory_reply
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.evidence import (
    NO_LOG,
    SOFTWARE,
    Accelerator,
    Bundle,
    EvidenceItem,
    ModelEntry,
    Statement,
    binding,
    make_bundle,
)
from hybrid.wire.keys import IdentityKey, KeyConfig
from hybrid.wire.note import NoteSigner
from hybrid.wire.snp import SEV_SNP
from hybrid.wire.tpm2 import TPM2, TpmEvent

from .announce import Publisher
from .attest.software import SoftwareAttester
from .errors import Busy
from .keys import KeyRing, boot_clock
from .publication import Accepted, Publication

IDENTITY_LIFE_S = 24 * 3600  # SPEC 15
TIERS = {SOFTWARE: 0, TPM2: 1, SEV_SNP: 2}  # the most that evidence in a format can show
_WEIGHT = 1

Collect = Callable[[str, bytes, TpmEvent | None], Awaitable[EvidenceItem]]


async def collect_software(_format: str, bound: bytes, _event: TpmEvent | None) -> EvidenceItem:
    """Collect tier 0 evidence, which needs no device."""
    return SoftwareAttester().collect(bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the statement says about what this worker runs. format: of its evidence."""

    deployment: str
    model: ModelEntry
    config_digest: bytes
    release_leaf: bytes = NO_LOG
    accelerator: Accelerator = Accelerator.CPU
    format: str = SOFTWARE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A bundle for one epoch's directory. note: the checkpoint it names."""

    keys: tuple[KeyConfig, ...]
    note: bytes
    identity: IdentityKey
    bundle: Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    """The bundle that was published last. seq: of its directory, within its epoch."""

    bundle: Bundle
    seq: int


class Entry:
    """Makes publications. It holds the identity key, which is born here.

    publisher: signs directories; one with a key of its own when None.
    note: the log's newest checkpoint that the next statement names; empty where there is no log.
    """

    def __init__(
        self,
        served: Served,
        ring: KeyRing,
        *,
        collect: Collect = collect_software,
        publisher: Publisher | None = None,
        boot: Callable[[], float] = boot_clock,
    ) -> None:
        self._served = served
        self._ring = ring
        self._collect = collect
        self._boot = boot
        self._publisher = publisher or Publisher(NoteSigner.generate(f"{served.deployment}/directory"))
        self._identity = IdentityKey.generate()
        self._born = boot()
        self._newest: _Newest | None = None
        self._made: _Made | None = None  # ahead of its time
        self._tried: tuple[KeyConfig, ...] = ()
        self.note = b""

    @property
    def node_key(self) -> str:
        """The directory signer's public key: what a client pins."""
        return self._publisher.node_key

    @property
    def used(self) -> tuple[tuple[int, int], ...]:
        """Epochs and the numbers that directories used last in them: no later worker may use them again."""
        return self._publisher.used

    @property
    def tier(self) -> int:
        """The tier its evidence can reach."""
        return TIERS[self._served.format]

    # --- publish -----------------------------------------------------------------------------------

    async def publish(self, epoch_s: int) -> Publication:
        """Build the directory of this epoch and note in the ring which bundle names which key.

        Raises StartFailure when evidence cannot be collected, Limit when the epoch has no sequence number left.
        """
        self._renew_identity(2 * epoch_s)
        keys = tuple(live.key.config for live in self._ring.current())  # no private key waits for a device
        seq = self._publisher.next_seq(keys[0].epoch)
        made, self._made = self._made, None
        if made is None or (made.keys, made.identity) != (keys, self._identity):
            made = await self._make(keys, epoch_s)
        bundle, note = made.bundle, made.note
        self._ring.name(keys, bundle.id, made.identity)
        self._newest = _Newest(bundle=bundle, seq=seq)
        directory = Directory(
            deployment=self._served.deployment,
            epoch=keys[0].epoch,
            epoch_s=epoch_s,
            seq=seq,
            checkpoints=(note,) if note else (),
            nodes=(ListedNode(weight=_WEIGHT, bundle=bundle),),
        )
        return Publication(
            model_id=self._served.model.model_id, reply=self._reply(directory, note), accepted=self._accepted()
        )

    async def prepare(self, epoch_s: int) -> None:
        """Collect the evidence of the next epoch's bundle, once: ``publish`` is then one step.

        An identity that is to be renewed makes its bundle when it is there. Raises StartFailure when evidence cannot be
        collected.
        """
        self._tried = keys = self._coming()
        if self._boot() - self._born + 3 * epoch_s <= IDENTITY_LIFE_S:
            self._made = await self._make(keys, epoch_s)

    @property
    def is_prepared(self) -> bool:
        """Whether there is nothing to prepare, or it was tried."""
        return self._coming() in ((), self._tried)

    def _coming(self) -> tuple[KeyConfig, ...]:
        return tuple(live.key.config for live in self._ring.coming())

    async def _make(self, keys: tuple[KeyConfig, ...], epoch_s: int) -> _Made:
        note, identity = self.note, self._identity
        bundle = Bundle.decode(await self._bundle(keys, epoch_s, note))
        return _Made(keys=keys, note=note, identity=identity, bundle=bundle)

    @property
    def is_current(self) -> bool:
        """Whether the newest bundle lists the keys that a directory of now must list."""
        wanted = tuple(live.key.config for live in self._ring.current())
        return self._newest is not None and self._newest.bundle.statement.keys == wanted

    def check_room(self) -> None:
        """See that this epoch has a sequence number left. Raises Limit."""
        self._publisher.next_seq(self._ring.epoch)

    def _reply(self, directory: Directory, note: bytes) -> bytes:
        leaf = Leaf(entry=self._publisher.sign(directory), checkpoint_no=ENTRY_CHECKPOINT_NO)
        return encode_directory_reply(directory=directory.encode(), leaf=leaf.encode(), checkpoint=note)

    def _renew_identity(self, bundle_life_s: int) -> None:
        if self._boot() - self._born + bundle_life_s > IDENTITY_LIFE_S:
            self._identity = IdentityKey.generate()
            self._born = self._boot()

    # --- evidence ----------------------------------------------------------------------------------

    async def _bundle(self, keys: tuple[KeyConfig, ...], epoch_s: int, note: bytes) -> bytes:
        identity, form = self._identity, self._served.format
        statement = Statement(
            deployment=self._served.deployment,
            identity=identity.public,
            not_before=keys[0].epoch * epoch_s,
            not_after=(keys[0].epoch + 2) * epoch_s,
            keys=keys,
            models=(self._served.model,),
            release_leaf=self._served.release_leaf,
            config_digest=self._served.config_digest,
            accelerator=self._served.accelerator,
            checkpoint_digest=checkpoint_digest(note) if note else NO_LOG,
            formats=(form,),
        )
        item = await self._collect(form, binding(statement.encode(), (), form), self._event(statement))
        return make_bundle(statement, (item,), identity)

    async def attest(self, nonces: Sequence[bytes]) -> AttestReply:
        """Collect evidence over callers' nonces for the bundle that was published last (SPEC 3).

        Raises Busy before the first publication, StartFailure when evidence cannot be collected.
        """
        if self._newest is None:
            raise Busy
        form = self._served.format
        bound = nonce_binding(self._newest.bundle.id, nonces, (), form)
        item = await self._collect(form, bound, self._event(self._newest.bundle.statement))
        return AttestReply(nonces=tuple(nonces), items=(item,))

    @staticmethod
    def _event(statement: Statement) -> TpmEvent:
        return TpmEvent(
            release_leaf=statement.release_leaf,
            config_digest=statement.config_digest,
            node_id=statement.identity.node_id,
        )

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
