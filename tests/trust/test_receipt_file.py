"""R10 of SPEC B1: a stored receipt verifies years later without a network, and no part of it can be changed."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from hybrid.trust.checks import CheckStatus
from hybrid.trust.policy import Policy
from hybrid.trust.receipt_file import ReceiptFile
from hybrid.trust.reverify import Verdict, reverify
from hybrid.trust.verify import _ONLY_HERE, VerifiedNode
from hybrid.wire.canonical import canonical_json, decode_canonical_json
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.directory import Directory
from hybrid.wire.encoding import digest
from hybrid.wire.entries import entry_digest
from hybrid.wire.envelope import Candidate, RequestOpener, RequestSealer
from hybrid.wire.errors import WireError
from hybrid.wire.note import NoteSigner
from hybrid.wire.receipt import ReceiptFacts
from hybrid.wire.types import Chunk
from tests.trust.log_maker import Cloud
from tests.trust.maker import MODEL, NOW, USAGE, Maker, asked
from tests.trust.test_evidence import NONCE, nonced

YEAR_2040 = datetime(2040, 1, 1, tzinfo=UTC).timestamp()


class Answered(NamedTuple):
    file: ReceiptFile
    policy: Policy
    cloud: Maker


def answer(
    maker: Maker, node: VerifiedNode, policy: Policy, *, text: str = "hello", deadline_ms: int = 60_000
) -> ReceiptFile:
    """Seal a request to this node, let it answer, and keep what a client keeps."""
    candidate = Candidate(
        identity=node.identity, key=node.key_at(NOW), bundle_id=node.bundle_id, manifest=node.manifest
    )
    sealer = RequestSealer(
        candidates=[candidate], model_id=MODEL.model_id, directory_id=node.directory_id, deadline_ms=deadline_ms
    )
    sealed, opener = sealer.seal(asked(text))
    key = next(key for key in maker.keys if key.config.key_id == candidate.key.key_id)
    request = RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[0], index=0)
    _, reply = request.open(key)
    opener.start(reply.head)
    frames = reply.data(Chunk(text="Paris", tokens=1)) + reply.usage(USAGE)
    facts = ReceiptFacts(model_id=MODEL.model_id, manifest=MODEL.manifest, usage=USAGE, finish=USAGE.finish)
    last, final = reply.finish(facts, maker.identity, now=lambda: NOW + 20)
    for at in range(0, len(frames + last), FRAME_BYTES):
        opener.push((frames + last)[at : at + FRAME_BYTES])
    receipt = opener.finish(final)
    return ReceiptFile.of(
        node,
        policy,
        header=sealed.header,
        body=digest("body", sealed.body),
        head=reply.head,
        receipt=receipt.encode(),
        at=NOW + 0.7,
    )


def answered(cloud: Cloud | None = None, **policy: Any) -> Answered:
    cloud = cloud or Cloud()
    trust = cloud.policy(**policy)
    (node,) = cloud.check(cloud.publish(), **policy).nodes
    return Answered(answer(cloud, node, trust), trust, cloud)


@pytest.fixture(scope="module")
def kept() -> Answered:
    return answered()


def failing(verdict: Verdict) -> str:
    failed = [check.name for check in verdict.checks if check.status is CheckStatus.FAIL]
    assert len(failed) == 1
    assert verdict.verdict == "failed"
    return failed[0]


def test_r10_a_receipt_verifies_in_2040_under_the_verifiers_own_trust(kept: Answered) -> None:
    file = ReceiptFile.decode(kept.file.encode())
    verdict = reverify(file, kept.policy, now=YEAR_2040)
    assert verdict.verdict == "verified"
    assert verdict.tier_words == "tpm2, NOT private from the operator"
    names = [check.name for check in verdict.checks]
    assert names.index("log.note") < names.index("bundle.signature") < names.index("tpm2.signature")
    assert names[-7:] == [
        "receipt.request",
        "receipt.transcript",
        "receipt.final",
        "receipt.model",
        "receipt.usage",
        "receipt.signature",
        "receipt.time",
    ]
    skipped = {check.name for check in verdict.checks if check.status is CheckStatus.SKIP}
    assert {"directory.unique", "directory.intact", "receipt.transcript", "receipt.usage"} <= skipped


def test_a_receipt_of_a_confidential_node_and_of_tier_zero_verify(confidential: Cloud) -> None:
    file, policy, _ = answered(confidential)
    assert reverify(file, policy, now=YEAR_2040).tier_words == "sev-snp, private from the operator"
    maker = Maker()
    (node,) = maker.verified().nodes
    pinned = answer(maker, node, maker.policy())
    assert reverify(ReceiptFile.decode(pinned.encode()), maker.policy(), now=YEAR_2040).verdict == "verified"


def test_a_receipt_with_a_nonce_verifies() -> None:
    cloud = Cloud()
    bundle = cloud.node()
    kw: dict[str, Any] = {"freshness": "nonce"}
    (node,) = cloud.check(cloud.publish(cloud.listed(bundle)), nonces=[nonced(cloud, bundle)], **kw).nodes
    file = ReceiptFile.decode(answer(cloud, node, cloud.policy(**kw)).encode())
    assert file.proof.nonce is not None
    assert file.proof.nonce.nonce == NONCE
    assert reverify(file, cloud.policy(**kw), now=YEAR_2040).verdict == "verified"
    without = replace(file, proof=replace(file.proof, nonce=None))
    assert failing(reverify(without, cloud.policy(**kw), now=YEAR_2040)) == "evidence.fresh"


def test_no_content_is_in_the_file() -> None:
    canary = "canary-7f3a91"
    cloud = Cloud()
    (node,) = cloud.check(cloud.publish()).nodes
    data = answer(cloud, node, cloud.policy(), text=canary).encode()
    assert canary.encode() not in data
    assert b"Paris" not in data


# --- whose trust ----------------------------------------------------------------------------------


def test_a_file_that_only_agrees_with_itself_is_self_described(kept: Answered) -> None:
    stranger = Cloud()
    verdict = reverify(kept.file, stranger.policy(), now=YEAR_2040)
    assert verdict.verdict == "self-described"
    assert verdict.agreeing == ()
    assert any(check.status is CheckStatus.FAIL for check in verdict.checks)
    assert reverify(kept.file, None, now=YEAR_2040).verdict == "self-described"


def test_the_verdict_says_which_keys_of_today_still_agree(kept: Answered) -> None:
    rotated = replace(kept.policy, directory_signers=(NoteSigner.generate("x/directory").vkey,))
    verdict = reverify(kept.file, rotated, now=YEAR_2040)
    assert verdict.verdict == "self-described"
    assert verdict.agreeing == (
        "release publisher.example/release",
        "models publisher.example/models",
        "log pcc.example.com/log",
        "witness w1.example/w",
        "witness w2.example/w",
    )
    assert len(reverify(kept.file, kept.policy, now=YEAR_2040).agreeing) == 6


def test_todays_denials_count(kept: Answered) -> None:
    assert isinstance(kept.cloud, Cloud)
    assert kept.policy.release is not None
    entry = kept.cloud.log.entries[kept.cloud.release_at]
    denied = replace(kept.policy, release=replace(kept.policy.release, deny=(entry_digest(entry).hex(),)))
    verdict = reverify(kept.file, denied, now=YEAR_2040)
    assert verdict.verdict == "self-described"
    assert [c.name for c in verdict.checks if c.status is CheckStatus.FAIL] == ["release.valid"]


@pytest.mark.parametrize("trust", ["", "version = 1\n", "no toml ["])
def test_a_file_without_a_trust_of_its_own_fails_where_todays_does(kept: Answered, trust: str) -> None:
    file = replace(kept.file, trust=trust)
    assert reverify(file, kept.policy, now=YEAR_2040).verdict == "verified"
    assert reverify(file, Cloud().policy(), now=YEAR_2040).verdict == "failed"


def test_a_node_that_only_its_own_key_vouches_for_is_not_verified_by_a_directory_that_does_not_list_it() -> None:
    """Everybody can fetch a directory's entry, and make a software bundle and a receipt beside it."""
    honest, stranger = Maker(), Maker()
    (node,) = honest.verified().nodes
    (own,) = stranger.verified().nodes
    good = answer(honest, node, honest.policy())
    assert reverify(good, honest.policy(), now=YEAR_2040).verdict == "verified"
    forged = answer(stranger, stolen(own, node.directory_id), honest.policy())
    proof = replace(forged.proof, entry=good.proof.entry)
    for directory in (good.proof.directory, forged.proof.directory, b"", b"no directory"):
        file = replace(forged, proof=replace(proof, directory=directory))
        assert failing(reverify(file, honest.policy(), now=YEAR_2040)).startswith("directory.")


