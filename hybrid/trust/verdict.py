"""Checks 27 to 29 of SPEC section 12, and 30, the policy's own rule: the tier, computed and never claimed."""

from dataclasses import dataclass

from hybrid.wire.evidence import Accelerator, Statement

from .checks import Findings
from .facts import CAPPED_WORDS, SNP_TIER, SOFTWARE_TIER, TIER_WORDS, TPM2_TIER, UNWITNESSED_WORDS, NodeFacts
from .policy import Policy
from .rules import Rule
from .scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A computed tier and what it means to a person."""

    number: int
    words: str


def check_tier(statement: Statement, evidence_tier: int, scene: Scene, findings: Findings) -> Tier:
    """Run checks 27 to 29. Raises AttestationError."""
    tier = _accelerator(statement, _witnessed(evidence_tier, scene), scene.policy, findings)
    _software(tier, scene, findings)
    if tier.number < scene.policy.min_tier:
        expected, got = f"tier {scene.policy.min_tier} or higher", f"tier {tier.number}"
        raise findings.failed("tier.minimum", expected=expected, got=got)
    _read_tail(tier, scene, findings)
    findings.passed("tier.minimum", f"tier {tier.number}")
    return tier


def _witnessed(tier: int, scene: Scene) -> Tier:
    """Tier 2 stands on a quorum of witnesses (SPEC 5): without one its operator could keep a log for one client."""
    if tier >= SNP_TIER and (scene.log is None or not scene.log.quorum):
        return Tier(number=TPM2_TIER, words=UNWITNESSED_WORDS)
    return Tier(number=tier, words=TIER_WORDS[tier])


def _accelerator(statement: Statement, tier: Tier, policy: Policy, findings: Findings) -> Tier:
    name = "tier.accelerator"
    if statement.accelerator is Accelerator.CPU:
        findings.passed(name, "none in use")
    elif tier.number < SNP_TIER:
        findings.passed(name, f"no confidential accelerator, no effect at tier {tier.number}")
    elif policy.min_tier >= SNP_TIER:
        raise findings.failed(name, expected="no GPU, or evidence of a confidential one", got="a GPU without evidence")
    else:
        findings.warned(name, "a GPU without evidence of its own: the tier is 1")
        return Tier(number=TPM2_TIER, words=CAPPED_WORDS)
    return tier


def _software(tier: Tier, scene: Scene, findings: Findings) -> None:
    name, policy = "tier.software", scene.policy
    if tier.number > SOFTWARE_TIER:
        findings.passed(name, "the hardware vouches for the node")
    elif policy.min_tier > SOFTWARE_TIER:
        expected = f"evidence of tier {policy.min_tier} or higher"
        raise findings.failed(name, expected=expected, got="software evidence")
    elif policy.allow_software == "always":
        findings.warned(
            name, "software evidence is allowed everywhere by the trust policy: NOT private from the operator"
        )
    elif policy.allow_software == "loopback" and scene.peer_is_loopback:
        findings.passed(name, "the node is on this machine")
    else:
        where = "nowhere" if policy.allow_software == "never" else "on loopback only"
        raise findings.failed(name, expected=f"software evidence {where}", got=_peer(scene))


def _peer(scene: Scene) -> str:
    return "a node on this machine" if scene.peer_is_loopback else "a node on the network"


def _read_tail(tier: Tier, scene: Scene, findings: Findings) -> None:
    if scene.stalled and tier.number >= SNP_TIER:
        got = "entries that could not be read for ten minutes"
        raise findings.failed("directory.unique", expected="the log's newest entries", got=got)


def check_rule(rule: Rule | None, facts: list[NodeFacts], findings: Findings) -> list[NodeFacts]:
    """Run check 30; returns the models the policy's rule holds for. Raises AttestationError without any."""
    name = "policy.require"
    if rule is None:
        findings.skipped("the trust policy has no rule of its own", name)
        return facts
    verdicts = [(fact, rule.judge(fact)) for fact in facts]
    held = [(fact, verdict) for fact, verdict in verdicts if verdict.ok]
    if not held:
        raise findings.failed(name, expected=verdicts[0][1].words, got="a node that is not so")
    findings.passed(name, held[0][1].words)
    return [fact for fact, _ in held]
