"""N20 to N22 of SPEC B2, and models: measured software and weights that somebody stands behind, now."""

import base64
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hybrid.errors import AttestationError
from hybrid.trust.checks import CheckStatus, Findings
from hybrid.trust.evidence import EvidenceFacts
from hybrid.trust.policy import ModelTrust, ReleaseTrust
from hybrid.trust.scene import Scene
from hybrid.trust.sev_snp import SnpFacts
from hybrid.trust.software import check_release
from hybrid.wire.entries import entry_digest, sign
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteSigner, append_signatures
from hybrid.wire.release import SnpMeasurement
from tests.trust.log_maker import CONFIG, Cloud, model_note, release
from tests.trust.maker import EPOCH_S, MODEL, NOW
from tests.trust.tpm_maker import BOOT


def refused(cloud: Cloud, check: str, **kw: Any) -> AttestationError:
    """Assert that this deployment fails exactly this check, after an untouched one has passed."""
    control = Cloud()
    assert control.check(control.publish()).nodes
    with pytest.raises(AttestationError) as caught:
        cloud.check(cloud.publish(), **kw)
    assert caught.value.check == check
    assert caught.value.hint
    return caught.value


def logged_again(cloud: Cloud, entry: bytes) -> Cloud:
    """The deployment after the log took another spelling of its release, which the node now names."""
    cloud.release_at = cloud.log.add(entry)
    cloud.older = cloud.log.checkpoint(NOW - 200)
    cloud.size = len(cloud.log.entries)
    return cloud


# --- N20 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued", "expires"),
    [(NOW - 1000, NOW - 91), (NOW - 170 * 86_400, NOW - 3600), (NOW + 91, NOW + 1000)],
    ids=["just expired", "long expired", "not yet issued"],
)
def test_n20_a_release_outside_its_time_is_refused(issued: float, expires: float) -> None:
    refused(Cloud(release=release(issued=int(issued), expires=int(expires))), "release.valid")


def test_n20_a_release_within_the_tolerance_passes() -> None:
    for entry in (release(expires=int(NOW) - 90), release(issued=int(NOW) + 90)):
        cloud = Cloud(release=entry)
        assert cloud.check(cloud.publish()).nodes


def test_n20_a_denied_release_is_refused_however_it_was_logged_again() -> None:
    cloud = Cloud()
    entry = cloud.log.entries[cloud.release_at]
    deny = ReleaseTrust(signers=(cloud.publisher.vkey,), deny=(entry_digest(entry).hex(),))
    refused(cloud, "release.valid", release=deny)
    twice = append_signatures(entry, [sign(cloud.release, NoteSigner.generate("x/y")).decode().split("\n")[-2]])
    assert refused(logged_again(Cloud(publisher=cloud.publisher), twice), "release.signed", release=deny)
    assert refused(logged_again(Cloud(publisher=cloud.publisher), twice), "release.signed")


def test_n20_other_base64_padding_bits_do_not_make_a_new_release() -> None:
    cloud = Cloud()
    entry = cloud.log.entries[cloud.release_at]
    head, _, line = entry.decode().rstrip("\n").rpartition(" ")
    padded = _other_padding(line)
    assert base64.b64decode(padded) == base64.b64decode(line)
    refused(logged_again(cloud, f"{head} {padded}\n".encode()), "release.signed")


