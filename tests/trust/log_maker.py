"""A whole deployment with a log, witnesses and hardware evidence, made by hand so that any one thing can be wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid.trust.log_view import LogView, Seen, Tail
from hybrid.trust.policy import ModelTrust, Policy, ReleaseTrust
from hybrid.trust.tpm2 import Tpm2Trust
from hybrid.trust.verify import VerifiedDirectory, Verifier
from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.encoding import v2
from hybrid.wire.entries import Entry, ModelEntryNote, sign
from hybrid.wire.evidence import Bundle, EvidenceItem, binding, make_bundle
from hybrid.wire.keys import IdentityKey
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.merkle import inclusion_proof, leaf_hash, root
from hybrid.wire.note import NoteSigner, append_signatures
from hybrid.wire.release import ReleaseEntry, SnpMeasurement
from hybrid.wire.snp import SnpItem
from hybrid.wire.tiles import TILE_WIDTH, entries_path, tiles_of
from hybrid.wire.tpm2 import name_of, qualifying_data
from tests.trust.maker import MODEL, NOW, Maker
from tests.trust.snp_maker import Amd
from tests.trust.tpm_maker import BOOT, Tpm, ecc_public

ORIGIN = "pcc.example.com/log"
CONFIG = b"\x0c" * 32
MEASUREMENT = b"\x99" * 48
WITNESSED, NEWEST = NOW - 300, NOW - 60  # when the two checkpoints of a deployment were cosigned


@dataclass
class Log:
    """An append-only log in memory, and its two witnesses."""

    key: NoteSigner = field(default_factory=lambda: NoteSigner.generate(ORIGIN))
    witnesses: list[CosignatureSigner] = field(
        default_factory=lambda: [
            CosignatureSigner.generate("w1.example/w", "ed25519"),
            CosignatureSigner.generate("w2.example/w", "ml-dsa-44"),
        ]
    )
    entries: list[bytes] = field(default_factory=list)
    sizes: set[int] = field(default_factory=set)

    def add(self, entry: bytes) -> int:
        self.entries.append(entry)
        return len(self.entries) - 1

    def hashes(self, size: int | None = None) -> list[bytes]:
        return [leaf_hash(entry) for entry in self.entries[:size]]

    def checkpoint(self, at: float, *, times: Sequence[float | None] = ()) -> bytes:
        """Sign the tree as it is; witness n cosigns at times[n], by default all at ``at``, None not at all."""
        self.sizes.add(len(self.entries))
        point = Checkpoint(origin=self.key.name, size=len(self.entries), root=root(self.hashes()))
        note = self.key.sign(point.encode_text())
        when = list(times) or [at] * len(self.witnesses)
        lines = [
            witness.cosign(point.encode_text(), now=lambda stamp=stamp: stamp)  # type: ignore[misc]
            for witness, stamp in zip(self.witnesses, when, strict=True)
            if stamp is not None
        ]
        return append_signatures(note, lines)

    def leaf(self, index: int, size: int, checkpoint_no: int) -> Leaf:
        proof = inclusion_proof(self.hashes(size), index)
        return Leaf(entry=self.entries[index], checkpoint_no=checkpoint_no, index=index, hashes=proof)

    def files(self) -> dict[str, bytes]:
        """Every file of the log as it is, and the partial ones of earlier checkpoints."""
        files: dict[str, bytes] = {}
        for size in {*self.sizes, len(self.entries)}:
            files |= tiles_of(self.hashes(size), 0, size)
            for at in range(0, size, TILE_WIDTH):
                width = min(TILE_WIDTH, size - at)
                files[entries_path(at // TILE_WIDTH, width)] = b"".join(map(v2, self.entries[at : at + width]))
        return files

    def policy(self, quorum: str = "group both all w1 w2\nquorum both") -> LogPolicy:
        lines = [f"log {self.key.vkey}"]
        lines += [f"witness w{n} {witness.vkey}" for n, witness in enumerate(self.witnesses, 1)]
        return LogPolicy.parse("\n".join([*lines, quorum, ""]))


def release(**changes: Any) -> ReleaseEntry:
    given = {
        "name": "hybrid-pcc",
        "version": "1.0",
        "source_commit": "a" * 40,
        "artefacts": {"node.tar": "b" * 64},
        "sbom": "c" * 64,
        "measurements": {
            "sev-snp": (SnpMeasurement(MEASUREMENT.hex()),),
            "tpm2": ({index: value.hex() for index, value in BOOT.items()},),
        },
        "configs": {"strict": CONFIG.hex()},
        "issued": int(NOW) - 86_400,
        "expires": int(NOW) + 86_400,
    }
    return ReleaseEntry(**{**given, **changes})


def model_note(**changes: Any) -> ModelEntryNote:
    given = {
        "model_id": MODEL.model_id,
        "manifest": MODEL.manifest,
        "licence": "Apache-2.0",
        "context": 2048,
        "issued": int(NOW) - 86_400,
    }
    return ModelEntryNote(**{**given, **changes})


@dataclass
class Cloud(Maker):
    """One deployment: a log with a release and a model, one machine with a TPM, or an SNP guest."""

    deployment: str = "pcc.example.com"
    log: Log = field(default_factory=Log)
    publisher: NoteSigner = field(default_factory=lambda: NoteSigner.generate("publisher.example/release"))
    modeller: NoteSigner = field(default_factory=lambda: NoteSigner.generate("publisher.example/models"))
    tpm: Tpm = field(default_factory=Tpm)
    amd: Amd | None = None
    release: ReleaseEntry = field(default_factory=release)
    model_note: ModelEntryNote = field(default_factory=model_note)
    times: Sequence[float | None] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log.add(b"an entry of somebody else's")
        self.release_at = self.log.add(self.entry(self.release, self.publisher))
        self.model_at = self.log.add(self.entry(self.model_note, self.modeller))
        self.older = self.log.checkpoint(WITNESSED, times=self.times)
        self.size = len(self.log.entries)

    def entry(self, entry: Entry, signer: NoteSigner) -> bytes:
        return sign(entry, signer)

    # --- one node ---------------------------------------------------------------------------------

    @property
    def format(self) -> str:
        return "sev-snp" if self.amd else "tpm2"

    def statement(self, **changes: Any) -> Any:
        given = {
            "release_leaf": leaf_hash(self.log.entries[self.release_at]),
            "config_digest": CONFIG,
            "checkpoint_digest": checkpoint_digest(self.older),
            "formats": (self.format,),
        }
        return super().statement(**{**given, **changes})

    def item(self, covered: bytes, statement: Any, **changes: Any) -> EvidenceItem:
        """One item over this binding."""
        if self.amd:
            vcek, ask, ark = self.amd.vcek(), self.amd.ask(), self.amd.ark()
            report = self.amd.report(**{"data": covered, "measurement": MEASUREMENT, **changes})
            return EvidenceItem(format="sev-snp", item=SnpItem(report=report, vcek=vcek, ask=ask, ark=ark).encode())
        self.tpm.statement = statement
        quote = {"extra": qualifying_data(covered)}
        return EvidenceItem(format="tpm2", item=self.tpm.item(quote=quote, **changes).encode())

    def evidence(self, statement: Any, **changes: Any) -> tuple[EvidenceItem, ...]:
        return (self.item(binding(statement.encode(), (), self.format), statement, **changes),)

    def node(self, *, item: Mapping[str, Any] | None = None, **changes: Any) -> Bundle:
        """A bundle whose statement has these changes and whose evidence covers them."""
        statement = self.statement(**changes)
        return Bundle.decode(make_bundle(statement, self.evidence(statement, **(item or {})), self.identity))

    def spliced(self, evidence_of: Any = None, *, by: IdentityKey | None = None, **changes: Any) -> Bundle:
        """A bundle with these changes, signed again, whose evidence is still that of the unchanged statement."""
        items = self.evidence(evidence_of or self.statement())
        return Bundle.decode(make_bundle(self.statement(**changes), items, by or self.identity))

    # --- the deployment ---------------------------------------------------------------------------

    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(self.log.leaf(at, self.size, 0) for at in (self.release_at, self.model_at))

    def listed(self, *bundles: Bundle, **changes: Any) -> Directory:
        given = {"checkpoints": (self.older,), "leaves": self.leaves(), **changes}
        return self.directory(*(bundles or (self.node(),)), **given)

    def publish(self, directory: Directory | None = None, *, at: float = NEWEST, **kw: Any) -> DirectoryReply:
        """Log a directory's entry, cosign, and return what ``Directory.Get`` answers."""
        directory = directory or self.listed()
        index = self.log.add(sign(directory.entry(), self.signer))
        newest = self.log.checkpoint(at, **kw)
        leaf = self.log.leaf(index, len(self.log.entries), ENTRY_CHECKPOINT_NO)
        return DirectoryReply(directory=directory.encode(), leaf=leaf.encode(), checkpoint=newest)

    # --- the client -------------------------------------------------------------------------------

    def policy(self, **changes: Any) -> Policy:
        given = {
            "deployment": self.deployment,
            "directory_signers": (self.signer.vkey,),
            "min_tier": 2 if self.amd else 1,
            "allow_software": "never",
            "release": ReleaseTrust(signers=(self.publisher.vkey,)),
            "models": ModelTrust(signers=(self.modeller.vkey,)),
            "tpm2": Tpm2Trust(ak_names=(name_of(ecc_public(self.tpm.key)).hex(),)),
        }
        return Policy(**{"log_policy": changes.pop("log_policy", None) or self.log.policy(), **given, **changes})

    def view(self, stored: Seen | None = None, tail: Tail | None = None, **changes: Any) -> LogView:
        """Everything a client could have fetched."""
        return replace(LogView(stored=stored, tiles=self.log.files(), tail=tail), **changes)

    def check(
        self, reply: DirectoryReply, *, now: float = NOW, log: LogView | None = None, nonces: Any = (), **kw: Any
    ) -> VerifiedDirectory:
        """Verify as a client on the network does. kw: changes of the policy, and ``held``."""
        held, loopback = kw.pop("held", None), kw.pop("loopback", False)
        return Verifier(self.policy(**kw)).verify(
            reply, peer_is_loopback=loopback, now=now, held=held, log=log or self.view(), nonces=nonces
        )
