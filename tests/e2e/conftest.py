"""Nodes by fault, each started once; an empty home for everything the command line reads."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hybrid.testing import FakeNode
from tests.cli.conftest import own_world

__all__ = ["own_world"]

NodeOf = Callable[[str | None], FakeNode]

ENDING = ("die_midstream", "die_before_head", "abort", "hang")


@pytest.fixture(scope="session")
def node_of() -> Iterator[NodeOf]:
    """Return the true node with a fault, or none; kept for the other tests that want the same one."""
    started: dict[str | None, FakeNode] = {}
    with ExitStack() as stack:

        def node(fault: str | None = None) -> FakeNode:
            if fault not in started or fault in ENDING:  # its worker ends: the next test wants a whole node
                started[fault] = stack.enter_context(FakeNode.run(fault))
            return started[fault]

        yield node
