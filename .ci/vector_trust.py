"""Vectors of judgement: a deployment at tier 1 with log and witnesses, and at tier 0 without (sections 11, 12)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import vector_log
import vector_replies
from vector_evidence import RUNTIME_PCR, Machine
from vector_log import LOG, WITNESSES, policy
from vector_scene import EPOCH, EPOCH_S, MODEL, Scene, filled, signer

from hybrid.trust.receipt_file import ReceiptFile
from hybrid.trust.toml import parse_trust
from hybrid.trust.verify import Verifier
from hybrid.wire import merkle, tiles
from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.encoding import digest
from hybrid.wire.entries import ModelEntryNote, ReleaseEntry, entry_digest, sign
from hybrid.wire.evidence import Bundle, EvidenceItem, make_bundle
from hybrid.wire.note import append_signatures
from hybrid.wire.tpm2 import name_of
from tests.trust.tpm_maker import BOOT

Given = dict[str, Any]
Made = tuple[str, str, str, Given]  # name, kind, expect, input

GOOD = "success"
NOW = EPOCH * EPOCH_S + 50
DEPLOYMENT = "example.org"
OWN = 255
PUBLISHER, MODELS = signer(0x5C), signer(0x5D)
CONFIG = filled(0x40, 32)


def _note(leaves: list[bytes], *times: int) -> bytes:
    """Return a checkpoint over these leaves, cosigned by the first witnesses at these times."""
    text = Checkpoint(origin=LOG.name, size=len(leaves), root=merkle.root(leaves)).encode_text()
    lines = [WITNESSES[n].cosign(text, now=lambda at=at: at) for n, at in enumerate(times)]
    return append_signatures(LOG.sign(text), lines)


@dataclass
class Deployment:
    """A release, a model and a directory in one log, and a node that measured itself; any part may be another."""

    scene: Scene
    release: ReleaseEntry
    model: ModelEntryNote
    seen_at: tuple[int, ...] = (2_100, 2_110)
    logged_at: tuple[int, ...] = (2_130, 2_140)

    def given(self, trust: str, **changes: Any) -> Given:
        """Return the input of a case."""
        entries = [sign(self.release, PUBLISHER), sign(self.model, MODELS)]
        hashes = [merkle.leaf_hash(entry) for entry in entries]
        older = _note(hashes, *self.seen_at)
        leaves = tuple(
            Leaf(entry=entry, checkpoint_no=0, index=at, hashes=merkle.inclusion_proof(hashes, at))
            for at, entry in enumerate(entries)
        )
        node = ListedNode(weight=1, bundle=self._bundle(hashes[0], older))
        directory = Directory(
            deployment=DEPLOYMENT, epoch=EPOCH, epoch_s=EPOCH_S, checkpoints=(older,), leaves=leaves, nodes=(node,)
        )
        own = sign(directory.entry(), self.scene.signer)
        hashes.append(merkle.leaf_hash(own))
        leaf = Leaf(entry=own, checkpoint_no=OWN, index=2, hashes=merkle.inclusion_proof(hashes, 2)).encode()
        reply = DirectoryReply(directory=directory.raw, leaf=leaf, checkpoint=_note(hashes, *self.logged_at))
        files = tiles.tiles_of(hashes, 0, len(hashes))
        wanted = Verifier(parse_trust(trust_text(self.scene)).deployments[DEPLOYMENT]).wanted(reply, None)
        return {
            "trust": trust,
            "deployment": DEPLOYMENT,
            "directory": reply.directory,
            "leaf": reply.leaf,
            "checkpoint": reply.checkpoint,
            "tiles": {path: files[path] for path in wanted},
            "now": NOW,
            "loopback": 0,
            **changes,
        }

    def _bundle(self, release_leaf: bytes, older: bytes) -> Bundle:
        node, machine = self.scene.nodes[0], Machine(self.scene)
        machine.stand_on(
            replace(machine.statement, release_leaf=release_leaf, checkpoint_digest=checkpoint_digest(older))
        )
        items = [EvidenceItem(format="tpm2", item=machine.item())]
        return Bundle.decode(make_bundle(machine.statement, items, node.identity))


def trust_text(scene: Scene, **changes: str) -> str:
    """Return the trust file of the deployment; a line may be another."""
    lines = {
        "min_tier": "1",
        "freshness": '"witness"',
        "max_evidence_age_s": "3600",
        "directory_signers": f'["{scene.signer.vkey}"]',
        "release": f'{{ signers = ["{PUBLISHER.vkey}"] }}',
        "models": f'{{ signers = ["{MODELS.vkey}"] }}',
        "log_policy": '"""\n' + policy("pair", "group pair all w0 w1") + '"""',
        "tpm2": f'{{ ak_names = ["{name_of(Machine(scene).public).hex()}"], runtime_pcr = {RUNTIME_PCR} }}',
        **changes,
    }
    body = "\n".join(f"{name} = {value}" for name, value in lines.items() if value)
    return f'version = 1\n[deployment."{DEPLOYMENT}"]\n{body}\n'


def _deployment(scene: Scene) -> Deployment:
    release = replace(
        vector_log.ENTRIES["release"],
        measurements={"sev-snp": (), "tpm2": ({4: BOOT[4].hex(), 11: BOOT[11].hex()},)},
        configs={"default": CONFIG.hex()},
    )
    return Deployment(scene, release, vector_log.ENTRIES["model"])


def verify_cases(scene: Scene) -> Iterator[Made]:
    """Yield one good reply, and what must be named when any one thing about it is otherwise."""
    made = _deployment(scene)
    trust = trust_text(scene)
    good = made.given(trust)
    yield "tier 1 with log, release, model and witnesses", "verify", GOOD, good
    release, model = made.release, made.model
    other_boot = {"sev-snp": (), "tpm2": ({4: filled(0x09, 32).hex()},)}
    for name, check, given in (
        ("nobody cosigned", "log.quorum", replace(made, logged_at=()).given(trust)),
        ("one of two witnesses", "log.quorum", replace(made, logged_at=(2_130,)).given(trust)),
        ("nobody cosigned the older checkpoint", "log.quorum", replace(made, seen_at=()).given(trust)),
        ("a witness's time ahead of now", "log.clock", replace(made, logged_at=(2_300, 2_300)).given(trust)),
        ("no tiles to show consistency", "log.consistency", {**good, "tiles": {}}),
        (
            "a checkpoint of another log",
            "log.note",
            {**good, "checkpoint": signer(0x5B).sign("example.org/x\n1\nAA==\n")},
        ),
        ("another directory", "directory.signature", {**good, "directory": scene.directory.raw}),
        ("long ago", "directory.current", {**good, "now": NOW + 3_600}),
        ("ahead of its time", "log.clock", {**good, "now": NOW - 3_600}),
        (
            "another signer trusted",
            "directory.signature",
            made.given(trust_text(scene, directory_signers=f'["{MODELS.vkey}"]')),
        ),
        ("an expired release", "release.valid", replace(made, release=replace(release, expires=1_500)).given(trust)),
        ("a denied release", "release.valid", made.given(_denying(scene, made))),
        (
            "another release's PCRs",
            "tpm2.pcr-values",
            replace(made, release=replace(release, measurements=other_boot)).given(trust),
        ),
        (
            "a configuration of no release",
            "config.known",
            replace(made, release=replace(release, configs={"default": "00" * 32})).given(trust),
        ),
        (
            "another publisher trusted",
            "release.signed",
            made.given(trust_text(scene, release=f'{{ signers = ["{MODELS.vkey}"] }}')),
        ),
        (
            "another model signer trusted",
            "model.logged",
            made.given(trust_text(scene, models=f'{{ signers = ["{PUBLISHER.vkey}"] }}')),
        ),
        (
            "another model in the log",
            "model.logged",
            replace(made, model=replace(model, manifest=filled(0x01, 32))).given(trust),
        ),
        ("a model that is not accepted", "model.accepted", made.given(trust_text(scene, models=_accepting("00" * 32)))),
        (
            "an attestation key nobody enrolled",
            "tpm2.ak-trusted",
            made.given(trust_text(scene, tpm2='{ ak_names = ["000b' + "00" * 32 + '"] }')),
        ),
        ("where tier 2 is the least", "tier.minimum", made.given(trust_text(scene, min_tier="2"))),
        ("evidence older than the limit", "evidence.fresh", made.given(trust_text(scene, max_evidence_age_s="30"))),
        ("a nonce asked for and none there", "evidence.fresh", made.given(trust_text(scene, freshness='"nonce"'))),
    ):
        yield f"tier 1, {name}", "verify", f"check_failure:{check}", given


def _accepting(manifest: str) -> str:
    return f'{{ signers = ["{MODELS.vkey}"], accept = ["{MODEL}@{manifest}"] }}'


def _denying(scene: Scene, made: Deployment) -> str:
    denied = entry_digest(sign(made.release, PUBLISHER)).hex()
    return trust_text(scene, release=f'{{ signers = ["{PUBLISHER.vkey}"], deny = ["{denied}"] }}')


def software_cases(scene: Scene) -> Iterator[Made]:
    """Yield tier 0 as a node on this machine gives it: no log, no release, no model."""
    entry = sign(scene.directory.entry(), scene.signer)
    trust = f'version = 1\n[deployment."{DEPLOYMENT}"]\ndirectory_signers = ["{scene.signer.vkey}"]\n'
    good = {
        "trust": trust,
        "deployment": DEPLOYMENT,
        "directory": scene.directory.raw,
        "leaf": Leaf(entry=entry, checkpoint_no=OWN).encode(),
        "checkpoint": b"",
        "tiles": {},
        "now": NOW,
        "loopback": 1,
    }
    yield "tier 0 on loopback", "verify", GOOD, good
    for name, check, changes in (
        ("off loopback", "tier.software", {"loopback": 0}),
        ("where tier 1 is the least", "tier.software", {"trust": trust + "min_tier = 1\n"}),
        ("after its end", "directory.current", {"now": NOW + 3_600}),
        ("before its time", "directory.current", {"now": NOW - 3_600}),
        ("under another checkpoint", "directory.signature", {"leaf": Leaf(entry=entry, checkpoint_no=0).encode()}),
    ):
        yield f"tier 0, {name}", "verify", f"check_failure:{check}", {**good, **changes}


class Kept:
    """The receipt file of the complete reply, by a client that verified the node of tier 0."""

    def __init__(self, scene: Scene, trust: str) -> None:
        request = scene.request(1)
        whole = vector_replies.answer(scene, request)
        policy = parse_trust(trust).deployments[DEPLOYMENT]
        entry = Leaf(entry=sign(scene.directory.entry(), scene.signer), checkpoint_no=OWN).encode()
        reply = DirectoryReply(directory=scene.directory.raw, leaf=entry, checkpoint=b"")
        (node,) = Verifier(policy).verify(reply, peer_is_loopback=True, now=NOW).nodes
        self.file = ReceiptFile.of(
            node,
            policy,
            header=request.sealed.header,
            body=digest("body", request.sealed.body),
            head=whole.head,
            receipt=vector_replies.receipt_of(request, whole),
            at=NOW,
        )

    def changed(self, **changes: Any) -> bytes:
        """Return the file with fields changed."""
        return replace(self.file, **changes).encode()


def receipt_cases(scene: Scene) -> Iterator[Made]:
    """Yield a stored receipt in the year 2040, and what is no longer this receipt."""
    trust = f'version = 1\n[deployment."{DEPLOYMENT}"]\ndirectory_signers = ["{scene.signer.vkey}"]\n'
    kept = Kept(scene, trust)
    file = kept.file
    good = {"file": file.encode(), "trust": trust, "deployment": DEPLOYMENT, "now": 2_208_988_800}
    yield "receipt file in the year 2040", "receipt_file", GOOD, good
    stranger = trust.replace(scene.signer.vkey, MODELS.vkey)
    receipt, tail = file.receipt, len(file.receipt) - 20
    for name, expect, changes in (
        ("under another's trust", "check_failure:directory.signature", {"trust": stranger}),
        ("of the future", "check_failure:receipt.time", {"now": NOW - 600}),
        ("with another body", "check_failure:receipt.request", {"file": kept.changed(body=filled(0x01, 32))}),
        ("with another head", "check_failure:receipt.request", {"file": kept.changed(head=b"\x01" + file.head[1:])}),
        ("sealed long before", "check_failure:receipt.time", {"file": kept.changed(sealed_at=NOW + 200)}),
        (
            "with another signature",
            "check_failure:receipt.signature",
            {"file": kept.changed(receipt=_flip(receipt, tail))},
        ),
        (
            "with other counts",
            "check_failure:receipt.signature",
            {"file": kept.changed(receipt=_flip(receipt, -3_390))},
        ),
        ("with another request", "check_failure:receipt.request", {"file": kept.changed(receipt=_flip(receipt, 8))}),
        (
            "without the directory that lists its software node",
            "check_failure:directory.intact",
            {"file": kept.changed(proof=replace(file.proof, directory=b""))},
        ),
        ("with a space", "non_canonical", {"file": good["file"].replace(b":", b": ", 1)}),
        ("of another kind", "malformed", {"file": good["file"].replace(b"receipt file 1", b"receipt file 2", 1)}),
        ("with a field too many", "malformed", {"file": good["file"].replace(b'"head"', b'"hdad":"","head"', 1)}),
    ):
        yield f"receipt file {name}", "receipt_file", expect, {**good, **changes}


def _flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x01
    return bytes(changed)


def file_cases(scene: Scene) -> Iterator[Made]:
    """Yield trust files: what has a meaning, and what must not be passed over."""
    yield "trust file", "trust_file", GOOD, {"trust": trust_text(scene)}
    for name, text in (
        ("of version 2", trust_text(scene).replace("version = 1", "version = 2", 1)),
        ("without a version", trust_text(scene).replace("version = 1\n", "", 1)),
        ("with an unknown key", trust_text(scene, min_teir="1")),
        ("with an unknown key inside", trust_text(scene, release=f'{{ signers = ["{PUBLISHER.vkey}"], pin = [] }}')),
        ("without a directory signer", trust_text(scene, directory_signers="[]")),
        ("without a release signer", trust_text(scene, release="{ signers = [] }")),
        ("with a signer that is no key", trust_text(scene, directory_signers='["somebody"]')),
        ("with tier 4", trust_text(scene, min_tier="4")),
        ("with a tier as text", trust_text(scene, min_tier='"1"')),
        ("with five candidates", trust_text(scene, candidates="5")),
        ("with another suite", trust_text(scene, suites='["0020000100020101"]')),
        ("with evidence of two days", trust_text(scene, max_evidence_age_s="172800")),
        ("with tier 2 and no quorum", trust_text(scene, min_tier="2", log_policy='"""\n' + policy("none") + '"""')),
        ("with tier 2 and no release", trust_text(scene, min_tier="2", release="")),
        ("with PCR 16", trust_text(scene, tpm2="{ runtime_pcr = 16 }")),
        ("with a log policy without a quorum", trust_text(scene, log_policy=f'"log {LOG.vkey}\\n"')),
        ("that is no TOML", "version = 1\n["),
    ):
        yield f"trust file {name}", "trust_file", "configuration", {"trust": text}


def cases(scene: Scene) -> Iterator[Made]:
    """Yield name, kind, outcome and input of every case of sections 11 and 12."""
    yield from verify_cases(scene)
    yield from software_cases(scene)
    yield from file_cases(scene)
    yield from receipt_cases(scene)
