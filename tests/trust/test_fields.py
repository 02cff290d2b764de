"""Every field of everything a client acts on is covered: swapping one without signing again is caught, by name.

The fields come from the definitions themselves, so one that is added without a row here fails.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from hybrid.errors import AttestationError
from hybrid.wire.canonical import canonical_json
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.encoding import u8, u32, u64, v1, v4
from hybrid.wire.entries import DirectoryEntry, Entry, ModelEntryNote
from hybrid.wire.evidence import NO_LOG, Accelerator, Bundle, ModelEntry, Statement
from hybrid.wire.keys import EpochKey, Identity, IdentityKey, KeyConfig
from hybrid.wire.release import ReleaseEntry, SnpMeasurement
from tests.trust.log_maker import Cloud, model_note, release
from tests.trust.maker import EPOCH, EPOCH_S, MODEL

OTHER = IdentityKey.generate().public
OTHER_KEY = EpochKey.generate(EPOCH, EPOCH_S).config
DIGEST = b"\x07" * 32

# field -> another value that decodes, so that only signatures and evidence can tell
ROWS: dict[type, dict[str, Callable[[Any], Any]]] = {
    Statement: {
        "deployment": lambda _: "other.example.com",
        "identity": lambda _: OTHER,
        "not_before": lambda old: old - 1,
        "not_after": lambda old: old + 1,
        "keys": lambda old: old[:1],
        "models": lambda old: (*old, replace(MODEL, model_id="more")),
        "release_leaf": lambda _: DIGEST,
        "config_digest": lambda _: DIGEST,
        "accelerator": lambda _: Accelerator.APPLE_GPU,
        "checkpoint_digest": lambda _: NO_LOG,
        "formats": lambda _: ("software",),
    },
    KeyConfig: {
        "suite": lambda _: bytes.fromhex("647a000100020102"),
        "epoch": lambda old: old + 5,
        "epoch_s": lambda _: 600,
        "mlkem_pk": lambda _: OTHER_KEY.mlkem_pk,
        "x25519_pk": lambda _: OTHER_KEY.x25519_pk,
    },
    Identity: {"ed25519_pk": lambda _: OTHER.ed25519_pk, "mldsa65_pk": lambda _: OTHER.mldsa65_pk},
    ModelEntry: {
        "model_id": lambda _: "other",
        "manifest": lambda _: DIGEST,
        "context_tokens": lambda old: old + 1,
        "max_output_tokens": lambda old: old + 1,
    },
    Directory: {
        "deployment": lambda _: "other.example.com",
        "epoch": lambda old: old + 1,
        "epoch_s": lambda _: 600,
        "seq": lambda old: old + 1,
        "checkpoints": lambda old: (*old, old[0]),
        "leaves": lambda old: old[:1],
        "nodes": lambda old: (*old, old[0]),
        "unreadable": lambda _: True,  # made below: a node whose bundle does not decode
        "raw": lambda old: old[:-1] + bytes([old[-1] ^ 1]),
    },
    ListedNode: {"weight": lambda old: old + 1, "bundle": lambda _: Cloud().node()},
    Leaf: {
        "entry": lambda old: old.replace(b'"seq":0', b'"seq":1'),
        "checkpoint_no": lambda _: 0,
        "index": lambda old: old - 1,
        "hashes": lambda old: (DIGEST, *old[1:]),
    },
    DirectoryEntry: {
        "deployment": lambda _: "other.example.com",
        "epoch": lambda old: old + 1,
        "seq": lambda old: old + 1,
        "directory_id": lambda _: DIGEST,
        "nodes": lambda old: old + 1,
    },
    ReleaseEntry: {
        "name": lambda _: "other",
        "version": lambda _: "9",
        "source_commit": lambda _: "d" * 40,
        "artefacts": lambda _: {},
        "sbom": lambda _: "d" * 64,
        "measurements": lambda old: {**old, "sev-snp": (SnpMeasurement("d" * 96),)},
        "configs": lambda old: {**old, "more": "d" * 64},
        "issued": lambda old: old - 1,
        "expires": lambda old: old + 1,
    },
    ModelEntryNote: {
        "model_id": lambda _: "other",
        "manifest": lambda _: DIGEST,
        "licence": lambda _: "none",
        "context": lambda old: old + 1,
        "issued": lambda old: old + 1,
    },
}
CASES = [(kind, name) for kind, rows in ROWS.items() for name in rows]


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_every_field_of_the_definition_has_a_row(kind: type) -> None:
    assert {field.name for field in fields(kind)} == set(ROWS[kind])


def swapped(kind: type, name: str, value: Any) -> Any:
    changed = replace(value, **{name: ROWS[kind][name](getattr(value, name))})
    assert changed != value
    return changed


def refused(cloud: Cloud, reply: DirectoryReply) -> str:
    with pytest.raises(AttestationError) as caught:
        cloud.check(reply)
    return caught.value.check


def cases(*kinds: type) -> pytest.MarkDecorator:
    chosen = [(kind, name) for kind, name in CASES if kind in kinds]
    return pytest.mark.parametrize(("kind", "name"), chosen, ids=[f"{kind.__name__}.{name}" for kind, name in chosen])


# --- what a node says about itself ----------------------------------------------------------------


def restated(kind: type, name: str, statement: Statement) -> Statement:
    """The statement with one field swapped, also where the field is in one of its parts."""
    if kind is Statement:
        return swapped(kind, name, statement)
    if kind is KeyConfig:
        return replace(statement, keys=(swapped(kind, name, statement.keys[0]), *statement.keys[1:]))
    if kind is Identity:
        return replace(statement, identity=swapped(kind, name, statement.identity))
    return replace(statement, models=(swapped(kind, name, statement.models[0]),))


@cases(Statement, KeyConfig, Identity, ModelEntry)
def test_a_swapped_field_of_a_statement_breaks_both_signature_and_evidence(kind: type, name: str) -> None:
    cloud = Cloud()
    good = cloud.node()
    statement = restated(kind, name, good.statement)
    unsigned = b"HBN1" + v4(statement.encode()) + good.raw[8 + len(good.statement_bytes) :]
    assert refused(cloud, cloud.publish(cloud.listed(Bundle.decode(unsigned)))) == "bundle.signature"
    if "identity" not in (name, kind.__name__.lower()):
        again = cloud.spliced(
            good.statement, **{field.name: getattr(statement, field.name) for field in fields(Statement)}
        )
        named = refused(cloud, cloud.publish(cloud.listed(again, seq=1)))
        assert named == EARLIER.get((kind, name), "evidence.binding")
    assert cloud.check(cloud.publish(cloud.listed(good, seq=2))).nodes


EARLIER = {  # what an earlier check names although the node itself signed it
    (Statement, "deployment"): "bundle.deployment",
    (Statement, "formats"): "evidence.complete",
    (KeyConfig, "suite"): "keys.suite",
    (KeyConfig, "epoch"): "keys.epoch",
    (KeyConfig, "epoch_s"): "keys.epoch",
}


# --- what the directory says ----------------------------------------------------------------------


def encoded(kind: type, name: str, good: Directory) -> bytes:
    """The directory with one field swapped, encoded without asking whether it makes sense."""
    if name == "raw":
        return swapped(kind, name, good).raw
    if name == "unreadable":
        return good.raw.replace(v4(good.nodes[0].bundle.raw), v4(b"no bundle"))
    if kind is ListedNode:
        changed = replace(good, nodes=(swapped(kind, name, good.nodes[0]),))
    else:
        changed = swapped(kind, name, good)
    nodes = b"".join(node.weight.to_bytes(2, "big") + v4(node.bundle.raw) for node in changed.nodes)
    return b"".join(
        (
            b"HDY1" + v1(changed.deployment.encode()) + u64(changed.epoch) + u32(changed.epoch_s),
            changed.seq.to_bytes(2, "big"),
            u8(len(changed.checkpoints)) + b"".join(map(v4, changed.checkpoints)),
            u8(len(changed.leaves)) + b"".join(leaf.encode() for leaf in changed.leaves),
            u8(len(changed.nodes)) + nodes,
        )
    )


@cases(Directory, ListedNode)
def test_a_swapped_field_of_a_directory_is_not_what_was_signed(kind: type, name: str) -> None:
    cloud = Cloud()
    reply = cloud.publish()
    changed = encoded(kind, name, Directory.decode(reply.directory))
    assert changed != reply.directory
    assert refused(cloud, replace(reply, directory=changed)) == "directory.signature"
    assert cloud.check(reply).nodes


@cases(Leaf)
def test_a_swapped_field_of_a_leaf_is_not_what_was_logged(kind: type, name: str) -> None:
    cloud = Cloud()
    reply = cloud.publish()
    changed = swapped(kind, name, Leaf.decode(reply.leaf))
    expected = "directory.signature" if name in {"entry", "checkpoint_no"} else "directory.logged"
    assert refused(cloud, replace(reply, leaf=changed.encode())) == expected


def resigned(entry: Entry, original: bytes) -> bytes:
    """An entry with other words under the signature of the original."""
    title, words, rest = original.split(b"\n", 2)
    assert words != canonical_json(entry.fields())
    return b"\n".join((title, canonical_json(entry.fields()), rest))


@cases(DirectoryEntry)
def test_a_swapped_field_of_a_directorys_entry_is_not_what_was_signed(kind: type, name: str) -> None:
    cloud = Cloud()
    directory = cloud.listed()
    reply = cloud.publish(directory)
    leaf = Leaf.decode(reply.leaf)
    entry = resigned(swapped(kind, name, directory.entry()), leaf.entry)
    assert refused(cloud, replace(reply, leaf=replace(leaf, entry=entry).encode())) == "directory.signature"


class Dishonest(Cloud):
    """A deployment whose log took entries with one field swapped, under the old signature."""

    swap: tuple[type, str] = (Cloud, "")

    def entry(self, entry: Entry, signer: Any) -> bytes:
        good = super().entry(entry, signer)
        kind, name = self.swap
        return resigned(swapped(kind, name, entry), good) if isinstance(entry, kind) else good


@cases(ReleaseEntry, ModelEntryNote)
def test_a_swapped_field_of_a_release_or_model_is_not_what_was_signed(kind: type, name: str) -> None:
    cloud = type("Case", (Dishonest,), {"swap": (kind, name)})()
    assert refused(cloud, cloud.publish()) == ("release.signed" if kind is ReleaseEntry else "model.logged")


@cases(ReleaseEntry, ModelEntryNote)
def test_a_swapped_field_of_a_release_or_model_is_not_what_was_logged(kind: type, name: str) -> None:
    cloud = Cloud()
    leaves = list(cloud.leaves())
    at, original = (0, release()) if kind is ReleaseEntry else (1, model_note())
    leaves[at] = replace(leaves[at], entry=resigned(swapped(kind, name, original), leaves[at].entry))
    expected = "release.logged" if kind is ReleaseEntry else "model.logged"
    assert refused(cloud, cloud.publish(cloud.listed(leaves=tuple(leaves)))) == expected
