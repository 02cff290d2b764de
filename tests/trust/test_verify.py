from typing import Any

import pytest

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.trust.checks import CheckStatus
from hybrid.trust.policy import Policy
from hybrid.trust.verify import VerifiedDirectory, VerifiedNode, Verifier
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.directory import Directory, ListedNode
from hybrid.wire.evidence import Accelerator, Bundle, EvidenceItem, ModelEntry
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.note import NoteSigner
from tests.trust.maker import EPOCH_S, MODEL, NOW, SOFTWARE_ITEM, Maker, own_leaf

ORDER = [
    "log.note", "log.quorum", "log.clock", "log.rollback", "log.consistency",
    "directory.signature", "directory.logged", "directory.current", "directory.unique", "directory.intact",
    "bundle.format", "bundle.signature", "bundle.deployment", "bundle.validity", "keys.suite", "keys.epoch",
    "evidence.complete", "evidence.binding", "evidence.fresh", "tpm2.*", "snp.*",
    "release.logged", "release.signed", "release.valid", "release.measured", "config.known",
    "model.logged", "model.accepted", "tier.accelerator", "tier.software", "tier.minimum", "policy.require",
]  # fmt: skip


def verify(
    maker: Maker, reply: DirectoryReply, *, now: float = NOW, loopback: bool = True, **kw: Any
) -> VerifiedDirectory:
    held = kw.pop("held", None)
    return Verifier(maker.policy(**kw)).verify(reply, peer_is_loopback=loopback, now=now, held=held)


def refused(maker: Maker, reply: DirectoryReply, check: str, **kw: Any) -> AttestationError:
    """Assert that this reply fails exactly this check, after the untouched one has passed under the same policy."""
    control = Maker(signer=maker.signer)
    assert verify(control, control.reply()).nodes
    with pytest.raises(AttestationError) as caught:
        verify(maker, reply, **kw)
    assert caught.value.check == check
    assert caught.value.hint
    assert caught.value.left_device == "no"
    return caught.value


def test_an_untouched_node_passes_every_check_in_the_order_of_the_specification() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply()).nodes
    assert [check.name for check in node.checks] == ORDER
    assert {check.status for check in node.checks} == {CheckStatus.PASS, CheckStatus.SKIP}
    assert all(check.detail for check in node.checks if check.status is CheckStatus.SKIP)


def test_what_a_policy_without_log_and_signers_cannot_check_is_skipped_and_never_passed() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply()).nodes
    later = ("log.", "directory.logged", "directory.unique", "release.", "config.", "model.", "tpm2", "snp")
    assert {check.status for check in node.checks if check.name.startswith(later)} == {CheckStatus.SKIP}


def test_a_verified_node_carries_what_sealing_needs_and_the_words_of_its_tier() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply()).nodes
    assert node.node_id == maker.identity.public.node_id
    assert node.manifest == MODEL.manifest
    assert node.key_at(NOW) == maker.keys[0].config
    assert (node.tier, node.tier_words) == (0, "software, NOT private from the operator")


def test_a_verified_node_cannot_be_made_elsewhere() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply()).nodes
    fields = {name: getattr(node, name) for name in VerifiedNode.__dataclass_fields__ if name != "token"}
    with pytest.raises(TypeError, match="nowhere else"):
        VerifiedNode(**fields, token=object())


def test_a_directory_signed_by_another_key_is_refused() -> None:
    maker, other = Maker(), Maker()
    error = refused(maker, other.reply(), "directory.signature")
    assert "localhost/directory+" in error.expected


def test_a_directory_other_than_the_signed_one_is_refused() -> None:
    maker = Maker()
    bundle = maker.bundle()
    reply = maker.reply(bundle, weights=[1])
    other = maker.reply(bundle, weights=[2])  # agrees in everything the entry states but the digest
    refused(maker, DirectoryReply(directory=other.directory, leaf=reply.leaf), "directory.signature")
    assert verify(maker, reply).nodes


def test_a_malformed_leaf_is_refused() -> None:
    maker = Maker()
    refused(maker, DirectoryReply(directory=maker.reply().directory, leaf=b"no leaf"), "directory.signature")


