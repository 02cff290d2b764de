"""What the checks computed about one node. Nothing here is the node's own claim (SPEC 12)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.wire.evidence import ModelEntry

SOFTWARE_TIER, TPM2_TIER, SNP_TIER = 0, 1, 2

TIER_WORDS = (
    "software, NOT private from the operator",
    "tpm2, NOT private from the operator",
    "sev-snp, private from the operator",
    "sev-snp with nvidia-cc, private from the operator",
)
UNWITNESSED_WORDS = "sev-snp, but no witness watches the log: NOT private from the operator"
CAPPED_WORDS = "sev-snp, but the GPU lies outside it: NOT private from the operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node serving one model, as computed from its evidence, its release and the log.

    measurement: hexadecimal launch measurement, ``none`` where nothing was measured.  pcrs: PCR number to hex value.
    evidence_t0: Unix seconds after which the evidence was made, None when nothing says so.  evidence_age_s: since then.
    release: name and version of the measured software, empty without one.  log_key: the key that signed the checkpoint.
    witnesses: how many witnesses of the policy cosigned the newest checkpoint.  ends: Unix seconds, earliest end.
    """

    tier: int
    tier_words: str
    measurement: str = "none"
    pcrs: Mapping[int, str] = field(default_factory=dict)
    model: ModelEntry
    evidence_t0: float | None = None
    evidence_age_s: float | None = None
    release: str = ""
    log_key: str = ""
    witnesses: int = 0
    ends: float
