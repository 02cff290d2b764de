"""Named checks and their results, in the order of SPEC section 12."""

from dataclasses import dataclass
from enum import StrEnum

from hybrid.errors import AttestationError


class CheckStatus(StrEnum):
    """How one named check ended. ``skip`` always carries its reason."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    WARN = "warn"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One named check, its verdict and one phrase about what was seen."""

    name: str
    status: CheckStatus
    detail: str = ""


class Findings:
    """The results of one verification, in order. A failure is recorded and comes back as the error to raise."""

    def __init__(self, checks: tuple[Check, ...] = ()) -> None:
        self._checks = list(checks)

    def passed(self, name: str, detail: str = "") -> None:
        """Record that a check held."""
        self._add(name, CheckStatus.PASS, detail)

    def warned(self, name: str, detail: str) -> None:
        """Record that a check held only because the policy says so."""
        self._add(name, CheckStatus.WARN, detail)

    def skipped(self, reason: str, *names: str) -> None:
        """Record checks that did not apply, with the reason."""
        for name in names:
            self._add(name, CheckStatus.SKIP, reason)

    def failed(self, name: str, *, expected: str, got: str, hint: str = "") -> AttestationError:
        """Record a failure and return the error for it; ``expected`` and ``got`` complete a sentence."""
        self._add(name, CheckStatus.FAIL, f"expected {expected}, got {got}")
        error = attestation_error(name, expected=expected, got=got, hint=hint)
        error.checks = self.all()
        return error

    def all(self) -> tuple[Check, ...]:
        """Return everything recorded so far."""
        return tuple(self._checks)

    def _add(self, name: str, status: CheckStatus, detail: str) -> None:
        self._checks.append(Check(name=name, status=status, detail=detail))


HINTS = {
    "log.note": "name the key of the deployment's log in log_policy, or ask its operator which it is",
    "log.quorum": "ask the operator why witnesses are missing; nothing is sent meanwhile",
    "log.clock": "set this device's clock by network time, then try again",
    "log.rollback": "try again later; a mirror that lags does this, and the directory in use stays in use",
    "log.consistency": "ask the deployment's operator; a log that contradicts itself is kept as proof on this device",
    "directory.logged": "ask the deployment's operator why the directory is not in the log",
    "evidence.fresh": "set this device's clock by network time; if it is right, the node shows old evidence",
    "tpm2.ak-trusted": "enrol the machine: pcc-server attest enrol prints the line for ak_names",
    "release.signed": "name the publisher's key in release.signers, if you know it",
    "release.valid": "the operator must install a release that is in force",
    "model.accepted": "accept this model in models.accept, or ask for another one",
    "policy.require": "use another node, or change the rule in the trust policy",
    "directory.signature": "if the node was restarted, use the key it prints now; else something else answers",
    "directory.current": "set this device's clock and the node's by network time, then try again",
    "directory.unique": "the deployment shows different directories; ask its operator before sending anything",
    "directory.intact": "most of the deployment does not verify; ask its operator",
    "bundle.validity": "set this device's clock and the node's by network time, then try again",
    "keys.epoch": "set this device's clock and the node's by network time, then try again",
    "tier.software": "use a node on this machine, or allow software evidence for this deployment in the trust policy",
    "tier.minimum": "use a node with stronger evidence, or lower min_tier in the trust policy",
}
DEFAULT_HINT = "do not use this node until its operator can explain the failed check"


def attestation_error(name: str, *, expected: str, got: str, hint: str = "") -> AttestationError:
    """Return the error of one failed check, with a hint of its own."""
    return AttestationError(
        f"the node failed the check {name}: expected {expected}, got {got}",
        check=name,
        expected=expected,
        got=got,
        hint=hint or HINTS.get(name, DEFAULT_HINT),
    )
