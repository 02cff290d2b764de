"""N1 to N3, N7 and N9 of SPEC B2, and interactive freshness: evidence is about this bundle, whole, and young."""

from dataclasses import replace
from typing import Any

import pytest

from hybrid.errors import AttestationError
from hybrid.trust.checks import CheckStatus
from hybrid.trust.log_view import NonceProof
from hybrid.trust.tpm2 import Tpm2Trust
from hybrid.wire.attest import AttestReply, nonce_binding
from hybrid.wire.checkpoint import checkpoint_digest
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.evidence import Accelerator, Bundle, EvidenceItem, ModelEntry, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.tpm2 import name_of
from tests.trust.log_maker import WITNESSED, Cloud
from tests.trust.maker import EPOCH_S, MODEL, NOW, SOFTWARE_ITEM
from tests.trust.tpm_maker import BOOT, Tpm, ecc_public


def refused(cloud: Cloud, bundle: Bundle, check: str, **kw: Any) -> AttestationError:
    """Assert that this bundle fails exactly this check, after the deployment's own has passed the same policy."""
    policy = {name: value for name, value in kw.items() if name not in {"nonces", "now"}}
    assert cloud.check(cloud.publish(cloud.listed(seq=1)), **{"nonces": kw.get("control", ()), **policy}).nodes
    return judged(cloud, cloud.publish(cloud.listed(bundle, seq=2)), check, **kw)


def judged(cloud: Cloud, reply: DirectoryReply, check: str, **kw: Any) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        cloud.check(reply, **kw)
    assert caught.value.check == check
    assert caught.value.hint
    return caught.value


def other_key(cloud: Cloud) -> dict[str, Any]:
    return {"keys": (EpochKey.generate(cloud.epoch, EPOCH_S).config, cloud.keys[1].config)}


