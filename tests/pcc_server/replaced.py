"""A node whose parts are killed, and which is asked whether it serves again."""

import sys
from pathlib import Path
from typing import Any

import grpc

from pcc_server import health
from tests.pcc_server.node_client import Node, kill, until

HARDY = str(Path(__file__).with_name("hardy.py"))
INFERENCE = b"\x0a" + bytes([len(health.INFERENCE)]) + health.INFERENCE.encode()
BACK_S = 30.0  # for a part to be there again, on a machine that does other things too


def hardy(*words: str) -> dict[str, Any]:
    """Options of a node whose launcher has other patience; see hardy.py."""
    return {"command": (sys.executable, "-P", HARDY, *words)}


def status(node: Node) -> health.Serving:
    with grpc.insecure_channel(node.address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        check: Any = channel.unary_unary(health.CHECK)
        try:
            reply = check(INFERENCE, timeout=5)
        except grpc.RpcError:
            return health.Serving.UNKNOWN
    return health.Serving(reply[1])


def serves(node: Node) -> bool:
    return status(node) is health.Serving.SERVING


def serves_again(node: Node, program: str, before: int) -> int:
    """Wait for another process in a program's place, and for the node to serve; returns its pid."""

    def other() -> int:
        try:
            return pid if (pid := node.pid(program)) != before else 0
        except AssertionError:
            return 0

    pid = int(until(other, BACK_S))
    until(lambda: serves(node), BACK_S)
    return pid


def replace(node: Node, program: str) -> int:
    """Kill a part; returns the pid of the one in its place, when the node serves again."""
    before = node.pid(program)
    kill(before)
    return serves_again(node, program, before)
