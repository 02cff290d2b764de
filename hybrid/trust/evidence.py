"""Checks 16 to 19 of SPEC section 12: whether the evidence is whole, about this bundle, young, and good."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hybrid.errors import AttestationError
from hybrid.wire.attest import AttestReply, nonce_binding
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.errors import Malformed, WireError
from hybrid.wire.evidence import SOFTWARE, Bundle, EvidenceItem, Statement, binding
from hybrid.wire.release import ReleaseEntry
from hybrid.wire.snp import SEV_SNP, SnpItem
from hybrid.wire.tpm2 import TPM2, Tpm2Item, TpmsAttest, qualifying_data

from .checks import Findings
from .facts import SNP_TIER, SOFTWARE_TIER, TPM2_TIER
from .log_checks import Judged
from .log_view import NonceProof
from .policy import Policy
from .scene import Scene
from .sev_snp import SnpFacts, check_snp
from .tpm2 import Tpm2Facts, check_tpm2

TIERS = {SOFTWARE: SOFTWARE_TIER, TPM2: TPM2_TIER, SEV_SNP: SNP_TIER}
REPORT_DATA = slice(0x50, 0x90)  # of an SNP report
MEASUREMENT = slice(0x90, 0xC0)  # what was launched
REPORT_ID = slice(0x140, 0x160)  # which launch: the chip draws it anew for every guest
NOT_SHOWN = "the node shows no such evidence"
ONLY_SOFTWARE = "software evidence proves only that the holder of the node's key says so"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFacts:
    """What a node's evidence proved. tier: highest of its items, 0 for software.

    tpm2, snp: what those items proved, if shown.  t0: Unix seconds after which all was made, None for software.
    """

    tier: int
    tpm2: Tpm2Facts | None = None
    snp: SnpFacts | None = None
    t0: float | None = None

    @property
    def measurement(self) -> str:
        """What the strongest item measured, in hexadecimal; ``none`` for software."""
        strongest = self.snp or self.tpm2
        return strongest.measurement if strongest else "none"

    @property
    def pcrs(self) -> Mapping[int, str]:
        """PCR values in hexadecimal: of the TPM, else of the paravisor's."""
        return self.tpm2.pcrs if self.tpm2 else self.snp.pcrs if self.snp else {}


def check_evidence(bundle: Bundle, scene: Scene, release: ReleaseEntry | None, findings: Findings) -> EvidenceFacts:
    """Run checks 16 to 19 in order. release: what the bundle's release entry allows, None when there is none."""
    _complete(bundle, findings)
    tier = max(TIERS[item.format] for item in bundle.items)
    if tier == SOFTWARE_TIER:
        findings.skipped(ONLY_SOFTWARE, "evidence.binding", "evidence.fresh")
        findings.skipped(NOT_SHOWN, "tpm2.*", "snp.*")
        return EvidenceFacts(tier=tier)
    bound = _bindings(bundle)
    _bound(bound, findings)
    t0 = _fresh(bundle, scene, release, findings)
    if TPM2 not in bundle.statement.formats and not _has_vtpm(bundle):
        findings.skipped(NOT_SHOWN, "tpm2.*")
    facts = _judge(bound, bundle.statement, scene, release, findings)
    if SEV_SNP not in bundle.statement.formats:
        findings.skipped(NOT_SHOWN, "snp.*")
    return replace(facts, t0=t0)


def _bindings(bundle: Bundle) -> list[tuple[EvidenceItem, bytes]]:
    """Return each item with what it must cover."""
    return [
        (item, binding(bundle.statement_bytes, bundle.items[:at], item.format)) for at, item in enumerate(bundle.items)
    ]


def _has_vtpm(bundle: Bundle) -> bool:
    return any(item.format == SEV_SNP and SnpItem.decode(item.item).vtpm for item in bundle.items)


def _complete(bundle: Bundle, findings: Findings) -> None:
    name = "evidence.complete"
    claimed = bundle.statement.formats
    carried = tuple(item.format for item in bundle.items)
    if claimed != carried:
        raise findings.failed(name, expected="the items the statement lists, in order", got="others")
    for item in bundle.items:
        _readable(item, findings)
    findings.passed(name, ", ".join(carried))


def _readable(item: EvidenceItem, findings: Findings) -> None:
    name = "evidence.complete"
    if item.format not in TIERS:
        # never a weaker tier instead: a present item that can't be checked refuses the node (SPEC 3)
        raise findings.failed(name, expected="evidence this version can check", got=f"the format {item.format}")
    if item.format == SOFTWARE and item.item:
        raise findings.failed(name, expected="an empty software item", got="one with content")
    try:
        _covers(item, b"")
    except Malformed as error:
        raise findings.failed(name, expected=f"a {item.format} item", got=f"malformed bytes: {error}") from None


def _covers(item: EvidenceItem, bound: bytes) -> bool:
    """Whether an item says it covers this binding; whether it is signed is C13's business. Raises Malformed."""
    if item.format == TPM2:
        return _quotes(Tpm2Item.decode(item.item).attest, bound)
    if item.format == SEV_SNP:
        snp = SnpItem.decode(item.item)
        if snp.vtpm is not None:
            return _quotes(snp.vtpm.attest, bound)
        return hmac.compare_digest(snp.report[REPORT_DATA], bound)
    return True


def _quotes(attest: bytes, bound: bytes) -> bool:
    try:
        return hmac.compare_digest(TpmsAttest.parse(attest).qualifying_data, qualifying_data(bound))
    except Malformed:
        return True  # no quote at all: ``tpm2.magic`` and ``tpm2.type`` say what is wrong with it


