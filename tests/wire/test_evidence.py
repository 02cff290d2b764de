"""Bundles, what evidence binds, directories and their entries (SPEC 3, 4, 5)."""

from dataclasses import replace
from typing import Any

import pytest

from hybrid.wire.constants import MAX_LEAF_BYTES
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.encoding import digest512, u8
from hybrid.wire.entries import DirectoryEntry, open_entry
from hybrid.wire.errors import Malformed, NonCanonical, Oversized, SignatureFailure, WireError
from hybrid.wire.evidence import Accelerator, Bundle, EvidenceItem, ModelEntry, Statement, binding, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.note import NoteSigner, NoteVerifier
from tests.wire.support import EPOCH, EPOCH_S, own_leaf, statement, worker

SIGNER = NoteSigner.generate("example.org/directory")
VERIFIER = NoteVerifier.parse(SIGNER.vkey)


def _directory(**changes: Any) -> Directory:
    values: dict[str, Any] = {
        "deployment": "example.org",
        "epoch": EPOCH,
        "epoch_s": EPOCH_S,
        "nodes": (ListedNode(weight=1, bundle=worker(0).bundle),),
    }
    return Directory(**{**values, **changes})


def test_a_bundle_keeps_statement_items_and_bytes() -> None:
    one = worker(0)
    bundle = Bundle.decode(one.bundle.raw)
    bundle.verify_signature()
    assert bundle.statement == statement(one.identity, one.epoch_key)
    assert bundle.statement_bytes == bundle.statement.encode()
    assert bundle.items == (EvidenceItem(format="software"),)


def test_any_flipped_byte_of_a_bundle_is_refused() -> None:
    raw = worker(0).bundle.raw
    for at in range(len(raw)):
        changed = raw[:at] + bytes((raw[at] ^ 0x01,)) + raw[at + 1 :]
        with pytest.raises((Malformed, SignatureFailure)):
            Bundle.decode(changed).verify_signature()


def test_a_statement_signed_by_another_identity_is_refused() -> None:
    one = worker(0)
    stolen = make_bundle(statement(one.identity, one.epoch_key), [EvidenceItem(format="software")], worker(1).identity)
    with pytest.raises(SignatureFailure):
        Bundle.decode(stolen).verify_signature()


