"""Checks 20 to 26 of SPEC section 12: whether what was measured is software and weights somebody stands behind."""

from collections.abc import Iterable, Sequence

from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.directory import Leaf
from hybrid.wire.entries import Entry, ModelEntryNote, entry_digest, open_entry
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import ModelEntry, Statement
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteVerifier
from hybrid.wire.release import ReleaseEntry
from hybrid.wire.snp import DIRECT

from .checks import Findings
from .clock import utc
from .evidence import EvidenceFacts
from .facts import SNP_TIER, SOFTWARE_TIER
from .log_checks import NO_LOG
from .policy import ModelTrust
from .scene import Scene
from .sev_snp import SnpFacts

NO_RELEASE = "the trust policy names no release signer"
NO_MODEL = "the trust policy names no model signer"
RELEASE_CHECKS = ("release.logged", "release.signed", "release.valid", "release.measured", "config.known")


def release_leaf(statement: Statement, leaves: Sequence[Leaf]) -> Leaf | None:
    """Return the directory's leaf that a Statement names as its release."""
    return next((leaf for leaf in leaves if leaf_hash(leaf.entry) == statement.release_leaf), None)


def release_of(statement: Statement, scene: Scene) -> ReleaseEntry | None:
    """Return the release a Statement names when a release signer of the policy signed it; nothing else is judged."""
    leaf, trust = release_leaf(statement, scene.leaves), scene.policy.release
    entry = _opened(leaf.entry, trust.signers) if leaf and trust else None
    return entry if isinstance(entry, ReleaseEntry) else None


def _opened(data: bytes, signers: Sequence[str]) -> Entry | None:
    for signer in signers:
        try:
            return open_entry(data, NoteVerifier.parse(signer))
        except WireError:
            continue
    return None


def check_release(statement: Statement, scene: Scene, facts: EvidenceFacts, findings: Findings) -> ReleaseEntry | None:
    """Run checks 20 to 24; returns the release, None where the policy names no signer (tiers 0 and 1 only)."""
    trust = scene.policy.release
    if trust is None:
        if facts.tier >= SNP_TIER:
            expected, got = "a release signer in the trust policy, to know the measurement by", "none"
            raise findings.failed("release.measured", expected=expected, got=got)
        findings.skipped(NO_RELEASE, *RELEASE_CHECKS)
        return None
    leaf = _logged(statement, scene, findings)
    release = release_of(statement, scene)
    if release is None:
        names = " or ".join(key.split("+", 1)[0] for key in trust.signers)
        raise findings.failed("release.signed", expected=f"one release entry signed by {names}", got="another")
    findings.passed("release.signed", f"{release.name} {release.version}")
    _valid(leaf, release, scene, findings)
    _measured(release, facts, findings)
    if statement.config_digest.hex() not in release.configs.values():
        raise findings.failed("config.known", expected="a configuration of the release", got="another")
    findings.passed("config.known", _profile(release, statement))
    return release


def _logged(statement: Statement, scene: Scene, findings: Findings) -> Leaf:
    name = "release.logged"
    leaf = release_leaf(statement, scene.leaves)
    if leaf is None:
        raise findings.failed(name, expected="the release in the directory", got="none that the statement names")
    _included(name, leaf, scene, findings)
    return leaf


def _included(name: str, leaf: Leaf, scene: Scene, findings: Findings) -> None:
    if scene.log is None:
        findings.skipped(NO_LOG, name)
    elif not _in_log(leaf, scene):
        raise findings.failed(name, expected="an entry of the log", got="one its proof does not lead to")
    else:
        findings.passed(name, f"entry {leaf.index}")


def _valid(leaf: Leaf, release: ReleaseEntry, scene: Scene, findings: Findings) -> None:
    wrong = _not_valid(release, scene) or _not_wanted(entry_digest(leaf.entry), scene)
    if wrong:
        raise findings.failed("release.valid", expected="a release to be used now", got=wrong)
    findings.passed("release.valid", f"entry {entry_digest(leaf.entry).hex()}, until {utc(release.expires)}")


def _not_valid(release: ReleaseEntry, scene: Scene) -> str:
    if scene.now > release.expires + CLOCK_TOLERANCE_S:
        return f"one that expired {scene.now - release.expires:.0f} s ago"
    return "one that is not issued yet" if scene.now < release.issued - CLOCK_TOLERANCE_S else ""


def _not_wanted(digest: bytes, scene: Scene) -> str:
    trust = scene.policy.release
    if digest in scene.revoked:
        return "one that was revoked"
    if trust is not None and digest.hex() in trust.deny:
        return "one the trust policy denies"
    unpinned = trust is not None and trust.pins and digest.hex() not in trust.pins
    return "one the trust policy does not pin" if unpinned else ""


