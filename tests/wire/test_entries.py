"""Log entries: what a role signs opens as it was; what differs by one field, line or spelling does not."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from hybrid.wire import entries
from hybrid.wire.canonical import canonical_json
from hybrid.wire.encoding import digest
from hybrid.wire.entries import (
    REASONS,
    DirectoryEntry,
    Entry,
    ModelEntryNote,
    RevokeEntry,
    entry_digest,
    kind_of,
    open_entry,
)
from hybrid.wire.errors import Malformed, NonCanonical, Oversized, SignatureFailure
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteSigner, NoteVerifier, append_signatures
from hybrid.wire.release import ReleaseEntry, SnpMeasurement

SIGNER = NoteSigner.from_seed("publisher.example/release", b"\x01" * 32)
KEY = NoteVerifier.parse(SIGNER.vkey)
HEX = {length: "ab" * length for length in (20, 32, 48)}

RELEASE = ReleaseEntry(
    name="hybrid-pcc",
    version="1.2.0+build.5",
    source_commit=HEX[20],
    artefacts={"hybrid_pcc-1.2.0-py3-none-any.whl": HEX[32]},
    sbom=HEX[32],
    measurements={
        "sev-snp": (SnpMeasurement(HEX[48]), SnpMeasurement(HEX[48], {4: HEX[32], 11: HEX[32]})),
        "tpm2": ({4: HEX[32], 7: HEX[32]},),
    },
    configs={"default": HEX[32]},
    issued=1_700_000_000,
    expires=1_700_000_000 + 180 * 86_400,
)
ENTRIES: dict[str, Entry] = {
    "release": RELEASE,
    "model": ModelEntryNote(
        model_id="org/model-4b", manifest=b"\x02" * 32, licence="Apache-2.0", context=32_768, issued=1_700_000_000
    ),
    "directory": DirectoryEntry(deployment="pcc.example.com", epoch=7, seq=1, directory_id=b"\x03" * 32, nodes=20),
    "revoke": RevokeEntry(target=b"\x04" * 32, reason=REASONS[0], issued=1_700_000_000),
}
OTHER: dict[str, Any] = {
    "name": "other", "version": "1.2.1", "source_commit": "cd" * 32, "artefacts": {"b": HEX[32]}, "sbom": "cd" * 32,
    "measurements": {"sev-snp": (), "tpm2": ()}, "configs": {}, "issued": 1_700_000_001, "expires": 1_700_000_001,
    "model_id": "other", "manifest": b"\x05" * 32, "licence": "MIT", "context": 1, "deployment": "other.example",
    "epoch": 8, "seq": 2, "directory_id": b"\x05" * 32, "nodes": 21, "target": b"\x05" * 32, "reason": REASONS[1],
}  # fmt: skip


def words(kind: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(entries.sign(ENTRIES[kind], SIGNER).split(b"\n")[1])
    return loaded


def signed(kind: str, fields_: object) -> bytes:
    """Sign any words, also those that ``sign`` refuses."""
    return SIGNER.sign(f"hpcc/1 {kind}\n{json.dumps(fields_, sort_keys=True, separators=(',', ':'))}\n")


# --- what is signed -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_opens_as_it_was_signed(kind: str) -> None:
    data = entries.sign(ENTRIES[kind], SIGNER)
    assert open_entry(data, KEY) == ENTRIES[kind]
    assert kind_of(data) == kind
    assert data.split(b"\n")[:2] == [f"hpcc/1 {kind}".encode(), canonical_json(words(kind))]
    assert signed(kind, words(kind)) == data  # control: the tests below sign as the product does


@pytest.mark.parametrize(("kind", "name"), [(kind, field.name) for kind in ENTRIES for field in fields(ENTRIES[kind])])
def test_every_field_is_in_the_words_that_are_signed(kind: str, name: str) -> None:
    changed: Any = replace(ENTRIES[kind], **{name: OTHER[name]})
    data = entries.sign(changed, SIGNER)
    assert open_entry(data, KEY) == changed != ENTRIES[kind]
    assert entry_digest(data) != entry_digest(entries.sign(ENTRIES[kind], SIGNER))


@pytest.mark.parametrize("kind", ENTRIES)
def test_no_byte_of_an_entry_may_change(kind: str) -> None:
    data = entries.sign(ENTRIES[kind], SIGNER)
    for at in range(len(data)):
        with pytest.raises((Malformed, SignatureFailure)):
            open_entry(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], KEY)


def test_an_entry_has_exactly_one_signature_line_and_one_digest_under_all_its_leaf_hashes() -> None:
    data = entries.sign(RELEASE, SIGNER)
    line = NoteSigner.generate("other").sign(data.decode().split("\n\n")[0] + "\n").decode().rpartition("\n\n")[2]
    again = append_signatures(data, [line])
    assert leaf_hash(again) != leaf_hash(data)
    for read in (kind_of, entry_digest, lambda data: open_entry(data, KEY)):
        with pytest.raises(Malformed):
            read(again)
    assert entry_digest(data) == digest("entry", data.split(b"\n\n")[0] + b"\n")
    assert entry_digest(entries.sign(RELEASE, NoteSigner.generate("another"))) == entry_digest(data)


def test_an_entry_of_another_key_is_refused() -> None:
    with pytest.raises(SignatureFailure):
        open_entry(entries.sign(RELEASE, NoteSigner.generate(SIGNER.name)), KEY)


# --- what is no entry, however well signed ------------------------------------------------------


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_field_that_is_missing_unknown_or_of_another_type_is_malformed(kind: str) -> None:
    good = words(kind)
    wrong: list[object] = [{**good, "extra": 1}, [], "words", 1]
    wrong += [{name: value for name, value in good.items() if name != gone} for gone in good]
    wrong += [{**good, name: value} for name in good for value in (None, True, -1, 1.5, [1], "\n", "", {"a": 1})]
    assert open_entry(signed(kind, good), KEY) == ENTRIES[kind]
    for each in wrong:
        with pytest.raises(Malformed):
            open_entry(signed(kind, each), KEY)


@pytest.mark.parametrize(
    "text",
    [
        "hpcc/1 release\n",
        "hpcc/1 release\n\n",
        "hpcc/1 gossip\n{}\n",
        "hpcc/2 directory\n{words}\n",
        "hpcc/1 directory \n{words}\n",
        "hpcc/1 model\n{words}\n",
        "hpcc/1 directory\n{words} \n",
        "hpcc/1 directory\n {words}\n",
        "hpcc/1 directory\n{words}\nmore\n",
        "hpcc/1 directory\n\n{words}\n",
        "{words}\n",
    ],
)
def test_lines_in_another_form_are_no_entry(text: str) -> None:
    good = canonical_json(words("directory")).decode()
    with pytest.raises(Malformed):
        open_entry(SIGNER.sign(text.replace("{words}", good)), KEY)


def test_json_in_another_spelling_is_refused() -> None:
    good = canonical_json(words("directory")).decode()
    doubled = good.replace('{"deployment"', '{"deployment":"x.example","deployment"')
    for spelled in (good.replace(":7", ":7.0"), good.replace(",", ", "), good.replace("pcc", "\\u0070cc"), doubled):
        with pytest.raises((NonCanonical, Malformed)):
            open_entry(SIGNER.sign(f"hpcc/1 directory\n{spelled}\n"), KEY)


def with_measured(sev_snp: object, tpm2: object) -> dict[str, Any]:
    return {**words("release"), "measurements": {"sev-snp": sev_snp, "tpm2": tpm2}}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("release", {"expires": 1_700_000_000}),
        ("release", {"expires": 1_700_000_000 + 180 * 86_400 + 1}),
        ("release", {"source_commit": "ab" * 21}),
        ("release", {"source_commit": "AB" * 20}),
        ("release", {"sbom": "ab" * 31}),
        ("release", {"artefacts": {"wheel": "ab"}}),
        ("release", {"configs": {"default": 5}}),
        ("release", {"measurements": {"sev-snp": []}}),
        ("release", {"measurements": {"sev-snp": [], "tpm2": [], "tdx": []}}),
        ("release", with_measured([HEX[32]], [])),
        ("release", with_measured([{"measurement": HEX[48]}], [])),
        ("release", with_measured([{"measurement": HEX[48], "pcrs": {}}], [])),
        ("release", with_measured([{"measurement": HEX[48], "pcrs": {"4": HEX[32]}, "more": 1}], [])),
        ("release", with_measured([], [{}])),
        ("release", with_measured([], [{"24": HEX[32]}])),
        ("release", with_measured([], [{"04": HEX[32]}])),
        ("release", with_measured([], [{"4": HEX[20]}])),
        ("model", {"manifest": "ab" * 31}),
        ("model", {"manifest": "AB" * 32}),
        ("model", {"model_id": "no spaces"}),
        ("directory", {"deployment": "Upper.example"}),
        ("directory", {"directory_id": "ab" * 33}),
        ("revoke", {"reason": "because"}),
        ("revoke", {"target": "zz" * 32}),
    ],
)
def test_values_outside_their_range_are_malformed(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        open_entry(signed(kind, {**words(kind), **change}), KEY)


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(RELEASE, expires=RELEASE.issued),
        lambda: replace(RELEASE, measurements={"sev-snp": [SnpMeasurement(HEX[48])], "tpm2": ()}),  # type: ignore[typeddict-item]
        lambda: replace(RELEASE, sbom=HEX[32].upper()),
        lambda: replace(RELEASE, version=""),
        lambda: RevokeEntry(target=b"short", reason=REASONS[0], issued=1),
        lambda: RevokeEntry(target=bytes(32), reason="because", issued=1),
        lambda: DirectoryEntry(deployment="A", epoch=1, seq=1, directory_id=bytes(32), nodes=1),
    ],
)
def test_what_would_not_open_is_not_signed(make: Callable[[], Entry]) -> None:
    with pytest.raises(Malformed):
        entries.sign(make(), SIGNER)


def test_an_entry_has_at_most_16_kib() -> None:
    large = replace(RELEASE, artefacts={f"file-{number}": HEX[32] for number in range(250)})
    with pytest.raises(Oversized):
        entries.sign(large, SIGNER)
    for read in (kind_of, entry_digest, lambda data: open_entry(data, KEY)):
        with pytest.raises(Oversized):
            read(bytes(16_385))