@pytest.mark.parametrize("change", [{"seq": 9}, {"epoch": 1}, {"deployment": "pcc.example.com"}])
def test_an_entry_that_disagrees_with_its_directory_is_refused(change: Any) -> None:
    maker = Maker()
    directory = maker.directory()
    fields = {"deployment": "localhost", "epoch": maker.epoch, "epoch_s": EPOCH_S, "nodes": directory.nodes} | change
    lying = Directory(**fields, raw=directory.raw)  # says one thing in its fields, which are what gets signed
    refused(maker, DirectoryReply(directory=directory.raw, leaf=own_leaf(lying, maker.signer)), "directory.signature")


def test_a_directory_of_another_deployment_than_the_policy_names_is_refused() -> None:
    maker = Maker()
    refused(maker, maker.reply(), "directory.signature", deployment="pcc.example.com")


@pytest.mark.parametrize(
    ("at_s", "words"),
    [
        (-3600, "at least 3600 s slow"),
        (-91, "at least 91 s slow"),
        (2 * EPOCH_S + 91, "91 s ahead"),
        (7200, "6600 s ahead"),
    ],
)
def test_n6_a_clock_further_off_than_the_tolerance_is_told_how_far(at_s: Any, words: Any) -> None:
    maker = Maker()
    error = refused(maker, maker.reply(), "directory.current", now=maker.epoch * EPOCH_S + at_s)
    assert words in error.got


@pytest.mark.parametrize(
    "at_s", [-CLOCK_TOLERANCE_S, 0, EPOCH_S - 1, EPOCH_S, 2 * EPOCH_S, 2 * EPOCH_S + CLOCK_TOLERANCE_S]
)
def test_a_clock_within_the_tolerance_of_the_directory_is_harmless(at_s: Any) -> None:
    maker = Maker()
    assert verify(maker, maker.reply(), now=maker.epoch * EPOCH_S + at_s).nodes


def test_a_directory_older_than_the_one_in_use_is_refused() -> None:
    maker = Maker()
    held = verify(maker, maker.reply(seq=3))
    refused(maker, maker.reply(seq=2), "directory.current", held=held)
    assert verify(maker, maker.reply(seq=4), held=held).seq == 4


def test_n18_two_directories_of_one_number_are_refused() -> None:
    maker = Maker()
    first = maker.reply(seq=3)
    held = verify(maker, first)
    refused(maker, maker.reply(seq=3), "directory.unique", held=held)
    assert verify(maker, first, held=held).seq == 3


def test_a_bundle_that_does_not_decode_is_refused() -> None:
    maker = Maker()
    refused(maker, maker.with_raw_bundle(b"HBN9" + maker.bundle().raw[4:]), "bundle.format")


@pytest.mark.parametrize("place", [-1, -3309 - 1])
def test_n4_a_bundle_with_one_of_its_two_signatures_broken_is_refused(place: Any) -> None:
    maker = Maker()
    raw = bytearray(maker.bundle().raw)
    raw[place] ^= 1
    refused(maker, maker.reply(Bundle.decode(bytes(raw))), "bundle.signature")


def test_a_statement_signed_by_another_identity_is_refused() -> None:
    maker = Maker()
    stranger = Maker(signer=maker.signer)
    refused(maker, maker.reply(maker.bundle_signed_by(stranger.identity)), "bundle.signature")


def test_n5_a_bundle_of_another_deployment_is_refused() -> None:
    maker = Maker()
    refused(maker, maker.reply(maker.bundle(deployment="pcc.example.com")), "bundle.deployment")


@pytest.mark.parametrize(
    "change",
    [
        {"not_before": int(NOW) + 91, "not_after": int(NOW) + 200},
        {"not_before": int(NOW) - 400, "not_after": int(NOW) - 91},
        {"not_before": int(NOW) - 1, "not_after": int(NOW) + 2 * EPOCH_S + 90},
        {"not_before": int(NOW) + 10, "not_after": int(NOW)},
    ],
    ids=["future", "ended", "too long", "backwards"],
)
def test_n6_a_bundle_outside_its_time_or_too_long_lived_is_refused(change: Any) -> None:
    maker = Maker()
    refused(maker, maker.reply(maker.bundle(**change)), "bundle.validity")


