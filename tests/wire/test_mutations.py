"""10,000 random single-bit mutations each of what comes from outside: none is accepted, none raises anything untyped.

Each kind of bytes is a positive vector; what judges it is the case's own code, which is the library's.
"""

from collections import Counter
from typing import Any

import pytest

from hybrid.conformance.cases import Values, from_hex, own_cases
from hybrid.conformance.foreign import foreign_cases
from hybrid.conformance.outcomes import KINDS
from hybrid.wire import keys, reply
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.encoding import Reader
from hybrid.wire.errors import TruncatedStream, WireError
from hybrid.wire.evidence import Bundle
from hybrid.wire.header import CandidateRef
from tests.wire.mutations import ACCEPTED, REFUSED, Path, survey

COUNT = 10_000
CASES = {f"{case.suite}: {case.name}": case for case in (*own_cases(), *foreign_cases())}
TIER_1 = "trust: tier 1 with log, release, model and witnesses"

# what is mutated: the vector, and its fields
TARGETS: dict[str, tuple[str, list[Path]]] = {
    "software bundle": ("evidence: software bundle", [("bundle",)]),
    "tpm2 item": ("attestation: tpm2 item, judged", [("item",)]),
    "sev-snp report": ("sev-snp: test-report.bin with its VCEK", [("report",)]),
    "sev-snp item with its certificates": ("sev-snp: test-report.bin as an item", [("item",)]),
    "quote of a paravisor": ("az-snp-vtpm: quote over the challenge", [("runtime",), ("attest",), ("signature",)]),
    "directory": (TIER_1, [("directory",)]),
    "directory's own leaf": (TIER_1, [("leaf",)]),
    "checkpoint with its cosignatures": (TIER_1, [("checkpoint",)]),
    "release entry": ("log: release entry", [("entry",)]),
    "proof to hand on": ("log: proof to hand on", [("proof",), ("entry",)]),
    "header": ("request: request to one candidate", [("header",)]),
    "key package": ("request: request to one candidate", [("key_package",)]),
    "body": ("request: request to one candidate", [("body",)]),
    "frames": (
        "reply: reply, complete",
        [("messages", 0, "head"), ("messages", 1, "frames"), ("messages", 2, "final")],
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_no_single_bit_mutation_is_accepted_or_raises_an_untyped_error(name: str) -> None:
    vector, paths = TARGETS[name]
    assert survey(CASES[vector], paths, COUNT) == Counter({REFUSED: COUNT})


def test_a_decoder_that_ignores_a_byte_is_caught() -> None:
    """Positive control: the last byte of a signature is not looked at, and the survey says so."""

    def careless(given: Values) -> Values:
        bundle: bytes = given["bundle"]
        return KINDS["bundle"]({"bundle": bundle[:-1] + genuine[-1:]})

    case = CASES["evidence: software bundle"]
    genuine: bytes = from_hex(case.given)["bundle"]
    found = survey(case, [("bundle",)], COUNT, careless)
    assert 0 < found[ACCEPTED] < COUNT // 100
    assert found[ACCEPTED] + found[REFUSED] == COUNT


def test_an_untyped_error_is_caught() -> None:
    """Positive control: a decoder that lets Python's own error out."""

    def careless(given: Values) -> Values:
        try:
            Bundle.decode(given["bundle"])
        except WireError:
            raise IndexError("out of range") from None
        return {}

    found = survey(CASES["evidence: software bundle"], [("bundle",)], 1000, careless)
    assert any(name.startswith("untyped: IndexError") for name in found)


REPLY = CASES["reply: reply, complete"]


def _opener(given: Values) -> reply.ReplyOpener:
    expected = [
        reply.Expected(
            keys.Identity.decode(one["identity"]),
            CandidateRef(node_id=one["node_id"], ek_id=one["ek_id"], bundle_id=one["bundle_id"]),
            one["manifest"],
        )
        for one in given["candidates"]
    ]
    return reply.ReplyOpener(given["secrets"], expected, q=given["q"], model_id=given["model_id"])


def _read_cut(given: Values, at: int) -> str:
    """Read a reply of which only the first ``at`` bytes arrived; returns the name of what ended it."""
    head, frames, final = (next(iter(step.values())) for step in given["messages"])
    sent = (head + frames + final)[:at]
    try:
        opener = _opener(given)
        opener.start(sent[: len(head)])
        opener.push(sent[len(head) : len(head) + len(frames)])
        opener.finish(sent[len(head) + len(frames) :])
        opener.close()
    except WireError as error:
        return type(error).__name__
    return "a clean end"


def test_a_reply_that_is_cut_anywhere_has_no_clean_end() -> None:
    given: dict[str, Any] = from_hex(REPLY.given)
    total = sum(len(data) for step in given["messages"] for data in step.values())
    assert _read_cut(given, total) == "a clean end"
    frame_ends = {total - n * FRAME_BYTES for n in range(1, total // FRAME_BYTES + 1)}
    for at in {*range(0, total, 97), *frame_ends, *(end + 1 for end in frame_ends), *(end - 1 for end in frame_ends)}:
        assert _read_cut(given, at) != "a clean end", at


def test_a_reply_without_its_final_frame_is_truncated_and_keeps_what_came() -> None:
    given: dict[str, Any] = from_hex(REPLY.given)
    opener = _opener(given)
    opener.start(given["messages"][0]["head"])
    assert opener.push(given["messages"][1]["frames"])
    with pytest.raises(TruncatedStream):
        opener.close()


CUT = {
    "bundle": ("evidence: software bundle", "bundle"),
    "tpm2 item": ("attestation: tpm2 item", "item"),
    "sev-snp item, direct": ("attestation: sev-snp item, direct", "item"),
    "sev-snp item through a vTPM": ("attestation: sev-snp item through a vTPM", "item"),
    "attest reply": ("attestation: attest reply", "reply"),
    "checkpoint": ("log: checkpoint", "note"),
    "entry": ("log: release entry", "entry"),
    "leaf": ("log: leaf of a directory", "leaf"),
    "directory": ("directory: directory of one node", "directory"),
    "header": ("request: header with three candidates", "header"),
    "key configuration": ("keys: key configuration", "record"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_record_that_is_cut_anywhere_does_not_decode(name: str) -> None:
    vector, field = CUT[name]
    case = CASES[vector]
    given = from_hex(case.given)
    whole: bytes = given[field]
    KINDS[case.kind](given)  # positive control
    for at in {*range(0, len(whole), 31), len(whole) - 1}:
        with pytest.raises(WireError):
            KINDS[case.kind]({**given, field: whole[:at]})


def test_a_reader_that_does_not_end_would_let_a_tail_through() -> None:
    """Positive control of the strict end: without ``end`` the codec takes a record that goes on."""
    reader = Reader(b"\x01\x02")
    assert reader.u8() == 1
    with pytest.raises(WireError):
        reader.end()
