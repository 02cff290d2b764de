"""One fake node for all tests that only talk to it."""

from collections.abc import Iterator

import pytest

from tests.pcc_server.node_client import Client, Node


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as running:
        yield running


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with Client(node) as connected:
        yield connected
