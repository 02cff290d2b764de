"""The true node with its fake engine, as a child process on a free loopback port."""

from collections.abc import Sequence
from typing import Self

from hybrid.own_node import OWN_COMMAND, OwnNode

READY_S = 60.0


class FakeNode(OwnNode):
    """Real gRPC, real sealing, real evidence at tier 0; the answers are made up. A context manager.

    ``with FakeNode.run() as node: Client(node=node, …)``. The faults are the node's own, listed by
    ``pcc-server serve --help``; it accepts them with the fake engine on loopback alone.
    """

    @classmethod
    def run(cls, fault: str | None = None, *, options: Sequence[str] = (), timeout: float = READY_S) -> Self:
        """Start it. fault: a name such as ``cut_stream``.  options: further words for ``pcc-server serve``."""
        words = (*(("--fault", fault) if fault else ()), *options)
        return cls.start(engine="fake", options=words, timeout=timeout, command=OWN_COMMAND)