@pytest.mark.parametrize(
    "change",
    [{"x25519_pk": bytes(32)}, {"mlkem_pk": b"\xff" * 1184}, {"suite": bytes.fromhex("647a000100030101")}],
    ids=["low order", "not reduced", "other suite"],
)
def test_n13_n23_a_key_that_cannot_be_sealed_to_is_refused(change: Any) -> None:
    maker = Maker()
    refused(maker, maker.reply(maker.bundle(keys=(maker.changed_key(**change),))), "keys.suite")


@pytest.mark.parametrize(
    "keys",
    [
        lambda e: [EpochKey.generate(e, 600)],
        lambda e: [EpochKey.generate(e, EPOCH_S), EpochKey.generate(e, EPOCH_S)],
        lambda e: [EpochKey.generate(e + 2, EPOCH_S)],
    ],
    ids=["other length", "two of one epoch", "none usable"],
)
def test_keys_of_unfit_epochs_are_refused(keys: Any) -> None:
    maker = Maker()
    configs = tuple(key.config for key in keys(maker.epoch))
    refused(maker, maker.reply(maker.bundle(keys=configs)), "keys.epoch")


@pytest.mark.parametrize("epoch_s", [179, 901])
def test_an_epoch_length_outside_the_allowed_range_is_refused(epoch_s: Any) -> None:
    maker = Maker()
    epoch = int(NOW // epoch_s)
    keys = (EpochKey.generate(epoch, epoch_s).config,)
    bundle = maker.bundle(keys=keys, not_before=int(NOW), not_after=int(NOW) + 100)
    refused(maker, maker.reply(bundle, epoch=epoch, epoch_s=epoch_s), "keys.epoch")


@pytest.mark.parametrize(
    ("formats", "items"),
    [
        (("software",), []),
        (("software",), [EvidenceItem(format="software", item=b"more")]),
        (("software", "tpm2"), [SOFTWARE_ITEM]),
        (("tpm2",), [EvidenceItem(format="tpm2", item=b"HTP1")]),
        (("sev-snp",), [EvidenceItem(format="sev-snp", item=b"HSN1")]),
        (("software", "later-format"), [SOFTWARE_ITEM, EvidenceItem(format="later-format")]),
        (("software",), [EvidenceItem(format="tpm2")]),
    ],
)
def test_evidence_this_version_cannot_check_refuses_the_node_and_never_weakens_it(formats: Any, items: Any) -> None:
    maker = Maker()
    refused(maker, maker.reply(maker.bundle(items, formats=formats)), "evidence.complete")


def test_n8_software_evidence_off_loopback_is_refused() -> None:
    maker = Maker()
    refused(maker, maker.reply(), "tier.software", loopback=False)


def test_software_evidence_is_refused_everywhere_when_the_policy_says_never() -> None:
    maker = Maker()
    refused(maker, maker.reply(), "tier.software", allow_software="never")


def test_software_evidence_off_loopback_passes_with_a_warning_when_the_policy_says_always() -> None:
    maker = Maker()
    for _ in range(2):  # warned at every use
        (node,) = verify(maker, maker.reply(), loopback=False, allow_software="always").nodes
        assert [c.name for c in node.checks if c.status is CheckStatus.WARN] == ["tier.software"]


def test_n8_software_evidence_under_a_policy_that_asks_for_more_is_refused() -> None:
    maker = Maker()
    with pytest.raises(AttestationError) as caught:
        verify(maker, maker.reply(), min_tier=1)
    assert (caught.value.check, caught.value.got) == ("tier.software", "software evidence")


def test_a_gpu_does_not_change_tier_zero() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply(maker.bundle(accelerator=Accelerator.APPLE_GPU))).nodes
    assert node.tier == 0


def test_n19_a_directory_stuffed_with_nodes_that_do_not_verify_is_refused() -> None:
    maker = Maker()
    broken = maker.bundle([])
    refused(maker, maker.reply(maker.bundle(), broken, weights=[1, 1]), "directory.intact")


def test_a_minority_of_failing_nodes_is_dropped_and_named() -> None:
    maker = Maker()
    got = verify(maker, maker.reply(maker.bundle(), maker.bundle([]), weights=[2, 1]))
    assert len(got.nodes) == 1
    assert [(d.check, d.weight) for d in got.dropped] == [("evidence.complete", 1)]