def _other_padding(text: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = len(text.rstrip("=")) - 1
    assert text.endswith("=")  # 68 bytes: two unused bits at least
    return text[:at] + alphabet[alphabet.index(text[at]) ^ 1] + text[at + 1 :]


def test_n20_a_release_signed_by_an_unknown_key_is_refused() -> None:
    stranger = NoteSigner.generate("publisher.example/release")
    refused(Cloud(), "release.signed", release=ReleaseTrust(signers=(stranger.vkey,)))


def test_n20_a_model_entry_is_no_release() -> None:
    cloud = Cloud()
    refused(logged_again(cloud, sign(cloud.model_note, cloud.publisher)), "release.signed")


def test_a_pinned_release_is_the_only_one() -> None:
    cloud = Cloud()
    pin = entry_digest(cloud.log.entries[cloud.release_at]).hex()
    signers = (cloud.publisher.vkey,)
    assert cloud.check(cloud.publish(), release=ReleaseTrust(signers=signers, pins=(pin,))).nodes
    other = Cloud(publisher=cloud.publisher, release=release(version="2.0"))
    refused(other, "release.valid", release=ReleaseTrust(signers=signers, pins=(pin,)))


def test_a_release_the_directory_does_not_hold_is_refused() -> None:
    cloud = Cloud()
    cloud.leaves = lambda: ()  # type: ignore[method-assign]
    refused(cloud, "release.logged")


# --- N21 ------------------------------------------------------------------------------------------


def measured(**changes: Any) -> Any:
    return {"measurements": {"sev-snp": (), "tpm2": (), **changes}}


def test_n21_a_boot_the_release_does_not_list_is_refused() -> None:
    other = dict.fromkeys(BOOT, "00" * 32)
    refused(Cloud(release=release(**measured(tpm2=(other,)))), "tpm2.pcr-values")


def test_n21_an_snp_measurement_the_release_does_not_list_is_refused(confidential: Cloud) -> None:
    assert confidential.check(confidential.publish()).nodes
    for lines in ((), (SnpMeasurement("00" * 48),)):
        cloud = Cloud(amd=confidential.amd, release=release(**measured(**{"sev-snp": lines})))
        refused(cloud, "release.measured")


def test_n21_a_measurement_listed_for_a_paravisor_does_not_vouch_for_a_guest_without_one(confidential: Cloud) -> None:
    lines = (SnpMeasurement("99" * 48, {4: "00" * 32}),)
    cloud = Cloud(amd=confidential.amd, release=release(**measured(**{"sev-snp": lines})))
    refused(cloud, "release.measured")


@pytest.mark.parametrize(("value", "passes"), [("44" * 32, True), ("00" * 32, False)])
def test_n21_a_paravisors_measurement_counts_only_with_pcr_values_of_the_same_line(value: str, passes: bool) -> None:
    cloud = Cloud(release=release(**measured(**{"sev-snp": (SnpMeasurement("99" * 48, {4: "44" * 32}),)})))
    facts = SnpFacts(measurement="99" * 48, product="milan", profile=2, ends=0, pcrs={4: value, 7: "00" * 32})
    scene = Scene(
        policy=replace(cloud.policy(), log_policy=None),
        deployment=cloud.deployment,
        epoch_s=EPOCH_S,
        ends=0,
        leaves=cloud.leaves(),
        peer_is_loopback=False,
        now=NOW,
    )
    findings = Findings()
    judge = partial(check_release, cloud.statement(), scene, EvidenceFacts(tier=2, snp=facts, t0=NOW), findings)
    if passes:
        assert judge() == cloud.release
    else:
        with pytest.raises(AttestationError) as caught:
            judge()
        assert caught.value.check == "release.measured"


def test_a_release_that_names_no_boot_leaves_it_to_the_policy_and_says_so() -> None:
    cloud = Cloud(release=release(**measured()))
    refused(cloud, "tpm2.pcr-values")
    own = {index: (value.hex(),) for index, value in BOOT.items()}
    (node,) = cloud.check(cloud.publish(cloud.listed(seq=1)), tpm2=replace(cloud.policy().tpm2, pcrs=own)).nodes
    assert {check.name: check.status for check in node.checks}["release.measured"] is CheckStatus.WARN


# --- N22 ------------------------------------------------------------------------------------------


def test_n22_a_configuration_the_release_does_not_list_is_refused() -> None:
    refused(Cloud(release=release(configs={"strict": "00" * 32})), "config.known")
    cloud = Cloud(release=release(configs={"open": "00" * 32, "strict": CONFIG.hex()}))
    (node,) = cloud.check(cloud.publish()).nodes
    assert next(check.detail for check in node.checks if check.name == "config.known") == "strict"


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"model_id": "other"}, {"manifest": bytes(32)}])
def test_a_model_the_signer_did_not_describe_is_refused(change: Any) -> None:
    refused(Cloud(model_note=model_note(**change)), "model.logged")


def test_a_model_signed_by_an_unknown_key_is_refused() -> None:
    refused(Cloud(), "model.logged", models=ModelTrust(signers=(NoteSigner.generate("publisher.example/models").vkey,)))


def test_a_model_under_a_forged_proof_is_refused() -> None:
    cloud = Cloud()
    kept, model = cloud.leaves()
    forged = replace(model, hashes=(bytes(32), *model.hashes[1:]))
    cloud.leaves = lambda: (kept, forged)  # type: ignore[method-assign]
    refused(cloud, "model.logged")


def test_a_model_that_is_not_on_the_list_is_refused() -> None:
    cloud = Cloud()
    signers = (cloud.modeller.vkey,)
    good = f"fake@{MODEL.manifest.hex()}"
    assert cloud.check(cloud.publish(), models=ModelTrust(signers=signers, accept=(good,))).nodes
    for other in (f"fake@{bytes(32).hex()}", f"other@{MODEL.manifest.hex()}"):
        stranger = Cloud(modeller=cloud.modeller)
        refused(stranger, "model.accepted", models=ModelTrust(signers=signers, accept=(other,)))


def test_of_two_models_only_the_one_somebody_stands_behind_is_offered() -> None:
    cloud = Cloud()
    other = ModelEntry(model_id="other", manifest=bytes(32), context_tokens=1, max_output_tokens=1)
    got = cloud.check(cloud.publish(cloud.listed(cloud.node(models=(other, MODEL)))))
    assert [node.model.model_id for node in got.nodes] == ["fake"]


def test_a_model_that_was_logged_twice_is_offered_once() -> None:
    cloud = Cloud()
    again = cloud.log.add(cloud.log.entries[cloud.model_at])
    cloud.older, cloud.size = cloud.log.checkpoint(NOW - 200), len(cloud.log.entries)
    leaves = (*cloud.leaves(), cloud.log.leaf(again, cloud.size, 0))
    assert len(cloud.check(cloud.publish(cloud.listed(leaves=leaves))).nodes) == 1


def test_the_release_travels_with_the_verified_node() -> None:
    cloud = Cloud()
    (node,) = cloud.check(cloud.publish()).nodes
    assert node.release == "hybrid-pcc 1.0"
    assert leaf_hash(node.proof.leaves[0].entry) == leaf_hash(cloud.log.entries[cloud.release_at])
    assert len(node.proof.leaves) == 2


def test_evidence_is_never_used_beyond_its_release() -> None:
    cloud = Cloud(release=release(expires=int(NOW) + 30))
    (node,) = cloud.check(cloud.publish()).nodes
    assert node.valid_until == int(NOW) + 30
