"""Mode x label x availability: every expected outcome, written out (R5, and experience 3.4)."""

import pytest

from hybrid.routing.decide import LabelForbids, NoRoute, decide
from hybrid.routing.labels import LabelReason, Labels
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, RouteState, Signals
from tests.routing.cases import HARD, MAIL, SCORER, SIMPLE, one_turn

BOTH, NO_NODE, NO_MODEL, NEITHER, OFFLINE = ("both", "no_node", "no_model", "neither", "offline")
BAD_EVIDENCE, OLD_EVIDENCE, OLD_KEY, OVER_QUOTA = ("bad_evidence", "old_evidence", "old_key", "over_quota")
HAVE = RouteState()
NODE_AWAY = RouteState(available=False, reason="no_node")
MODEL_AWAY = RouteState(available=False, reason="model_not_downloaded")
UNVERIFIED = RouteState(available=False, reason="attestation_failed")
EXPIRED = RouteState(available=False, reason="key_expired")
SITUATIONS = {
    BOTH: Signals(),
    NO_NODE: Signals(availability=Availability(private_cloud=NODE_AWAY)),
    NO_MODEL: Signals(availability=Availability(on_device=MODEL_AWAY)),
    NEITHER: Signals(availability=Availability(on_device=MODEL_AWAY, private_cloud=NODE_AWAY)),
    OFFLINE: Signals(offline=True),
    BAD_EVIDENCE: Signals(availability=Availability(private_cloud=UNVERIFIED)),
    OLD_EVIDENCE: Signals(evidence_age_s=7200.0, evidence_limit_s=3600.0),
    OLD_KEY: Signals(availability=Availability(private_cloud=EXPIRED)),
    OVER_QUOTA: Signals(quota_left=0.0),
}

# Outcome: "route: codes" in their order, "label forbids" with source and label, or "none" with the code
# of the device, that of the cloud, and the source whose label bound.
S, C = "simple", "complex"
FREE = {  # nothing limits the text
    "only_on_device": {
        BOTH: ("on_device mode S", "on_device mode C"),
        NO_NODE: ("on_device mode S", "on_device mode C"),
        NO_MODEL: ("none model_not_downloaded mode",) * 2,
        NEITHER: ("none model_not_downloaded mode",) * 2,
        OFFLINE: ("on_device mode S", "on_device mode C"),
        BAD_EVIDENCE: ("on_device mode S", "on_device mode C"),
        OLD_EVIDENCE: ("on_device mode S", "on_device mode C"),
        OLD_KEY: ("on_device mode S", "on_device mode C"),
        OVER_QUOTA: ("on_device mode S", "on_device mode C"),
    },
    "prefer_on_device": {
        BOTH: ("on_device mode S", "on_device mode C"),
        NO_NODE: ("on_device no_node S", "on_device no_node C"),
        NO_MODEL: ("private_cloud model_not_downloaded degraded S", "private_cloud model_not_downloaded degraded C"),
        NEITHER: ("none model_not_downloaded no_node",) * 2,
        OFFLINE: ("on_device offline S", "on_device offline C"),
        BAD_EVIDENCE: ("on_device attestation_failed S", "on_device attestation_failed C"),
        OLD_EVIDENCE: ("on_device attestation_stale S", "on_device attestation_stale C"),
        OLD_KEY: ("on_device key_expired S", "on_device key_expired C"),
        OVER_QUOTA: ("on_device quota_reached S", "on_device quota_reached C"),
    },
    "auto": {
        BOTH: ("on_device S", "private_cloud C"),
        NO_NODE: ("on_device no_node S", "on_device no_node degraded C"),
        NO_MODEL: ("private_cloud model_not_downloaded degraded S", "private_cloud model_not_downloaded C"),
        NEITHER: ("none model_not_downloaded no_node",) * 2,
        OFFLINE: ("on_device offline S", "on_device offline degraded C"),
        BAD_EVIDENCE: ("on_device attestation_failed S", "on_device attestation_failed degraded C"),
        OLD_EVIDENCE: ("on_device attestation_stale S", "on_device attestation_stale degraded C"),
        OLD_KEY: ("on_device key_expired S", "on_device key_expired degraded C"),
        OVER_QUOTA: ("on_device quota_reached S", "on_device quota_reached degraded C"),
    },
    "prefer_private_cloud": {
        BOTH: ("private_cloud mode S", "private_cloud mode C"),
        NO_NODE: ("on_device no_node degraded S", "on_device no_node degraded C"),
        NO_MODEL: ("private_cloud model_not_downloaded S", "private_cloud model_not_downloaded C"),
        NEITHER: ("none model_not_downloaded no_node",) * 2,
        OFFLINE: ("on_device offline degraded S", "on_device offline degraded C"),
        BAD_EVIDENCE: ("on_device attestation_failed degraded S", "on_device attestation_failed degraded C"),
        OLD_EVIDENCE: ("on_device attestation_stale degraded S", "on_device attestation_stale degraded C"),
        OLD_KEY: ("on_device key_expired degraded S", "on_device key_expired degraded C"),
        OVER_QUOTA: ("on_device quota_reached degraded S", "on_device quota_reached degraded C"),
    },
    "only_private_cloud": {
        BOTH: ("private_cloud mode S", "private_cloud mode C"),
        NO_NODE: ("none mode no_node",) * 2,
        NO_MODEL: ("private_cloud mode S", "private_cloud mode C"),
        NEITHER: ("none mode no_node",) * 2,
        OFFLINE: ("none mode offline",) * 2,
        BAD_EVIDENCE: ("none mode attestation_failed",) * 2,
        OLD_EVIDENCE: ("none mode attestation_stale",) * 2,
        OLD_KEY: ("none mode key_expired",) * 2,
        OVER_QUOTA: ("none mode quota_reached",) * 2,
    },
}


