"""Who may be sealed to: the trust policy and the verification that turns listed nodes into verified ones.

Pure: evidence arrives as bytes, the clock as a number. SPEC sections 11 to 13. A policy in Python::

    from hybrid.trust import AllOf, AnyOf, MeasurementIn, Policy, TierAtLeast
    Policy(..., require=AnyOf(TierAtLeast(2), AllOf(TierAtLeast(1), MeasurementIn("9f05…"))))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .policy import ModelTrust, Policy, ReleaseTrust
    from .rules import AllOf, AnyOf, EvidenceYoungerThan, LogKey, MeasurementIn, ModelIs, TierAtLeast, WitnessQuorum
    from .sev_snp import SnpTrust
    from .toml import TrustFile, parse_trust
    from .tpm2 import Tpm2Trust
    from .verify import VerifiedDirectory, VerifiedNode, Verifier

_HOMES = {
    "AllOf": "rules",
    "AnyOf": "rules",
    "EvidenceYoungerThan": "rules",
    "LogKey": "rules",
    "MeasurementIn": "rules",
    "ModelIs": "rules",
    "ModelTrust": "policy",
    "Policy": "policy",
    "ReleaseTrust": "policy",
    "SnpTrust": "sev_snp",
    "TierAtLeast": "rules",
    "Tpm2Trust": "tpm2",
    "TrustFile": "toml",
    "VerifiedDirectory": "verify",
    "VerifiedNode": "verify",
    "Verifier": "verify",
    "WitnessQuorum": "rules",
    "parse_trust": "toml",
}

__all__ = [
    "AllOf",
    "AnyOf",
    "EvidenceYoungerThan",
    "LogKey",
    "MeasurementIn",
    "ModelIs",
    "ModelTrust",
    "Policy",
    "ReleaseTrust",
    "SnpTrust",
    "TierAtLeast",
    "Tpm2Trust",
    "TrustFile",
    "VerifiedDirectory",
    "VerifiedNode",
    "Verifier",
    "WitnessQuorum",
    "parse_trust",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
