"""What a client demands of a node before it seals anything to it. SPEC section 11."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from hybrid.errors import ConfigurationError
from hybrid.wire.canonical import JsonValue, canonical_json
from hybrid.wire.constants import MAX_CANDIDATES, SUITE
from hybrid.wire.encoding import deployment_name, identifier
from hybrid.wire.errors import WireError
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.note import NoteVerifier

from .rules import Rule
from .sev_snp import SnpTrust
from .tpm2 import Tpm2Trust

AllowSoftware = Literal["never", "loopback", "always"]
Freshness = Literal["witness", "nonce", "either"]

MAX_TIER = 3
CONFIDENTIAL_TIER = 2
MAX_EVIDENCE_AGE_S = 86_400

KEY_HINT = "paste the whole key as the node printed it at start: name+8 hex digits+base64"
SIGNER_HINT = "paste the whole key: name+8 hex digits+base64"

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTrust:
    """Whose word counts for software. pins: if given, only these entry digests.  deny: never these. 64 hex digits."""

    signers: tuple[str, ...]
    pins: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty signer list and digests that are none. Raises ConfigurationError."""
        check_signers("release.signers", self.signers)
        for name in ("pins", "deny"):
            check_digests(f"release.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrust:
    """Whose word counts for weights. accept: ``model_id@manifest`` in hexadecimal; empty accepts any that is signed."""

    signers: tuple[str, ...]
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty signer list and a model without its manifest. Raises ConfigurationError."""
        check_signers("models.signers", self.signers)
        for accepted in self.accept:
            model_id, _, manifest = accepted.rpartition("@")
            check_digests("models.accept", (manifest,))
            _identifier(model_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to trust, and how much. Make the usual one with ``Policy.pinned``.

    deployment: the one name to accept, or any when None.  endpoint: ``host:port`` it is reached at.
    directory_signers: note keys, one suffices.
    min_tier: 0 software, 1 measured boot, 2 confidential, 3 with a confidential GPU.
    allow_software: where tier 0 is acceptable; ``always`` warns at every use.
    candidates: how many nodes a request is sealed to, capped by the number that verify.
    freshness: what proves that evidence is young: cosignatures of witnesses, a nonce, or either.
    max_evidence_age_s: oldest acceptable evidence, for tiers 1 and up.
    release, models: whose software and weights count; None judges neither.
    log_policy: the transparency log and its witnesses; None uses no log.
    require: a rule of one's own, judged last.  text_digest: SHA-256 of the trust file this came from.
    """

    deployment: str | None = None
    endpoint: str | None = None
    directory_signers: tuple[str, ...] = ()
    min_tier: int = 0
    allow_software: AllowSoftware = "loopback"
    candidates: int = 3
    freshness: Freshness = "witness"
    max_evidence_age_s: int = 3600
    suites: tuple[str, ...] = (SUITE.hex(),)
    release: ReleaseTrust | None = None
    models: ModelTrust | None = None
    log_policy: LogPolicy | None = None
    tpm2: Tpm2Trust = field(default_factory=Tpm2Trust)
    sev_snp: SnpTrust = field(default_factory=SnpTrust)
    require: Rule | None = None
    text_digest: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing. Raises ConfigurationError naming the field."""
        _one_of("allow_software", self.allow_software, ("never", "loopback", "always"))
        _one_of("freshness", self.freshness, ("witness", "nonce", "either"))
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
        self._confidential()

    def _confidential(self) -> None:
        """Tier 2 stands on a log with witnesses and on a known release (SPEC 5, 12). Raises ConfigurationError."""
        if self.min_tier < CONFIDENTIAL_TIER:
            return
        if self.log_policy is None or not self.log_policy.has_quorum:
            raise ConfigurationError(
                "the trust policy's min_tier needs a log_policy with a quorum of witnesses",
                hint="name the log and its witnesses in log_policy, or lower min_tier",
            )
        if self.release is None:
            raise ConfigurationError(
                "the trust policy's min_tier needs a release signer, or no measurement could be known",
                hint="name the publisher's key in release.signers, or lower min_tier",
            )

    @classmethod
    def pinned(cls, node_key: str, *, allow_software: AllowSoftware = "loopback") -> "Policy":
        """Trust exactly the node whose key this is, as it was printed when the node started.

        Raises ConfigurationError when the key is malformed.
        """
        return cls(directory_signers=(node_key.strip(),), allow_software=allow_software)

    @property
    def digest(self) -> str:
        """64 hex digits that name this policy in every record: of its file, else of what its fields say."""
        return self.text_digest or hashlib.sha256(canonical_json(_words(self))).hexdigest()


def parse_signer(key: str) -> NoteVerifier:
    """Read a note verification key. Raises ConfigurationError; the key itself is never repeated in the message."""
    try:
        return NoteVerifier.parse(key)
    except (WireError, ValueError):
        raise ConfigurationError("the node key is malformed", hint=KEY_HINT) from None


def check_signers(name: str, keys: tuple[str, ...]) -> None:
    """Refuse an empty list and keys that do not parse. Raises ConfigurationError naming the field."""
    if not keys:
        raise ConfigurationError(f"the trust policy's {name} is empty", hint="name a key, or leave the table out")
    for key in keys:
        try:
            NoteVerifier.parse(key)
        except (WireError, ValueError):
            raise ConfigurationError(f"a key in the trust policy's {name} is malformed", hint=SIGNER_HINT) from None


def check_digests(name: str, digests: tuple[str, ...]) -> None:
    """Refuse what is no SHA-256 in lower-case hexadecimal. Raises ConfigurationError naming the field."""
    if not all(_DIGEST.fullmatch(value) for value in digests):
        raise ConfigurationError(f"the trust policy's {name} takes digests of 64 lower-case hex digits")


def _dns_name(deployment: str | None) -> None:
    try:
        deployment_name(deployment or "localhost")
    except WireError:
        raise ConfigurationError("the trust policy's deployment must be a lower-case DNS name") from None


def _identifier(model_id: str) -> None:
    try:
        identifier(model_id)
    except WireError:
        raise ConfigurationError("the trust policy's models.accept takes model_id@manifest") from None


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"the trust policy's {name} accepts {', '.join(allowed)} and nothing else")


def _within(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"the trust policy's {name} must be an integer from {low} to {high}")


def _words(value: object) -> JsonValue:
    """Spell any value of a policy in canonical JSON's terms, so that equal policies have one digest."""
    if isinstance(value, LogPolicy):
        return value.encode()
    if isinstance(value, Mapping):
        return {str(key): _words(member) for key, member in value.items()}
    if isinstance(value, tuple):
        return [_words(member) for member in value]
    if is_dataclass(value):
        return {part.name: _words(getattr(value, part.name)) for part in fields(value)}
    return value if isinstance(value, str | int) else repr(value)
