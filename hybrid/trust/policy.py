"""What a client demands of a node before it seals anything to it. SPEC section 11."""

from dataclasses import dataclass
from typing import Literal

from hybrid.errors import ConfigurationError
from hybrid.wire.constants import MAX_CANDIDATES, SUITE
from hybrid.wire.encoding import deployment_name
from hybrid.wire.errors import WireError
from hybrid.wire.note import NoteVerifier

AllowSoftware = Literal["never", "loopback", "always"]

MAX_TIER = 3
MAX_EVIDENCE_AGE_S = 86_400

KEY_HINT = "paste the whole key as the node printed it at start: name+8 hex digits+base64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The trust rules for one deployment. Nothing left the device when it refuses.

    deployment: its name, None accepts the one the pinned signer states.
    directory_signers: note keys (``name+hash+base64``) that may say which nodes belong to it.
    min_tier: 0 software, 1 measured boot, 2 confidential, 3 with a confidential GPU.
    allow_software: where tier 0 is acceptable; ``always`` warns at every use.
    candidates: how many nodes a request is sealed to, capped by the number that verify.
    max_evidence_age_s: oldest acceptable evidence, for tiers 1 and up.
    """

    deployment: str | None = None
    directory_signers: tuple[str, ...] = ()
    min_tier: int = 0
    allow_software: AllowSoftware = "loopback"
    candidates: int = 3
    suites: tuple[str, ...] = (SUITE.hex(),)
    max_evidence_age_s: int = 3600

    def __post_init__(self) -> None:
        """Refuse values that mean nothing. Raises ConfigurationError naming the field."""
        _one_of("allow_software", self.allow_software, ("never", "loopback", "always"))
        _within("min_tier", self.min_tier, 0, MAX_TIER)
        _within("candidates", self.candidates, 1, MAX_CANDIDATES)
        _within("max_evidence_age_s", self.max_evidence_age_s, 1, MAX_EVIDENCE_AGE_S)
        _dns_name(self.deployment)
        if not self.suites:
            raise ConfigurationError(
                "the trust policy allows no cipher suite", hint=f"version 1 has one: {SUITE.hex()}"
            )
        for suite in self.suites:
            _one_of("suites", suite, (SUITE.hex(),))
        for key in self.directory_signers:
            parse_signer(key)

    @classmethod
    def pinned(cls, node_key: str, *, allow_software: AllowSoftware = "loopback") -> "Policy":
        """Trust exactly the node whose key this is, as it was printed when the node started.

        Raises ConfigurationError when the key is malformed.
        """
        return cls(directory_signers=(node_key.strip(),), allow_software=allow_software)


def parse_signer(key: str) -> NoteVerifier:
    """Read a note verification key. Raises ConfigurationError; the key itself is never repeated in the message."""
    try:
        return NoteVerifier.parse(key)
    except (WireError, ValueError):
        raise ConfigurationError("the node key is malformed", hint=KEY_HINT) from None


def _dns_name(deployment: str | None) -> None:
    try:
        deployment_name(deployment or "localhost")
    except WireError:
        raise ConfigurationError("the trust policy's deployment must be a lower-case DNS name") from None


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"the trust policy's {name} accepts {', '.join(allowed)} and nothing else")


def _within(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"the trust policy's {name} must be an integer from {low} to {high}")
