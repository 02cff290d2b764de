"""Every fault of the node or the way to it, through the real SDK and the real command line, at the true node.

Which bits of a key package, a body or a frame may be flipped without notice (none) is the wire's own test; here: what
a person gets to see of it. tests/sdk/test_failures.py has every refusal and sealed error over a transport in memory.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.cli.door import Doors
from hybrid.client import Client
from hybrid.errors import (
    APITimeoutError,
    HybridError,
    IntegrityError,
    KeyExpiredError,
    OverloadedError,
    RateLimitError,
)
from hybrid.events import Done, Event, Handoff, TextDelta
from hybrid.exchange import Timeout
from hybrid.testing import FakeEngine, FakeNode
from hybrid.trust.policy import Policy
from hybrid.wire.types import Route
from tests.cli.scenes import COMPLEX
from tests.e2e.conftest import NodeOf
from tests.e2e.faults import names as fault_names
from tests.e2e.proxy import watched

CANARY = "plan-the-marmalade-7391"
QUESTION = f"{COMPLEX} {CANARY}"
HERE = "an answer from the device"
BEGINNING = "fake engine: token 1 "  # how much more comes before a fault is the node's batching


@dataclass(frozen=True)
class Row:
    """What a fault is to a person. shown: text of the node comes before it.  device: ``auto`` answers here instead."""

    error: type[HybridError]
    code: int
    left: str
    shown: bool = False
    device: bool = False


FAULTS = {
    "cut_stream": Row(IntegrityError, 1, "yes", shown=True),
    "reorder": Row(IntegrityError, 1, "yes", shown=True),
    "flip_bit": Row(IntegrityError, 1, "yes", shown=True),
    "duplicate": Row(IntegrityError, 1, "yes", shown=True),
    "die_midstream": Row(IntegrityError, 1, "yes", shown=True),
    "die_before_head": Row(OverloadedError, 75, "ciphertext", device=True),  # the gateway stays and says so
    "abort": Row(IntegrityError, 1, "yes", shown=True),
    "hang": Row(APITimeoutError, 75, "yes", shown=True),
    "wrong_receipt": Row(IntegrityError, 1, "yes", shown=True),
    "replay": Row(IntegrityError, 1, "ciphertext"),
    "stale_key": Row(KeyExpiredError, 75, "ciphertext", device=True),
    "overload": Row(OverloadedError, 75, "ciphertext", device=True),
    "unavailable": Row(OverloadedError, 75, "no", device=True),  # it does not even show its evidence
    "rate_limit": Row(RateLimitError, 75, "ciphertext", device=True),
    "slow_first_token": Row(APITimeoutError, 75, "yes", device=True),
}
LIMITS = Timeout(first_token=1, idle=1)


def client_of(node: FakeNode | str, **given: Any) -> Client:
    return Client(**{"node": node, "engine": FakeEngine([HERE]), "timeout": LIMITS, "max_retries": 0, **given})


def followed(client: Client, **how: Any) -> tuple[list[Event], HybridError | None]:
    seen: list[Event] = []
    with client, client.stream(QUESTION, max_tokens=60, **how) as stream:
        try:
            seen.extend(stream)
        except HybridError as error:
            return seen, error
    return seen, None


def at(node: FakeNode, *words: str) -> list[str]:
    return ["ask", *words, "--node", node.address, "--node-key", node.key, "--max-tokens", "60", QUESTION]


def asked(words: list[str], engine: FakeEngine, *, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run the command line with its real client, a scripted device, and less patience."""
    monkeypatch.setenv("HYBRID_TIMEOUT", "2")
    doors = Doors(client=lambda **given: Client(**{**given, "engine": engine, "max_retries": 0}))
    return CliRunner().invoke(main, words, obj=doors)


def test_every_fault_of_the_node_has_a_row() -> None:
    assert set(FAULTS) == fault_names()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_sdk_raises_one_typed_error_and_shows_nothing_as_complete(node_of: NodeOf, fault: str) -> None:
    row, engine = FAULTS[fault], FakeEngine([HERE])
    seen, error = followed(client_of(node_of(fault), engine=engine), policy="only_private_cloud")
    text = "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert type(error) is row.error
    assert (error.exit_code, error.left_device, error.partial) == (row.code, row.left, text)
    assert bool(text) == row.shown
    assert not any(isinstance(event, Done) for event in seen)
    assert engine.requests == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_line_ends_with_its_code_and_keeps_what_was_shown(
    node_of: NodeOf, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, engine = FAULTS[fault], FakeEngine([HERE])
    result = asked(at(node_of(fault), "--private-cloud"), engine, monkeypatch=monkeypatch)
    assert result.exit_code == row.code, result.stderr
    assert result.stdout.startswith(BEGINNING) == row.shown
    assert (result.stdout == "") != row.shown
    assert result.stderr.startswith("error: ")
    assert "\nhint: " in result.stderr
    assert engine.requests == []


@pytest.mark.parametrize("fault", FAULTS)
def test_under_auto_the_device_answers_flagged_or_it_is_the_same_error(
    node_of: NodeOf, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, engine = FAULTS[fault], FakeEngine([HERE])
    result = asked(at(node_of(fault), "--json"), engine, monkeypatch=monkeypatch)
    value = json.loads(result.stdout)
    if not row.device:
        assert (result.exit_code, value["error"]["type"]) == (row.code, row.error.__name__)
        assert "text" not in value
        assert engine.requests == []
        return
    assert (result.exit_code, value["text"], value["route"]) == (0, HERE, "on_device")
    assert "degraded" in [reason["code"] for reason in value["decision"]["reasons"]]
    assert [attempt["error"] for attempt in value["attempts"]] == [row.error.__name__, ""]
    assert (value["egress"] is not None) == (row.left != "no")  # what had left is told, whoever answered
    assert result.stderr.startswith("note: no answer in the private cloud (")


def test_the_same_node_without_a_fault_answers_whole(node_of: NodeOf) -> None:
    seen, error = followed(client_of(node_of(None)), policy="only_private_cloud")
    assert error is None
    assert isinstance(seen[-1], Done)
    assert seen[-1].reply.route is Route.PRIVATE_CLOUD
    assert not any(isinstance(event, Handoff) for event in seen)


@pytest.mark.parametrize("fault", [None, "cut_stream", "stale_key", "overload", "replay", "die_midstream"])
def test_no_byte_on_the_wire_is_plain_whatever_fails(node_of: NodeOf, fault: str | None) -> None:
    node = node_of(fault)
    with watched(node.address) as wire:
        given = {"trust": Policy.pinned(node.key), "max_retries": 2}
        followed(client_of(wire.address, **given), policy="only_private_cloud")
        followed(client_of(wire.address, **given))
        assert b"localhost" in wire.received  # what is plain does show: the deployment's name
        assert len(wire.sent) > len(QUESTION)
        for word in (CANARY, "birthday", "fake engine", "token 1"):
            assert word.encode() not in wire.sent + wire.received
