"""Checks 10 to 29 of SPEC section 12: one node's bundle, evidence, software and tier."""

from dataclasses import dataclass

from hybrid.wire.constants import CLOCK_TOLERANCE_S, EPOCH_MAX_S, EPOCH_MIN_S
from hybrid.wire.directory import Directory
from hybrid.wire.errors import SignatureFailure, WireError
from hybrid.wire.evidence import Accelerator, Bundle, Statement

from .checks import Findings
from .clock import outside, usable_key
from .policy import Policy

TIER_WORDS = (
    "software, NOT private from the operator",
    "tpm2, NOT private from the operator",
    "sev-snp, private from the operator",
    "sev-snp with nvidia-cc, private from the operator",
)
SOFTWARE = "software"
NO_RELEASE = "the trust policy names no release signer"
NO_MODEL = "the trust policy names no model signer"
RELEASE_CHECKS = ("release.logged", "release.signed", "release.valid", "release.measured", "config.known")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What the checks computed about a node; nothing here is the node's own claim."""

    tier: int
    tier_words: str
    measurement: str


def check_bundle(
    directory: Directory, bundle: Bundle, policy: Policy, findings: Findings, *, now: float, peer_is_loopback: bool
) -> NodeFacts:
    """Run checks 10 to 29 in order. Raises AttestationError naming the first that fails."""
    statement = bundle.statement
    _signed(bundle, findings)
    _deployment(directory, statement, findings)
    _validity(directory, statement, findings, now)
    _suite(statement, policy, findings)
    _epochs(directory, statement, findings, now)
    _evidence(bundle, findings)
    findings.skipped(NO_RELEASE, *RELEASE_CHECKS)
    findings.skipped(NO_MODEL, "model.logged", "model.accepted")
    return _tier(statement, policy, findings, peer_is_loopback=peer_is_loopback)


def _signed(bundle: Bundle, findings: Findings) -> None:
    findings.passed("bundle.format", "decoded strictly")
    try:
        bundle.verify_signature()
    except SignatureFailure:
        raise findings.failed("bundle.signature", expected="two good signatures", got="one that fails") from None
    findings.passed("bundle.signature", "Ed25519 and ML-DSA-65")


def _deployment(directory: Directory, statement: Statement, findings: Findings) -> None:
    name = "bundle.deployment"
    if statement.deployment != directory.deployment:
        raise findings.failed(name, expected=directory.deployment, got=statement.deployment)
    findings.passed(name, statement.deployment)


def _validity(directory: Directory, statement: Statement, findings: Findings, now: float) -> None:
    name = "bundle.validity"
    longest = 2 * directory.epoch_s + CLOCK_TOLERANCE_S
    if not 0 <= statement.not_after - statement.not_before <= longest:
        raise findings.failed(name, expected=f"a life of at most {longest} s", got="a longer one, or none")
    off = outside(now, statement.not_before, statement.not_after)
    if off:
        raise findings.failed(name, expected="a bundle of this time", got=off)
    findings.passed(name, f"until {statement.not_after}")


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


def _epochs(directory: Directory, statement: Statement, findings: Findings, now: float) -> None:
    name = "keys.epoch"
    lengths = {key.epoch_s for key in statement.keys}
    if lengths != {directory.epoch_s} or not EPOCH_MIN_S <= directory.epoch_s <= EPOCH_MAX_S:
        raise findings.failed(name, expected="the directory's epoch length, 180 to 900 s", got="another length")
    epochs = [key.epoch for key in statement.keys]
    if len(set(epochs)) != len(epochs):
        raise findings.failed(name, expected="one key per epoch", got="two keys of one epoch")
    if usable_key(statement.keys, now) is None:
        start, end = min(epochs) * directory.epoch_s, (max(epochs) + 1) * directory.epoch_s
        raise findings.failed(name, expected="a key usable now", got=outside(now, start, end) or "keys of other epochs")
    findings.passed(name, f"{len(epochs)} of {directory.epoch_s} s each")


def _evidence(bundle: Bundle, findings: Findings) -> None:
    name = "evidence.complete"
    claimed = bundle.statement.formats
    carried = tuple(item.format for item in bundle.items)
    if claimed != carried:
        raise findings.failed(name, expected="the items the statement lists, in order", got="others")
    unknown = [form for form in claimed if form != SOFTWARE]
    if unknown:
        # never a weaker tier instead: a present item that can't be checked refuses the node (SPEC 3)
        raise findings.failed(name, expected="evidence this version can check", got=f"the format {unknown[0]}")
    if any(item.item for item in bundle.items):
        raise findings.failed(name, expected="an empty software item", got="one with content")
    findings.passed(name, SOFTWARE)
    reason = "software evidence proves only that the holder of the node's key says so"
    findings.skipped(reason, "evidence.binding", "evidence.fresh")
    findings.skipped("the node shows no such evidence", "tpm2.*", "snp.*")


def _tier(statement: Statement, policy: Policy, findings: Findings, *, peer_is_loopback: bool) -> NodeFacts:
    tier = 0  # computed, never claimed: software evidence is all that got this far
    gpu = statement.accelerator is not Accelerator.CPU
    findings.passed("tier.accelerator", "no confidential accelerator, no effect at tier 0" if gpu else "none in use")
    _software(policy, findings, peer_is_loopback=peer_is_loopback)
    if tier < policy.min_tier:
        raise findings.failed("tier.minimum", expected=f"tier {policy.min_tier} or higher", got=f"tier {tier}")
    findings.passed("tier.minimum", f"tier {tier}")
    return NodeFacts(tier=tier, tier_words=TIER_WORDS[tier], measurement="none")


def _software(policy: Policy, findings: Findings, *, peer_is_loopback: bool) -> None:
    name = "tier.software"
    if policy.allow_software == "always":
        findings.warned(
            name, "software evidence is allowed everywhere by the trust policy: NOT private from the operator"
        )
    elif policy.allow_software == "loopback" and peer_is_loopback:
        findings.passed(name, "the node is on this machine")
    else:
        where = "nowhere" if policy.allow_software == "never" else "on loopback only"
        raise findings.failed(name, expected=f"software evidence {where}", got=_peer(peer_is_loopback=peer_is_loopback))


def _peer(*, peer_is_loopback: bool) -> str:
    return "a node on this machine" if peer_is_loopback else "a node on the network"
