"""Bad input through the real SDK and command line at the true node: a clear error, its exit code, nothing sent.

Elsewhere already: empty prompts, an argument that is not UTF-8, unknown models (tests/cli/test_ask.py and
test_store_commands.py), the engine missing in the SDK (tests/sdk/test_local.py).
"""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid.cli import main
from hybrid.client import Client
from hybrid.errors import ConfigurationError, ContextOverflowError
from hybrid.testing import FakeEngine, FakeNode
from hybrid.trust.policy import Policy
from tests.cli.processes import PATIENCE_S, start
from tests.cli.scenes import COMPLEX
from tests.e2e.conftest import NodeOf
from tests.e2e.proxy import Wire, watched

TWO_MB = "word " * 400_000
SLACK = 512  # of HTTP/2's own talk, which differs a little from one connection to the next


def node_words(node: FakeNode, wire: Wire) -> tuple[str, ...]:
    return ("ask", "--private-cloud", "--node", wire.address, "--node-key", node.key)


def sent_by_contact(node: FakeNode) -> int:
    """Bytes sent to learn that the node is what it should be, and no more."""
    with watched(node.address) as wire:
        with Client(node=wire.address, trust=Policy.pinned(node.key), engine=FakeEngine()) as client:
            client.context_size("private_cloud")
        return len(wire.sent)


def test_two_megabytes_are_exit_6_with_limit_and_need_and_no_byte_of_them_is_sent(node_of: NodeOf) -> None:
    node = node_of(None)
    contact = sent_by_contact(node)
    with watched(node.address) as wire:
        result = CliRunner().invoke(main, [*node_words(node, wire)], input=TWO_MB)
        assert (result.exit_code, result.stdout) == (6, "")
        assert "8192" in result.stderr  # what the fake model holds
        assert "500005" in result.stderr  # four bytes a token, and the frame
        assert len(wire.sent) <= contact + SLACK
    with watched(node.address) as wire:  # the control: the smallest request shows
        control = CliRunner().invoke(main, [*node_words(node, wire), "--max-tokens", "3", "hello you"])
        assert control.exit_code == 0
        assert len(wire.sent) > contact + SLACK


def test_two_megabytes_pass_no_gate_in_the_sdk_and_say_limit_and_need(node_of: NodeOf) -> None:
    node, engine = node_of(None), FakeEngine()
    with Client(node=node, engine=engine) as client:
        gate = client._async._driver.handover.gate
        for policy in ("only_private_cloud", "auto", "only_on_device"):
            with pytest.raises(ContextOverflowError) as caught:
                client.ask(TWO_MB, policy=policy)
            assert caught.value.needed > 400_000 > caught.value.limit > 0
            assert caught.value.left_device == "no"
        assert (gate.bytes_sent, engine.requests) == (0, [])
        client.ask(COMPLEX, policy="only_private_cloud")
        assert gate.bytes_sent > len(COMPLEX)  # the control


def test_invalid_utf8_on_stdin_is_exit_2_by_offset_before_any_contact(node_of: NodeOf) -> None:
    node = node_of(None)
    with watched(node.address) as wire:
        process = start("real", *node_words(node, wire), "What?", stdin=subprocess.PIPE)
        out, talk = process.communicate(b"canary \xff\xfe", timeout=PATIENCE_S)
    assert (process.returncode, out) == (2, b"")
    assert talk.startswith(b"error: standard input is not UTF-8: byte 7 ")
    assert b"canary" not in talk
    assert wire.sent == b""


def test_nothing_to_ask_is_exit_2_before_any_contact(node_of: NodeOf) -> None:
    node = node_of(None)
    with watched(node.address) as wire:
        process = start("real", *node_words(node, wire))
        out, talk = process.communicate(timeout=PATIENCE_S)
        trust = Policy.pinned(node.key)
        with (
            Client(node=wire.address, trust=trust, engine=FakeEngine()) as client,
            pytest.raises(ConfigurationError, match="empty"),
        ):
            client.ask(" \n")
    assert (process.returncode, out, wire.sent) == (2, b"", b"")
    assert b"hint: ask something" in talk


WITHOUT_MLX = """
import sys
sys.modules["mlx"] = None  # as where it was never installed
from hybrid.cli import main
main(sys.argv[1:])
"""


def test_a_label_that_says_device_without_its_engine_is_exit_4_and_nothing_is_sent(
    node_of: NodeOf, own_world: Path
) -> None:
    node = node_of(None)
    with watched(node.address) as wire:
        words = ["ask", "--node", wire.address, "--node-key", node.key, "--max-tokens", "3"]

        def run(*more: str) -> "subprocess.CompletedProcess[str]":
            program = [sys.executable, "-c", WITHOUT_MLX, *words, *more, COMPLEX]
            return subprocess.run(
                program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=own_world,
                env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "HOME": str(own_world)},
            )  # fmt: skip

        held = run("-f", "mail.eml")
        assert (held.returncode, held.stdout) == (4, "")
        assert "mail.eml is limited to the device" in held.stderr
        assert wire.sent == b""
        free = run()  # the control: without the mail the node answers
        assert free.returncode == 0, free.stderr
        assert free.stdout.startswith("fake engine: token 1 ")