def test_a_node_below_this_clients_own_floor_does_not_count_as_stuffing() -> None:
    maker = Maker()
    with pytest.raises(AttestationError) as caught:
        verify(maker, maker.reply(maker.bundle(), maker.bundle()), min_tier=1)
    assert caught.value.check == "tier.software"


def test_every_byte_of_a_bundle_is_covered() -> None:
    maker = Maker()
    raw = maker.bundle().raw
    step = 97  # a prime: places in every field, in a second rather than a minute
    for place in range(0, len(raw), step):
        changed = bytearray(raw)
        changed[place] ^= 0x10
        with pytest.raises(AttestationError) as caught:
            verify(maker, maker.with_raw_bundle(bytes(changed)))
        assert caught.value.check.startswith("bundle.")
    assert verify(maker, maker.with_raw_bundle(raw)).nodes


def test_every_model_of_a_node_is_offered_under_its_own_manifest() -> None:
    maker = Maker()
    other = ModelEntry(model_id="other", manifest=bytes(32), context_tokens=1, max_output_tokens=1)
    got = verify(maker, maker.reply(maker.bundle(models=(MODEL, other))))
    assert [(n.model.model_id, n.manifest) for n in got.nodes] == [("fake", MODEL.manifest), ("other", bytes(32))]


def test_evidence_ends_with_whichever_ends_first() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply(maker.bundle(not_after=int(NOW) + 10))).nodes
    assert node.valid_until == int(NOW) + 10
    assert node.key_at(NOW + 10)
    with pytest.raises(AttestationError) as caught:
        node.key_at(NOW + 11)
    assert caught.value.check == "directory.current"


def test_the_key_of_the_epoch_that_contains_now_is_taken_and_a_slow_clock_finds_the_nearest() -> None:
    maker = Maker()
    (node,) = verify(maker, maker.reply()).nodes
    start = maker.epoch * EPOCH_S
    epochs = {at: node.key_at(start + at).epoch - maker.epoch for at in (-89, 0, EPOCH_S - 1, EPOCH_S, EPOCH_S + 1)}
    assert epochs == {-89: 0, 0: 0, EPOCH_S - 1: 0, EPOCH_S: 1, EPOCH_S + 1: 1}
    with pytest.raises(AttestationError) as caught:
        node.key_at(start - 91)
    assert caught.value.check == "keys.epoch"


def test_a_policy_without_a_signer_trusts_nobody() -> None:
    with pytest.raises(ConfigurationError, match="no directory signer"):
        Verifier(Policy())


@pytest.mark.parametrize(
    "key",
    ["", "nonsense", "a+00000000+AAAA", NoteSigner.generate("x/y").vkey[:-4] + "AAAA"],
    ids=["empty", "nonsense", "short", "altered"],
)
def test_a_malformed_node_key_is_a_configuration_error(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="malformed"):
        Policy.pinned(key)


@pytest.mark.parametrize(
    "change",
    [
        {"min_tier": 4},
        {"candidates": 0},
        {"candidates": 5},
        {"suites": ()},
        {"suites": ("00",)},
        {"allow_software": "sometimes"},
        {"deployment": "UPPER"},
        {"max_evidence_age_s": 0},
    ],
)
def test_a_policy_refuses_values_that_mean_nothing(change: Any) -> None:
    maker = Maker()
    assert maker.policy()
    with pytest.raises(ConfigurationError):
        maker.policy(**change)


def test_one_of_several_signers_is_enough() -> None:
    maker, other = Maker(), Maker()
    both = Policy(directory_signers=(other.signer.vkey, maker.signer.vkey))
    assert Verifier(both).verify(maker.reply(), peer_is_loopback=True, now=NOW).nodes


def test_a_listed_node_keeps_its_weight() -> None:
    maker = Maker()
    first, second = maker.bundle(), Maker(identity=IdentityKey.generate()).bundle()
    got = verify(maker, maker.reply(first, second, weights=[7, 3]))
    assert [node.weight for node in got.nodes] == [7, 3]
    assert isinstance(maker.directory().nodes[0], ListedNode)