CHANGES = {
    "one epoch key": other_key,
    "the other model": lambda _: {"models": (replace(MODEL, manifest=bytes(32)),)},
    "one model more": lambda _: {
        "models": (MODEL, ModelEntry(model_id="other", manifest=bytes(32), context_tokens=1, max_output_tokens=1))
    },
    "context": lambda _: {"models": (replace(MODEL, context_tokens=4096),)},
    "release": lambda _: {"release_leaf": b"\x07" * 32},
    "configuration": lambda _: {"config_digest": b"\x07" * 32},
    "accelerator": lambda _: {"accelerator": Accelerator.GPU},
    "checkpoint": lambda _: {"checkpoint_digest": b"\x07" * 32},
    "start": lambda cloud: {"not_before": cloud.epoch * EPOCH_S - 1},
    "end": lambda cloud: {"not_after": (cloud.epoch + 2) * EPOCH_S + 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_n1_a_statement_changed_and_signed_again_no_longer_fits_its_evidence(change: Any) -> None:
    cloud = Cloud()
    refused(cloud, cloud.spliced(**change(cloud)), "evidence.binding")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_n1_holds_for_an_snp_report_too(change: Any, confidential: Cloud) -> None:
    refused(confidential, confidential.spliced(**change(confidential)), "evidence.binding")


def test_n2_a_bundle_signed_again_by_another_identity_no_longer_fits_its_evidence(confidential: Cloud) -> None:
    for cloud in (Cloud(), confidential):
        other = IdentityKey.generate()
        refused(cloud, cloud.spliced(by=other), "bundle.signature")  # the statement still names the first
        bundle = Bundle.decode(
            make_bundle(cloud.statement(identity=other.public), cloud.evidence(cloud.statement()), other)
        )
        refused(cloud, bundle, "evidence.binding")


def signed(cloud: Cloud, items: tuple[EvidenceItem, ...], **changes: Any) -> Bundle:
    return Bundle.decode(make_bundle(cloud.statement(**changes), items, cloud.identity))


def test_n3_an_item_removed_added_or_reordered_is_refused() -> None:
    cloud = Cloud()
    (item,) = cloud.evidence(cloud.statement())
    two = ("software", "tpm2")
    refused(cloud, signed(cloud, ()), "evidence.complete")
    refused(cloud, signed(cloud, (item, SOFTWARE_ITEM)), "evidence.complete")
    refused(cloud, signed(cloud, (SOFTWARE_ITEM,)), "evidence.complete")
    refused(cloud, signed(cloud, (item, SOFTWARE_ITEM), formats=two), "evidence.complete")
    refused(cloud, signed(cloud, (SOFTWARE_ITEM, item), formats=two), "evidence.binding")  # made as the first item


def test_an_item_that_does_not_decode_is_refused_and_never_weakens_the_tier() -> None:
    cloud = Cloud()
    (item,) = cloud.evidence(cloud.statement())
    for broken in (item.item[:-1], item.item + b"\0", b""):
        refused(cloud, signed(cloud, (replace(item, item=broken),)), "evidence.complete")


def test_a_failing_item_is_refused_by_its_own_check() -> None:
    cloud = Cloud()
    refused(cloud, cloud.node(item={"pcr_before": b"\x01" * 32}), "tpm2.runtime-log")
    refused(cloud, cloud.node(item={"pcrs": {**cloud.tpm.pcrs(), 4: bytes(32)}}), "tpm2.pcr-values")


def test_a_confidential_node_passes_and_its_tier_is_computed(confidential: Cloud) -> None:
    (node,) = confidential.check(confidential.publish()).nodes
    assert (node.tier, node.tier_words) == (2, "sev-snp, private from the operator")
    assert node.measurement == "99" * 48
    assert node.evidence_t0 == WITNESSED


# --- N7 freshness ---------------------------------------------------------------------------------


def test_n7_evidence_older_than_the_limit_is_refused() -> None:
    cloud = Cloud()
    reply = cloud.publish()
    assert cloud.check(reply, max_evidence_age_s=300).nodes
    error = judged(cloud, reply, "evidence.fresh", max_evidence_age_s=299)
    assert error.got == "300 s by witnesses"


def test_n7_one_witness_with_a_fast_clock_does_not_make_old_evidence_look_fresh() -> None:
    cloud = Cloud(times=(NOW - 4000, NOW - 10))
    reply = cloud.publish()
    judged(cloud, reply, "evidence.fresh")
    weak = cloud.log.policy("group one any w1 w2\nquorum one")
    assert cloud.check(reply, log_policy=weak).nodes  # what the quorum is for: one witness alone could lie


def test_evidence_ends_with_its_age_where_that_is_first() -> None:
    cloud = Cloud()
    (node,) = cloud.check(cloud.publish(), max_evidence_age_s=310).nodes
    assert node.valid_until == WITNESSED + 310


def test_a_checkpoint_the_directory_does_not_hold_says_nothing_about_age() -> None:
    cloud = Cloud()
    refused(cloud, cloud.node(checkpoint_digest=b"\x07" * 32), "evidence.fresh")


def test_the_checkpoint_the_statement_names_tells_the_age_and_no_newer_one_beside_it() -> None:
    cloud = Cloud(times=(NOW - 4000, NOW - 4000))
    stale, fresh = cloud.older, cloud.log.checkpoint(NOW - 200)
    old = cloud.node()
    young = cloud.node(checkpoint_digest=checkpoint_digest(fresh))
    both = {"checkpoints": (stale, fresh)}
    (node,) = cloud.check(cloud.publish(cloud.listed(young, **both, seq=1))).nodes
    assert node.evidence_t0 == NOW - 200
    assert judged(cloud, cloud.publish(cloud.listed(old, **both, seq=2)), "evidence.fresh").got == "4000 s by witnesses"


def test_without_witnesses_only_a_nonce_shows_that_evidence_is_fresh() -> None:
    cloud = Cloud()
    policy = cloud.log.policy("quorum none")
    bundle = cloud.node()
    reply = cloud.publish(cloud.listed(bundle))
    judged(cloud, reply, "evidence.fresh", log_policy=policy)
    (node,) = cloud.check(reply, log_policy=policy, freshness="nonce", nonces=[nonced(cloud, bundle)]).nodes
    assert node.tier == 1
    assert {c.name: c.status for c in node.checks}["log.quorum"] is CheckStatus.WARN


def test_without_witnesses_a_confidential_node_counts_as_tier_one(confidential: Cloud) -> None:
    bundle = confidential.node()
    reply = confidential.publish(confidential.listed(bundle))
    none = {"log_policy": confidential.log.policy("quorum none"), "min_tier": 1, "freshness": "nonce"}
    (node,) = confidential.check(reply, nonces=[nonced(confidential, bundle)], **none).nodes
    assert node.tier == 1
    assert "NOT private" in node.tier_words
    assert confidential.check(reply, min_tier=1).nodes[0].tier == 2


# --- nonces ---------------------------------------------------------------------------------------

NONCE = b"\x5a" * 32


def nonced(cloud: Cloud, bundle: Bundle, *, about: bytes | None = None, **changes: Any) -> NonceProof:
    """Evidence the node made for our nonce and somebody else's."""
    nonces = changes.pop("nonces", (b"\x01" * 32, NONCE))
    covered = nonce_binding(about or bundle.id, nonces, (), cloud.format)
    item = cloud.item(covered, bundle.statement, **changes)
    reply = AttestReply(nonces=nonces, items=(item,)).encode()
    return NonceProof(bundle_id=bundle.id, nonce=NONCE, made_at=NOW - 5, reply=reply)


@pytest.mark.parametrize("freshness", ["nonce", "either"])
def test_a_nonce_shows_that_evidence_is_fresh(freshness: Any) -> None:
    cloud = Cloud()
    bundle = cloud.node()
    (node,) = cloud.check(
        cloud.publish(cloud.listed(bundle)), freshness=freshness, max_evidence_age_s=100, nonces=[nonced(cloud, bundle)]
    ).nodes
    assert node.evidence_t0 == NOW - 5
    assert node.valid_until == NOW + 95


def test_a_policy_of_nonces_takes_no_witness_instead() -> None:
    cloud = Cloud()
    judged(cloud, cloud.publish(), "evidence.fresh", freshness="nonce")
    assert cloud.check(cloud.publish(cloud.listed(seq=1)), freshness="either").nodes


def test_a_nonce_reply_that_is_not_about_this_nonce_and_bundle_is_refused() -> None:
    cloud = Cloud()
    bundle = cloud.node()
    reply = cloud.publish(cloud.listed(bundle))
    good = nonced(cloud, bundle)
    bad = {
        "another nonce": replace(good, nonce=b"\x02" * 32),
        "another bundle": nonced(cloud, bundle, about=b"\x07" * 32),
        "malformed": replace(good, reply=good.reply[:-1]),
        "other values": nonced(cloud, bundle, pcrs={**cloud.tpm.pcrs(), 4: bytes(32)}),
        "no item": replace(good, reply=AttestReply(nonces=(NONCE,), items=(SOFTWARE_ITEM,)).encode()),
        "too old": replace(good, made_at=NOW - 4000),
    }
    assert cloud.check(reply, freshness="nonce", nonces=[good]).nodes
    for proof in bad.values():
        judged(cloud, reply, "evidence.fresh", freshness="nonce", nonces=[proof])


@pytest.mark.parametrize("other", [{"measurement": b"\x66" * 48}, {"report_id": b"\x66" * 32}])
def test_only_the_guest_of_the_bundle_makes_it_fresh(other: Any, confidential: Cloud) -> None:
    """Anybody may rent a genuine chip: a report of a guest of one's own says nothing about an old bundle."""
    bundle = confidential.node()
    reply = confidential.publish(confidential.listed(bundle))
    assert confidential.check(reply, freshness="nonce", nonces=[nonced(confidential, bundle)]).nodes
    error = judged(
        confidential, reply, "evidence.fresh", freshness="nonce", nonces=[nonced(confidential, bundle, **other)]
    )
    assert error.got == "evidence of another machine"


def test_only_the_tpm_of_the_bundle_makes_it_fresh() -> None:
    cloud, other = Cloud(), Tpm()
    both = enrolled(cloud.tpm, other)
    bundle = cloud.node()
    reply = cloud.publish(cloud.listed(bundle))
    assert cloud.check(reply, freshness="nonce", tpm2=both, nonces=[nonced(cloud, bundle)]).nodes
    cloud.tpm = other
    assert cloud.check(cloud.publish(cloud.listed(cloud.node(), seq=1)), tpm2=both).nodes
    error = judged(cloud, reply, "evidence.fresh", freshness="nonce", tpm2=both, nonces=[nonced(cloud, bundle)])
    assert error.got == "evidence of another machine"


def enrolled(*tpms: Tpm) -> Tpm2Trust:
    return Tpm2Trust(ak_names=tuple(name_of(ecc_public(tpm.key)).hex() for tpm in tpms))


def test_a_nonce_of_the_future_shows_nothing() -> None:
    cloud = Cloud()
    bundle = cloud.node()
    reply, good = cloud.publish(cloud.listed(bundle)), nonced(cloud, bundle)
    assert cloud.check(reply, freshness="nonce", nonces=[replace(good, made_at=NOW + 90)]).nodes
    judged(cloud, reply, "evidence.fresh", freshness="nonce", nonces=[replace(good, made_at=NOW + 91)])


def test_the_nonce_of_another_bundle_does_not_count() -> None:
    cloud = Cloud()
    bundle = cloud.node()
    proof = replace(nonced(cloud, bundle), bundle_id=b"\x07" * 32)
    judged(cloud, cloud.publish(cloud.listed(bundle)), "evidence.fresh", freshness="nonce", nonces=[proof])


# --- N9 accelerator, tiers ------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", [Accelerator.GPU, Accelerator.APPLE_GPU])
def test_n9_a_gpu_without_evidence_of_its_own_is_refused_at_tier_two_and_caps_the_tier(
    gpu: Accelerator, confidential: Cloud
) -> None:
    refused(confidential, confidential.node(accelerator=gpu), "tier.accelerator")
    reply = confidential.publish(confidential.listed(confidential.node(accelerator=gpu), seq=3))
    (node,) = confidential.check(reply, min_tier=1).nodes
    assert node.tier == 1
    assert "NOT private" in node.tier_words


def test_a_gpu_has_no_effect_below_tier_two() -> None:
    cloud = Cloud()
    (node,) = cloud.check(cloud.publish(cloud.listed(cloud.node(accelerator=Accelerator.GPU)))).nodes
    assert node.tier == 1


def test_a_measured_boot_is_refused_where_tier_two_is_asked_for() -> None:
    cloud = Cloud()
    judged(cloud, cloud.publish(), "tier.minimum", min_tier=2)


def test_an_unknown_attestation_key_is_refused() -> None:
    cloud = Cloud()
    judged(cloud, cloud.publish(), "tpm2.ak-trusted", tpm2=Tpm2Trust(ak_names=("000b" + "0" * 64,)))


def test_a_deployments_genuine_bundle_is_refused_in_another_deployment() -> None:
    cloud = Cloud()
    refused(cloud, cloud.node(deployment="other.example.com"), "bundle.deployment")


def test_without_a_trust_in_releases_a_measured_boot_needs_pcrs_of_the_policy() -> None:
    cloud = Cloud()
    reply = cloud.publish()
    judged(cloud, reply, "tpm2.pcr-values", release=None)
    own = {index: (value.hex(),) for index, value in BOOT.items()}
    names = cloud.policy().tpm2.ak_names
    assert cloud.check(reply, release=None, tpm2=Tpm2Trust(ak_names=names, pcrs=own)).nodes
