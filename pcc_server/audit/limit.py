"""What no setting of a node changes, in the words of node design 3.2, "Honest limit"."""

import os

from pcc_server.events import Program

from .node import Node
from .report import Check, Row, State, Unseen

HARDENING = "hardening raises cost and stops accidents, other users and remote attackers"
READABLE = f"On a plain host the operator can always read live requests; {HARDENING}"
CONFIDENTIAL = (
    "Only a confidential VM (tier 2 up) changes whom one must trust, and published bus-interposer attacks break those "
    "for someone with physical access"
)
OPERATOR = Check("limit.operator", "the tier says whom clients must trust", f"{READABLE}. {CONFIDENTIAL}")
_TIERS = {"software": 0, "tpm2": 1, "sev-snp": 2}


def row(node: Node) -> Row:
    """Say it, and whether this very program could just have read the worker's memory."""
    tier = _TIERS[node.settings.attester]
    return OPERATOR.row(State.LIMIT, f"tier {tier} {node.settings.attester}; {_tried(node)}")


def _tried(node: Node) -> str:
    try:
        path = node.machine.root / node.proc(Program.WORKER, "mem")
        os.close(os.open(path, os.O_RDONLY))
    except (OSError, Unseen):
        return "this user cannot open the worker's memory, full root can"
    return "this user has just opened the worker's memory"
