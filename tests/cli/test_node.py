"""Against the true node with its fake engine: real gRPC, sealing and evidence, a process that can be killed."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from hybrid.cli import main
from hybrid.cli.door import Doors
from hybrid.own_node import OwnNode
from hybrid.testing import FakeNode
from tests.cli.processes import PATIENCE_S, Terminal
from tests.cli.scenes import COMPLEX, Scene

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    with FakeNode.run() as running:
        yield running


def at(node: OwnNode, key: str | None = None) -> list[str]:
    return ["--private-cloud", "--node", node.address, "--node-key", key or node.key]


def gone(pid: int) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_question_goes_to_the_node_and_comes_back(node: FakeNode) -> None:
    result = CliRunner().invoke(main, ["ask", "-v", *at(node), "--max-tokens", "5", QUESTION])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "fake engine: token 1 token 2 token 3 token 4 token 5 \n"
    assert "NOT private from the operator" in result.stderr


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def with_own_node(started: list[OwnNode]) -> Doors:
    def own(_: object) -> OwnNode:
        started.append(OwnNode.start(engine="fake"))
        return started[-1]

    return Doors(client=Scene().client, own_node=own)


@pytest.mark.parametrize("words", [["chat", "--local-node"], ["ask", "--local-node"]])
def test_a_local_node_answers_and_is_stopped_afterwards(words: list[str]) -> None:
    started: list[OwnNode] = []
    result = CliRunner().invoke(main, [*words, "--max-tokens", "3"], input=f"{COMPLEX}\n", obj=with_own_node(started))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "fake engine: token 1 token 2 token 3 \n"
    assert not started[0].running


def test_a_local_node_asks_for_no_consent_and_is_gone_after_the_chat() -> None:
    with Terminal("own-node", "chat", "--local-node", "--max-tokens", "3") as terminal:
        terminal.wait_for("> ")
        terminal.type(COMPLEX + "\n")
        shown = terminal.wait_for("▲ private cloud")
        assert "Allow" not in shown
        nodes = children(terminal.process.pid)
        assert nodes
        terminal.type("/bye\n")
        assert terminal.end() == 0
        assert all(gone(pid) for pid in nodes)


def test_a_chat_that_is_told_to_end_takes_its_node_along() -> None:
    with Terminal("own-node", "chat", "--local-node", "--max-tokens", "3") as terminal:
        terminal.type(COMPLEX + "\n")
        terminal.wait_for("▲ private cloud")
        nodes = children(terminal.process.pid)
        terminal.terminate()
        assert terminal.end() == 128 + signal.SIGTERM
        assert all(gone(pid) for pid in nodes)