MODEL_ENTRY = ModelEntry(model_id="m", manifest=bytes(32), context_tokens=1, max_output_tokens=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"deployment": "Example.org"},
        {"deployment": "-example.org"},
        {"deployment": ""},
        {"keys": ()},
        {"keys": (worker(0).epoch_key.config,) * 4},
        {"models": ()},
        {"models": (MODEL_ENTRY, MODEL_ENTRY)},
        {"models": (replace(MODEL_ENTRY, model_id=""),)},
        {"models": (replace(MODEL_ENTRY, model_id="a b"),)},
        {"models": (replace(MODEL_ENTRY, context_tokens=2**32),)},
        {"config_digest": bytes(31)},
        {"accelerator": 3},
        {"formats": ()},
        {"formats": ("software", "software")},
        {"formats": ("a", "b", "c", "d", "e")},
    ],
)
def test_a_statement_outside_its_limits_is_neither_made_nor_read(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        statement(worker(0).identity, worker(0).epoch_key, **changes).encode()


def test_a_bundle_beyond_32_kib_is_not_made() -> None:
    one = worker(0)
    with pytest.raises(Oversized):
        make_bundle(
            statement(one.identity, one.epoch_key), [EvidenceItem(format="software", item=bytes(32_768))], one.identity
        )


def test_every_field_of_a_statement_changes_the_binding() -> None:
    identity, epoch_key = IdentityKey.generate(), EpochKey.generate(EPOCH, EPOCH_S)
    base = statement(identity, epoch_key)
    changes: list[dict[str, Any]] = [
        {"deployment": "example.net"},
        {"identity": worker(0).identity.public},
        {"not_before": base.not_before + 1},
        {"not_after": base.not_after + 1},
        {"keys": (replace(base.keys[0], epoch=EPOCH + 1),)},
        {"models": (replace(base.models[0], manifest=bytes(32)),)},
        {"release_leaf": b"\x01" * 32},
        {"config_digest": b"\x01" * 32},
        {"accelerator": Accelerator.GPU},
        {"checkpoint_digest": b"\x01" * 32},
        {"formats": ("tpm2",)},
    ]
    assert {name for change in changes for name in change} == set(Statement.__slots__)
    bindings = {binding(replace(base, **change).encode(), [], "tpm2") for change in changes}
    assert len(bindings | {binding(base.encode(), [], "tpm2")}) == len(changes) + 1


def test_a_binding_covers_items_before_it_their_order_and_its_format() -> None:
    data = worker(0).bundle.statement_bytes
    first, second = EvidenceItem(format="nvidia-cc", item=b"gpu"), EvidenceItem(format="tpm2", item=b"tpm")
    bindings = {
        binding(data, before, format_name)
        for before in ([], [first], [second], [first, second], [second, first], [replace(first, item=b"GPU")])
        for format_name in ("sev-snp", "tpm2")
    }
    assert len(bindings) == 12
    assert binding(data, [], "tpm2") == digest512("evidence", data, u8(0), b"tpm2")


def test_a_directory_reads_back_and_its_entry_names_it() -> None:
    listed = _directory(seq=3)
    assert Directory.decode(listed.encode()) == listed
    entry = open_entry(own_leaf(listed, SIGNER).entry, VERIFIER)
    assert isinstance(entry, DirectoryEntry)
    assert entry == listed.entry()
    assert (entry.deployment, entry.epoch, entry.seq, entry.nodes) == ("example.org", EPOCH, 3, 1)
    assert entry.directory_id == listed.id


def test_a_directory_with_checkpoints_and_leaves_reads_back() -> None:
    leaf = Leaf(entry=b"release", checkpoint_no=1, index=9, hashes=(b"\x01" * 32,) * 3)
    listed = _directory(checkpoints=(b"old", b"new"), leaves=(leaf,))
    assert Directory.decode(listed.raw) == listed
    with pytest.raises(Malformed):
        _directory(checkpoints=(b"old",), leaves=(leaf,))


def test_a_bundle_that_does_not_decode_is_set_aside_with_its_weight() -> None:
    listed = _directory(nodes=tuple(ListedNode(weight=5, bundle=worker(n).bundle) for n in range(2)))
    at = listed.raw.index(b"HBN1")
    broken = Directory.decode(listed.raw[:at] + b"HBN9" + listed.raw[at + 4 :])
    assert [node.bundle.id for node in broken.nodes] == [worker(1).bundle.id]
    assert [node.weight for node in broken.unreadable] == [5]
    assert broken.id != listed.id


@pytest.mark.parametrize("weight", [0, 1001])
def test_a_weight_outside_its_range_is_refused(weight: int) -> None:
    with pytest.raises(Malformed):
        _directory(nodes=(ListedNode(weight=weight, bundle=worker(0).bundle),))


def test_a_directory_without_nodes_is_refused() -> None:
    with pytest.raises(Malformed):
        _directory(nodes=())


def test_an_entry_of_another_signer_is_refused() -> None:
    leaf = own_leaf(_directory(), NoteSigner.generate("example.org/directory"))
    with pytest.raises(SignatureFailure):
        open_entry(leaf.entry, VERIFIER)


def test_a_directorys_own_leaf_names_the_checkpoint_beside_it() -> None:
    own = own_leaf(_directory(), SIGNER)
    assert Leaf.decode_own(own.encode()) == own
    with pytest.raises(Malformed):
        Leaf.decode_own(replace(own, checkpoint_no=0).encode())
    with pytest.raises(Oversized):
        Leaf.decode_own(bytes(MAX_LEAF_BYTES + 1))


def test_any_flipped_byte_of_an_own_leaf_is_refused() -> None:
    leaf = own_leaf(_directory(), SIGNER).encode()
    unsigned = {*range(len(leaf) - 9, len(leaf) - 1)}  # the index: bound by the proof, once there is a log
    for at in set(range(len(leaf))) - unsigned:
        with pytest.raises(WireError):
            open_entry(Leaf.decode_own(leaf[:at] + bytes((leaf[at] ^ 0x01,)) + leaf[at + 1 :]).entry, VERIFIER)


def test_a_note_key_reads_back_and_keeps_its_hash() -> None:
    assert NoteVerifier.parse(SIGNER.vkey).vkey == SIGNER.vkey
    name, key_hash, key = SIGNER.vkey.split("+", 2)
    for broken in (f"{name}+00000000+{key}", f"other+{key_hash}+{key}", f"{name}+{key_hash.upper()}+{key}x", name, ""):
        with pytest.raises(Malformed):
            NoteVerifier.parse(broken)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "tab\tname", "bell\x07"])
def test_a_note_key_has_a_plain_name(name: str) -> None:
    with pytest.raises(Malformed):
        NoteSigner.generate(name)


def test_a_note_signed_twice_by_the_same_name_needs_every_own_line_to_verify() -> None:
    note = SIGNER.sign("text\n")
    line = note.rpartition(b"\n\n")[2]
    forged = SIGNER.sign("other\n").rpartition(b"\n\n")[2]
    assert VERIFIER.open(note + line) == "text\n"
    with pytest.raises(SignatureFailure):
        VERIFIER.open(note + forged)


def test_base64_with_spare_bits_is_not_canonical() -> None:
    note = SIGNER.sign("text\n")
    head, tail = note.rstrip(b"=\n"), note[len(note.rstrip(b"=\n")) :]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spelled = head[:-1] + alphabet[alphabet.index(head[-1]) + 1 :][:1] + tail
    with pytest.raises(NonCanonical):
        VERIFIER.open(spelled)