def stolen(node: VerifiedNode, directory_id: bytes) -> VerifiedNode:
    return replace(node, directory_id=directory_id, token=_ONLY_HERE)


def test_a_receipt_keeps_the_directory_only_where_nothing_else_vouches_for_the_node(kept: Answered) -> None:
    assert not kept.file.proof.directory
    unbound = replace(kept.file, proof=replace(kept.file.proof, directory=b"x"))
    assert failing(reverify(unbound, kept.policy, now=YEAR_2040)) == "directory.intact"
    maker = Maker()
    (node,) = maker.verified().nodes
    assert node.proof.directory == maker_directory(node)


def maker_directory(node: VerifiedNode) -> bytes:
    directory = Directory.decode(node.proof.directory)
    assert directory.id == node.directory_id
    assert [listed.bundle.raw for listed in directory.nodes] == [node.proof.bundle]
    return directory.raw


# --- tampering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [-165, 0, 150])
def test_the_moment_of_sealing_fits_the_minute_of_the_answer(late: int) -> None:
    maker = Maker()
    (node,) = maker.verified().nodes
    file = answer(maker, node, maker.policy(), deadline_ms=15_000)
    minute = int(NOW + 20) // 60 * 60
    assert reverify(replace(file, sealed_at=minute + late), maker.policy(), now=YEAR_2040).verdict == "verified"
    beyond = replace(file, sealed_at=minute + late + (1 if late > 0 else -1 if late < 0 else 10**6))
    assert failing(reverify(beyond, maker.policy(), now=YEAR_2040)) == ("receipt.time" if late else "directory.current")


