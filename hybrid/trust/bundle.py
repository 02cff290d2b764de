"""Checks 10 to 30 of SPEC section 12: one node's bundle, evidence, software and tier."""

from hybrid.errors import AttestationError
from hybrid.wire.constants import CLOCK_TOLERANCE_S, EPOCH_MAX_S, EPOCH_MIN_S
from hybrid.wire.errors import SignatureFailure, WireError
from hybrid.wire.evidence import Bundle, Statement
from hybrid.wire.release import ReleaseEntry

from .checks import Findings
from .clock import outside, usable_key, utc
from .evidence import EvidenceFacts, check_evidence
from .facts import NodeFacts
from .policy import Policy
from .scene import Scene
from .software import check_models, check_release, release_of
from .verdict import check_rule, check_tier


def check_bundle(bundle: Bundle, scene: Scene, findings: Findings) -> list[NodeFacts]:
    """Run checks 10 to 30 in order; returns one entry per model that may be used, at least one.

    Raises AttestationError naming the first check that fails.
    """
    statement = bundle.statement
    _signed(bundle, findings)
    _deployment(scene, statement, findings)
    _validity(scene, statement, findings)
    _suite(statement, scene.policy, findings)
    _epochs(scene, statement, findings)
    evidence = _evidence(bundle, scene, findings)
    release = check_release(statement, scene, evidence, findings)
    models = check_models(statement, scene, findings)
    tier = check_tier(statement, evidence.tier, scene, findings)
    facts = [
        NodeFacts(
            tier=tier.number,
            tier_words=tier.words,
            measurement=evidence.measurement,
            pcrs=evidence.pcrs,
            model=model,
            evidence_t0=evidence.t0,
            evidence_age_s=None if evidence.t0 is None else max(0.0, scene.now - evidence.t0),
            release=f"{release.name} {release.version}" if release else "",
            log_key=scene.log.key if scene.log else "",
            witnesses=scene.log.witnesses if scene.log else 0,
            ends=_ends(statement, evidence, release, scene),
        )
        for model in models
    ]
    return check_rule(scene.policy.require, facts, findings)


def _ends(statement: Statement, evidence: EvidenceFacts, release: ReleaseEntry | None, scene: Scene) -> float:
    """Return the earliest end of bundle, directory, release, evidence age and certificates, in Unix seconds."""
    ends = [float(statement.not_after), float(scene.ends)]
    if evidence.t0 is not None:
        ends.append(evidence.t0 + scene.policy.max_evidence_age_s)
    if evidence.snp is not None:
        ends.append(float(evidence.snp.ends))
    if release is not None:
        ends.append(float(release.expires))
    return min(ends)


def _evidence(bundle: Bundle, scene: Scene, findings: Findings) -> EvidenceFacts:
    release = release_of(bundle.statement, scene)
    try:
        return check_evidence(bundle, scene, release, findings)
    except AttestationError as error:
        if error.check == "tpm2.pcr-values" and scene.policy.release is not None and release is None:
            # nothing names the boot because the release does not count: say that instead
            check_release(bundle.statement, scene, EvidenceFacts(tier=0), findings)
        raise


def _signed(bundle: Bundle, findings: Findings) -> None:
    findings.passed("bundle.format", "decoded strictly")
    try:
        bundle.verify_signature()
    except SignatureFailure:
        raise findings.failed("bundle.signature", expected="two good signatures", got="one that fails") from None
    findings.passed("bundle.signature", "Ed25519 and ML-DSA-65")


def _deployment(scene: Scene, statement: Statement, findings: Findings) -> None:
    name = "bundle.deployment"
    if statement.deployment != scene.deployment:
        raise findings.failed(name, expected=scene.deployment, got=statement.deployment)
    findings.passed(name, statement.deployment)


def _validity(scene: Scene, statement: Statement, findings: Findings) -> None:
    name = "bundle.validity"
    longest = 2 * scene.epoch_s + CLOCK_TOLERANCE_S
    if not 0 <= statement.not_after - statement.not_before <= longest:
        raise findings.failed(name, expected=f"a life of at most {longest} s", got="a longer one, or none")
    off = outside(scene.now, statement.not_before, statement.not_after)
    if off:
        raise findings.failed(name, expected="a bundle of this time", got=off)
    findings.passed(name, f"until {utc(statement.not_after)}")


def _suite(statement: Statement, policy: Policy, findings: Findings) -> None:
    name = "keys.suite"
    for key in statement.keys:
        if key.suite.hex() not in policy.suites:
            raise findings.failed(name, expected=" or ".join(policy.suites), got=key.suite.hex())
        try:
            key.encrypt(b"", b"")
        except WireError:  # also a low-order X25519 point, which imports and fails only here
            raise findings.failed(name, expected="keys that can be sealed to", got="one that can't") from None
    findings.passed(name, "trial encryption succeeded")


def _epochs(scene: Scene, statement: Statement, findings: Findings) -> None:
    name = "keys.epoch"
    lengths = {key.epoch_s for key in statement.keys}
    if lengths != {scene.epoch_s} or not EPOCH_MIN_S <= scene.epoch_s <= EPOCH_MAX_S:
        raise findings.failed(name, expected="the directory's epoch length, 180 to 900 s", got="another length")
    epochs = [key.epoch for key in statement.keys]
    if len(set(epochs)) != len(epochs):
        raise findings.failed(name, expected="one key per epoch", got="two keys of one epoch")
    if usable_key(statement.keys, scene.now) is None:
        start, end = min(epochs) * scene.epoch_s, (max(epochs) + 1) * scene.epoch_s
        off = outside(scene.now, start, end) or "keys of other epochs"
        raise findings.failed(name, expected="a key usable now", got=off)
    findings.passed(name, f"{len(epochs)} of {scene.epoch_s} s each")