def limited(mode: str, situation: str, code: str, source: str) -> tuple[str, str]:
    """With text that may not leave: the device or nothing, whatever the mode wants and whatever is available."""
    if mode == "only_private_cloud":
        return (f"label forbids {source} on_device",) * 2
    if situation in {NO_MODEL, NEITHER}:
        return (f"none model_not_downloaded {code} {source}",) * 2
    return f"on_device {code} S", f"on_device {code} C"


def expected_of(label: str, mode: str, situation: str, free: tuple[str, str]) -> tuple[str, str]:
    """Return what is expected of a simple and of a hard question."""
    if label == "source":
        return limited(mode, situation, "label", "doctor.eml")
    return limited(mode, situation, "recognised", "prompt") if label == "found" else free


LABELS = ("free", "source", "found")
CASES = [
    pytest.param(Mode(mode), situation, label, text, expected, id=f"{mode}-{situation}-{label}-{depth}")
    for mode, table in FREE.items()
    for situation, free in table.items()
    for label in LABELS
    for depth, text, expected in zip(
        ("simple", "hard"), (SIMPLE, HARD), expected_of(label, mode, situation, free), strict=True
    )
]


def test_the_table_is_complete() -> None:
    assert len(CASES) == len(Mode) * len(SITUATIONS) * len(LABELS) * 2


@pytest.mark.parametrize(("mode", "situation", "label", "text", "expected"), CASES)
def test_the_route_and_its_reasons_are_the_ones_in_the_table(
    mode: Mode, situation: str, label: str, text: str, expected: str
) -> None:
    got = outcome(text, SITUATIONS[situation], mode, label)
    words = {"S": S, "C": C}
    assert got == " ".join(words.get(w, w) for w in expected.split())


def outcome(text: str, signals: Signals, mode: Mode, label: str) -> str:
    """Decide and put the outcome into the words of the table."""
    request, labels = one_turn(text, *((MAIL,) if label == "source" else ()))
    if label == "found":
        labels = Labels(tuple(s.restricted(LabelReason.RECOGNISED, ("IBAN_CODE",)) for s in labels.segments))
    try:
        decision = decide(request, labels, signals, mode, SCORER)
    except LabelForbids as error:
        return f"label forbids {error.source} {error.label}"
    except NoRoute as error:
        return f"none {error.per_route['on_device']} {error.per_route['private_cloud']} {error.source}".strip()
    return " ".join((str(decision.route), *decision.codes))