def _bound(bound: Sequence[tuple[EvidenceItem, bytes]], findings: Findings) -> None:
    name = "evidence.binding"
    for item, covered in bound:
        if not _covers(item, covered):
            got = f"{item.format} evidence about something else"
            raise findings.failed(name, expected="evidence about this very statement", got=got)
    findings.passed(name, "covers identity, keys, release, configuration, models and validity")


def _fresh(bundle: Bundle, scene: Scene, release: ReleaseEntry | None, findings: Findings) -> float:
    """Return when the evidence was made at the earliest, in Unix seconds. Raises AttestationError when too long ago."""
    policy, witnessed = scene.policy, scene.witnessed(bundle.statement.checkpoint_digest)
    times: dict[str, float] = {}
    if policy.freshness != "nonce" and witnessed is not None and witnessed.t0 is not None:
        times["witnesses"] = float(witnessed.t0)
    proof = scene.nonces.get(bundle.id)
    if proof is not None:
        _nonced(bundle, proof, scene, release, findings)
        if policy.freshness != "witness":
            times["a nonce"] = proof.made_at
    if not times:
        raise findings.failed("evidence.fresh", expected=_wanted(policy), got=_lacking(scene, witnessed))
    by, t0 = max(times.items(), key=lambda found: found[1])
    age = scene.now - t0
    if age < -CLOCK_TOLERANCE_S:
        raise findings.failed("evidence.fresh", expected="evidence of the past", got=f"one {-age:.0f} s ahead by {by}")
    if age > policy.max_evidence_age_s:
        raise findings.failed(
            "evidence.fresh", expected=f"evidence of at most {policy.max_evidence_age_s} s", got=f"{age:.0f} s by {by}"
        )
    findings.passed("evidence.fresh", f"at most {max(0.0, age):.0f} s old by {by}")
    return t0


def _wanted(policy: Policy) -> str:
    return {
        "witness": "a checkpoint of the directory that witnesses timed",
        "nonce": "evidence over a nonce of this client",
        "either": "a checkpoint that witnesses timed, or a nonce of this client",
    }[policy.freshness]


def _lacking(scene: Scene, witnessed: Judged | None) -> str:
    if scene.policy.freshness == "nonce":
        return "none"
    if scene.log is None:
        return "a trust policy without a log"
    return "a checkpoint the directory does not hold" if witnessed is None else "one without witnesses"


def _nonced(bundle: Bundle, proof: NonceProof, scene: Scene, release: ReleaseEntry | None, findings: Findings) -> None:
    """Judge evidence made for a nonce as the bundle's own is, over the nonce list instead of the statement."""
    name, wanted = "evidence.fresh", "evidence over a nonce of this client"
    try:
        reply = AttestReply.decode(proof.reply)
    except WireError:
        raise findings.failed(name, expected=wanted, got="a malformed reply") from None
    if proof.nonce not in reply.nonces:
        raise findings.failed(name, expected=wanted, got="a reply without it")
    if tuple(item.format for item in reply.items) != bundle.statement.formats:
        raise findings.failed(name, expected="the items the statement lists, in order", got="others")
    bound = [
        (item, nonce_binding(bundle.id, reply.nonces, reply.items[:at], item.format))
        for at, item in enumerate(reply.items)
    ]
    try:
        _judge(bound, bundle.statement, scene, release, Findings())
    except AttestationError as error:
        # what fails in the bundle's own evidence, too, is named by its own check: it is no question of age
        _judge(_bindings(bundle), bundle.statement, scene, release, Findings(findings.all()))
        raise findings.failed(name, expected=wanted, got=f"evidence that fails {error.check}") from None
    if not all(_same_machine(*pair) for pair in zip(bundle.items, reply.items, strict=True)):
        raise findings.failed(name, expected=wanted, got="evidence of another machine")


def _same_machine(first: EvidenceItem, second: EvidenceItem) -> bool:
    """Whether two items of one format are of one machine; else anybody's own guest could make old evidence young."""
    return hmac.compare_digest(_machine(first), _machine(second))


def _machine(item: EvidenceItem) -> bytes:
    """Return what names the machine: the public area of the TPM's key; profile, launch and its measurement of SNP."""
    if item.format == TPM2:
        return Tpm2Item.decode(item.item).public
    if item.format == SEV_SNP:
        snp = SnpItem.decode(item.item)
        return bytes((snp.profile,)) + snp.report[MEASUREMENT] + snp.report[REPORT_ID]
    return item.item


def _judge(
    bound: Sequence[tuple[EvidenceItem, bytes]],
    statement: Statement,
    scene: Scene,
    release: ReleaseEntry | None,
    findings: Findings,
) -> EvidenceFacts:
    """Run C13's checks over every item and its binding, in order."""
    facts = EvidenceFacts(tier=SOFTWARE_TIER)
    for item, covered in bound:
        if item.format == TPM2:
            quoted = check_tpm2(
                item.item,
                binding=covered,
                statement=statement,
                trust=scene.policy.tpm2,
                release_pcrs=release.measurements["tpm2"] if release else (),
                findings=findings,
            )
            facts = replace(facts, tpm2=quoted, tier=max(facts.tier, TPM2_TIER))
        elif item.format == SEV_SNP:
            reported = check_snp(
                item.item,
                binding=covered,
                trust=scene.policy.sev_snp,
                release=release.measurements["sev-snp"] if release else (),
                findings=findings,
                now=scene.now,
            )
            facts = replace(facts, snp=reported, tier=max(facts.tier, SNP_TIER))
    return facts
