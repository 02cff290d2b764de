"""A node that is absent, another one, or dies in mid-answer; and a node of one's own that must not outlive its owner.

Consent, retries and the pause after failures are tested over a transport in memory: tests/sdk/test_breaker.py.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from hybrid.cli import main
from hybrid.cli.door import Doors
from hybrid.client import Client
from hybrid.errors import APIConnectionError, AttestationError, IntegrityError
from hybrid.events import Event, Retry
from hybrid.testing import FakeEngine, FakeNode
from hybrid.trust.policy import Policy
from hybrid.wire.note import NoteSigner
from hybrid.wire.types import Route
from tests.cli.processes import PATIENCE_S, start
from tests.cli.scenes import COMPLEX
from tests.e2e.conftest import NodeOf
from tests.e2e.proxy import watched

PARTS = ("launcher", "gateway", "worker")


def part_of(node: FakeNode, name: str) -> psutil.Process:
    launcher = psutil.Process(node.pid)
    if name == "launcher":
        return launcher
    return next(child for child in launcher.children() if f"pcc_server.{name}" in child.cmdline())


def key() -> str:
    """A well-formed key that is nobody's."""
    return NoteSigner.generate("localhost/directory").vkey


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("part", PARTS)
def test_a_node_killed_in_mid_answer_is_an_error_and_the_partial_text_stays(part: str) -> None:
    with FakeNode.run(options=("--fake-delay-ms", "50")) as node:
        words = ("--private-cloud", "--node", node.address, "--node-key", node.key, "--max-tokens", "400", COMPLEX)
        process = start("real", "ask", *words)
        assert process.stdout is not None
        seen = b""
        while b"token 3 " not in seen:
            seen += os.read(process.stdout.fileno(), 4096)
        part_of(node, part).send_signal(signal.SIGKILL)
        rest, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == IntegrityError.exit_code, talk
    assert (seen + rest).startswith(b"fake engine: token 1 token 2 token 3 ")
    assert (seen + rest).endswith(b"\n")
    assert talk.startswith(b"error: ")
    assert b"token" not in talk
    assert b"Traceback" not in talk


@pytest.mark.parametrize("part", PARTS)
def test_under_auto_a_killed_node_is_the_same_error_and_the_device_stays_silent(part: str) -> None:
    device = FakeEngine()
    with FakeNode.run(options=("--fake-delay-ms", "50")) as node, Client(engine=device, node=node) as client:
        stream = client.stream(COMPLEX, max_tokens=400)
        deltas = stream.text_deltas()
        text = next(deltas) + next(deltas)
        part_of(node, part).send_signal(signal.SIGKILL)
        with pytest.raises(IntegrityError) as caught:
            text += "".join(deltas)
    assert (caught.value.partial, caught.value.left_device) == (stream.text, "yes")
    assert stream.text.startswith("fake engine: token 1 token 2 ")
    assert (stream.reply, device.requests) == (None, [])


def test_an_absent_node_is_tried_three_times_and_is_unavailable(nobody: str) -> None:
    seen: list[Event] = []
    trust = Policy.pinned(key())
    with Client(engine=FakeEngine(), node=nobody, trust=trust, on_event=seen.append) as client:
        with pytest.raises(APIConnectionError) as caught:
            client.ask(COMPLEX, policy="only_private_cloud")
        assert not client.availability().private_cloud.available
    assert [event.attempt for event in seen if isinstance(event, Retry)] == [2, 3]
    assert (caught.value.exit_code, caught.value.left_device) == (4, "no")
    assert nobody in str(caught.value)


def test_an_absent_node_is_exit_4_when_it_is_demanded_and_a_flagged_answer_otherwise(nobody: str) -> None:
    node = ("--node", nobody, "--node-key", key(), COMPLEX)
    doors = Doors(client=lambda **given: Client(**{**given, "engine": FakeEngine(["from here"])}))
    demanded = CliRunner().invoke(main, ["ask", "--private-cloud", *node], obj=doors)
    auto = CliRunner().invoke(main, ["ask", *node], obj=doors)
    assert (demanded.exit_code, demanded.stdout) == (4, "")
    assert (auto.exit_code, auto.stdout) == (0, "from here\n")
    assert "node unreachable" in auto.stderr


def test_another_nodes_key_is_exit_5_and_only_an_empty_request_was_sent(node_of: NodeOf) -> None:
    node = node_of(None)
    with watched(node.address) as wire:
        contact_only = ["--private-cloud", "--node", wire.address, "--node-key", key(), COMPLEX]
        refused = CliRunner().invoke(main, ["ask", *contact_only])
        contact = len(wire.sent)
        answered = Client(node=wire.address, trust=Policy.pinned(node.key), engine=FakeEngine())
        with answered as client:
            assert client.ask(COMPLEX).route is Route.PRIVATE_CLOUD
    assert (refused.exit_code, refused.stdout) == (AttestationError.exit_code, "")
    assert contact < len(COMPLEX) * 6  # an empty call and its settings
    assert len(wire.sent) > 2 * contact + len(COMPLEX)  # the control: a request does show in the count


OWNER = """
import sys, time
from hybrid.testing import FakeNode
node = FakeNode.run()
print(node.pid, flush=True)
time.sleep(600)
"""


def test_a_node_of_ones_own_does_not_outlive_an_owner_that_was_killed() -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=root) as owner:
        assert owner.stdout is not None
        launcher = psutil.Process(int(owner.stdout.readline()))
        family = [launcher, *launcher.children(recursive=True)]
        assert len(family) == len(PARTS)
        time.sleep(0.5)
        assert all(process.is_running() for process in family)  # it does live as long as its owner
        owner.kill()
    gone, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert alive == []
    assert len(gone) == len(PARTS)


def test_a_second_signal_ends_a_chat_at_once_and_its_node_with_it() -> None:
    process = start("own-node", "chat", "--local-node", stdin=subprocess.PIPE)
    family = []
    until = time.monotonic() + PATIENCE_S
    while len(family) < len(PARTS) and time.monotonic() < until:
        time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    for _ in range(2):
        process.terminate()
    _, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in {-signal.SIGTERM, 128 + signal.SIGTERM}
    assert talk == b""
    assert psutil.wait_procs(family, timeout=15)[1] == []