def _measured(release: ReleaseEntry, facts: EvidenceFacts, findings: Findings) -> None:
    name = "release.measured"
    if facts.tier == SOFTWARE_TIER:
        findings.skipped("software evidence measures nothing", name)
        return
    if facts.tpm2 is not None and not _boots(release, facts):
        raise findings.failed(name, expected="a boot of the release", got="other PCR values")
    if facts.snp is not None and not _launches(release, facts.snp):
        raise findings.failed(name, expected="a measurement of the release", got=facts.snp.measurement)
    if facts.snp is None and not release.measurements["tpm2"]:
        findings.warned(name, "the release names no boot: only the trust policy's PCR values were compared")
    else:
        findings.passed(name, facts.measurement)


def _boots(release: ReleaseEntry, facts: EvidenceFacts) -> bool:
    """Whether the quoted PCRs are a boot of the release; one that names none leaves it to the policy's own PCRs."""
    boots = release.measurements["tpm2"]
    return not boots or any(pcrs.items() <= facts.pcrs.items() for pcrs in boots)


def _launches(release: ReleaseEntry, snp: SnpFacts) -> bool:
    """Whether measurement and, with a paravisor, PCR values come from one line of the release.

    A line with PCR values is a paravisor's: its measurement says nothing about what a guest without one runs.
    """
    lines = [line for line in release.measurements["sev-snp"] if line.measurement == snp.measurement]
    if snp.profile == DIRECT:
        return any(not line.pcrs for line in lines)
    return any(line.pcrs and line.pcrs.items() <= snp.pcrs.items() for line in lines)


def _profile(release: ReleaseEntry, statement: Statement) -> str:
    return next(name for name, digest in release.configs.items() if digest == statement.config_digest.hex())


def check_models(statement: Statement, scene: Scene, findings: Findings) -> tuple[ModelEntry, ...]:
    """Run checks 25 and 26; returns the models that may be used. Raises AttestationError when there is none."""
    trust = scene.policy.models
    if trust is None:
        findings.skipped(NO_MODEL, "model.logged", "model.accepted")
        return statement.models
    leaves = _logged_models(statement, trust, scene, findings)
    accepted = tuple(model for model in leaves if any(_accepted(model, leaf, trust, scene) for leaf in leaves[model]))
    if not accepted:
        expected = "a model the trust policy accepts" if trust.accept else "a model that was not revoked"
        raise findings.failed("model.accepted", expected=expected, got=_names(leaves))
    findings.passed("model.accepted", _names(accepted))
    return accepted


def _logged_models(
    statement: Statement, trust: ModelTrust, scene: Scene, findings: Findings
) -> dict[ModelEntry, list[Leaf]]:
    """Return the statement's models that a model signer describes in the log, each with the entries that do."""
    name = "model.logged"
    entries = [(leaf, _opened(leaf.entry, trust.signers)) for leaf in scene.leaves]
    found = {model: [leaf for leaf, entry in entries if _describes(entry, model)] for model in statement.models}
    logged = {model: [leaf for leaf in leaves if _in_log(leaf, scene)] for model, leaves in found.items()}
    kept = {model: leaves for model, leaves in logged.items() if leaves}
    if not kept:
        got = "one its proof does not lead to" if any(found.values()) else "none"
        raise findings.failed(name, expected=f"an entry of a model signer for {_names(found)}", got=got)
    if scene.log is None:
        findings.skipped(NO_LOG, name)
    else:
        findings.passed(name, _names(kept))
    return kept


def _in_log(leaf: Leaf, scene: Scene) -> bool:
    """Whether a leaf's proof leads to the checkpoint it names; True where there is no log to ask."""
    if scene.log is None:
        return True
    older = scene.log.older
    return leaf.checkpoint_no < len(older) and scene.log.includes(leaf, older[leaf.checkpoint_no])


def _describes(entry: Entry | None, model: ModelEntry) -> bool:
    return isinstance(entry, ModelEntryNote) and (entry.model_id, entry.manifest) == (model.model_id, model.manifest)


def _accepted(model: ModelEntry, leaf: Leaf, trust: ModelTrust, scene: Scene) -> bool:
    listed = not trust.accept or f"{model.model_id}@{model.manifest.hex()}" in trust.accept
    return listed and entry_digest(leaf.entry) not in scene.revoked


def _names(models: Iterable[ModelEntry]) -> str:
    return ", ".join(model.model_id for model in models)
