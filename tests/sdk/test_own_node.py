"""The private node: started, talked to, stopped, and clear about why it did not start."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from hybrid.client import Client
from hybrid.errors import APIConnectionError, AttestationError, ConfigurationError, HybridError, UnavailableError
from hybrid.own_node import OwnNode
from hybrid.testing import FakeEngine, FakeNode
from hybrid.trust.policy import Policy
from hybrid.wire.types import Route
from tests.support import HARD


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_starts_answers_sealed_and_stops() -> None:
    with FakeNode.run() as node:
        assert node.running
        with Client(engine=FakeEngine(), node=node) as client:
            reply = client.ask(HARD)
            assert client.context_size("private_cloud") > 0
        pid = node.pid
    assert reply.route is Route.PRIVATE_CLOUD
    assert reply.model == "fake"
    assert reply.text
    assert reply.egress is not None
    assert (reply.egress.node, reply.egress.tier) == (node.address, 0)
    assert not alive(pid)
    assert not node.running
    assert node.stop() == 0


def test_streaming_equals_not_streaming_through_the_true_node() -> None:
    with FakeNode.run() as node, Client(engine=FakeEngine(), node=node, policy="only_private_cloud") as client:
        whole = client.ask("the same", seed=3)
        with client.stream("the same", seed=3) as stream:
            text = "".join(stream.text_deltas())
        assert stream.reply is not None
    assert (text, stream.reply.usage, stream.reply.finish_reason) == (whole.text, whole.usage, whole.finish_reason)


def test_a_wrong_key_gets_no_byte_of_the_request() -> None:
    with FakeNode.run() as node, FakeNode.run() as other:
        wrong = Policy.pinned(other.key)
        client = Client(engine=FakeEngine(["here"]), node=node.address, trust=wrong)
        with client, pytest.raises(AttestationError) as caught:
            client.ask("hi", policy="only_private_cloud")
        assert (caught.value.exit_code, caught.value.left_device) == (5, "no")
        assert client._async._driver.handover.gate.bytes_sent == 0


def test_a_node_that_was_killed_is_unreachable_and_auto_says_so() -> None:
    with FakeNode.run() as node, Client(engine=FakeEngine(["here"]), node=node, max_retries=0) as client:
        os.kill(node.pid, signal.SIGKILL)
        node.stop()
        deadline = time.monotonic() + 10
        while _listening(node.address) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(HybridError) as caught:
            client.ask("hi", policy="only_private_cloud")
        reply = client.ask(HARD)
    assert isinstance(caught.value, APIConnectionError)
    assert (reply.text, reply.route) == ("here", Route.ON_DEVICE)
    assert "degraded" in reply.decision.codes


def _listening(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_what_it_says_when_it_cannot_start_is_passed_on() -> None:
    with pytest.raises(ConfigurationError, match="fault"):
        FakeNode.run("no-such-fault")


def test_a_model_it_does_not_have_is_its_own_sentence(tmp_path: Path) -> None:
    with pytest.raises(HybridError) as caught:
        OwnNode.start(model=tmp_path / "nothing-here", timeout=60)
    assert caught.value.exit_code in {2, 4}
    assert "private node did not start" in str(caught.value)


def test_a_node_that_is_not_ready_in_time_is_stopped() -> None:
    silent = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(UnavailableError, match="ready") as caught:
        OwnNode.start(command=silent, timeout=0.3)
    assert caught.value.exit_code == 4


def test_a_child_that_will_not_stop_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        'print(\'{"event": "ready", "listen": "127.0.0.1:1", "node_key": "k"}\', flush=True);'
        "time.sleep(60)"
    )
    monkeypatch.setattr("hybrid.own_node.STOP_TIMEOUT_S", 0.2)
    node = OwnNode.start(command=(sys.executable, "-c", program), timeout=30)
    assert node.stop() == -signal.SIGKILL


def test_an_end_without_words_names_the_status() -> None:
    with pytest.raises(UnavailableError, match="status 7"):
        OwnNode.start(command=(sys.executable, "-c", "raise SystemExit(7)"), timeout=30)