def test_a_receipt_of_the_future_is_refused(kept: Answered) -> None:
    assert reverify(kept.file, kept.policy, now=NOW - 80).verdict == "verified"
    assert failing(reverify(kept.file, kept.policy, now=NOW - 100)) == "receipt.time"


@pytest.mark.parametrize("name", ["header", "body", "receipt", "head"])
def test_r10_every_byte_of_request_and_receipt_counts(name: str, kept: Answered) -> None:
    data: bytes = getattr(kept.file, name)
    end = 33 if name == "head" else len(data)  # what follows in the head is bound by the reply's own secret
    for at in range(0, end, 1 if end < 600 else 41):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        verdict = reverify(replace(kept.file, **{name: changed}), kept.policy, now=YEAR_2040)
        assert failing(verdict).startswith(("receipt.", "directory.signature"))
    for changed in (data[:-1], data + b"\0"):
        assert reverify(replace(kept.file, **{name: changed}), kept.policy, now=YEAR_2040).verdict == "failed"


@pytest.mark.parametrize("name", ["bundle", "entry", "checkpoint"])
def test_r10_every_byte_of_evidence_and_log_counts(name: str, kept: Answered) -> None:
    data: bytes = getattr(kept.file.proof, name)
    for at in range(0, len(data), 211):
        changed = replace(kept.file.proof, **{name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]})
        assert failing(reverify(replace(kept.file, proof=changed), kept.policy, now=YEAR_2040))


def test_the_parts_of_another_answer_do_not_fit(kept: Answered) -> None:
    cloud = kept.cloud
    assert isinstance(cloud, Cloud)
    other = answered(Cloud())
    for name in ("header", "body", "head", "receipt"):
        mixed = replace(kept.file, **{name: getattr(other.file, name)})
        assert failing(reverify(mixed, kept.policy, now=YEAR_2040))
    assert reverify(replace(kept.file, proof=other.file.proof), kept.policy, now=YEAR_2040).verdict == "failed"


def test_a_leaf_that_names_no_checkpoint_of_the_file_fails_by_name(kept: Answered) -> None:
    leaves = tuple(replace(leaf, checkpoint_no=7) for leaf in kept.file.proof.leaves)
    proof = replace(kept.file.proof, leaves=leaves)
    assert failing(reverify(replace(kept.file, proof=proof), kept.policy, now=YEAR_2040)) == "release.logged"


# --- the file itself ------------------------------------------------------------------------------


def test_a_file_reads_back_as_it_was_written(kept: Answered) -> None:
    again = ReceiptFile.decode(kept.file.encode())
    assert again.encode() == kept.file.encode()
    for field in fields(ReceiptFile):
        if field.name != "proof":
            assert getattr(again, field.name) == getattr(kept.file, field.name)
    assert again.proof == kept.file.proof


def test_a_file_is_read_strictly(kept: Answered) -> None:
    data = kept.file.encode()
    value: Any = decode_canonical_json(data, limit=10**7)
    bad: list[Any] = [{**value, "more": 1}, {**value, "kind": "x"}, {**value, "sealed_at": -1}, [], "x"]
    bad += [{k: v for k, v in value.items() if k != name} for name in value]
    bad += [{**value, name: 7} for name in value if name != "sealed_at"]
    proof = value["proof"]
    bad += [{**value, "proof": {k: v for k, v in proof.items() if k != name}} for name in proof]
    bad += [{**value, "proof": {**proof, name: 7}} for name in proof]
    bad += [{**value, "proof": {**proof, "tiles": {"../x": ""}}}, {**value, "proof": {**proof, "peer": "?"}}]
    bad += [{**value, "results": [["a", "maybe", ""]]}, {**value, "body": ""}]
    for case in bad:
        with pytest.raises(WireError):
            ReceiptFile.decode(canonical_json(case))
    for raw in (data + b"\n", b" " + data, b"", b"\xff", data[:-1]):
        with pytest.raises(WireError):
            ReceiptFile.decode(raw)
