"""Mode x label x node, with what must come of it written out."""

import pytest

from hybrid.errors import HybridError
from hybrid.sources import Source
from hybrid.testing import FakeEngine, MemoryTransport
from tests.support import HARD, Bench, sync_face

# (mode, label, node) -> device, node, or the error. The prompt is one the score would hand over.
TABLE = {
    ("only_on_device", "none", "good"): "device",
    ("only_on_device", "none", "absent"): "device",
    ("only_on_device", "none", "false"): "device",
    ("only_on_device", "none", "unset"): "device",
    ("only_on_device", "held", "good"): "device",
    ("only_on_device", "held", "absent"): "device",
    ("only_on_device", "held", "false"): "device",
    ("only_on_device", "held", "unset"): "device",
    ("prefer_on_device", "none", "good"): "device",
    ("prefer_on_device", "none", "absent"): "device",
    ("prefer_on_device", "none", "false"): "device",
    ("prefer_on_device", "none", "unset"): "device",
    ("prefer_on_device", "held", "good"): "device",
    ("prefer_on_device", "held", "absent"): "device",
    ("prefer_on_device", "held", "false"): "device",
    ("prefer_on_device", "held", "unset"): "device",
    ("auto", "none", "good"): "node",
    ("auto", "none", "absent"): "device",
    ("auto", "none", "false"): "device",
    ("auto", "none", "unset"): "device",
    ("auto", "held", "good"): "device",
    ("auto", "held", "absent"): "device",
    ("auto", "held", "false"): "device",
    ("auto", "held", "unset"): "device",
    ("prefer_private_cloud", "none", "good"): "node",
    ("prefer_private_cloud", "none", "absent"): "device",
    ("prefer_private_cloud", "none", "false"): "device",
    ("prefer_private_cloud", "none", "unset"): "device",
    ("prefer_private_cloud", "held", "good"): "device",
    ("prefer_private_cloud", "held", "absent"): "device",
    ("prefer_private_cloud", "held", "false"): "device",
    ("prefer_private_cloud", "held", "unset"): "device",
    ("only_private_cloud", "none", "good"): "node",
    ("only_private_cloud", "none", "absent"): "APIConnectionError",
    ("only_private_cloud", "none", "false"): "AttestationError",
    ("only_private_cloud", "none", "unset"): "NoRouteError",
    ("only_private_cloud", "held", "good"): "PolicyError",
    ("only_private_cloud", "held", "absent"): "PolicyError",
    ("only_private_cloud", "held", "false"): "PolicyError",
    ("only_private_cloud", "held", "unset"): "PolicyError",
}
FAULTS = {"good": None, "absent": "no_directory", "false": "other_key", "unset": None}


@pytest.mark.parametrize(("mode", "label", "node"), list(TABLE))
def test_who_answers(mode: str, label: str, node: str) -> None:
    bench = Bench(node=MemoryTransport(fault=FAULTS[node]))
    sources = [Source.text("canary", label="held", max_route="on_device")] if label == "held" else []
    options = {"engine": FakeEngine(["here"])} if node == "unset" else bench.options()
    with sync_face(**options, policy=mode) as client:
        try:
            reply = client.ask(HARD, sources=sources)
            outcome = "node" if reply.route == "private_cloud" else "device"
        except HybridError as error:
            outcome = type(error).__name__
    assert outcome == TABLE[mode, label, node]
    assert "canary" not in bench.node_read
    if outcome != "node":
        assert bench.node.sealed == []
    if outcome == "device" and mode in {"auto", "prefer_private_cloud"}:
        wanted = {"held": "label", "none": "degraded"}[label] if node != "unset" else "no_node"
        assert wanted in reply.decision.codes or "label" in reply.decision.codes
