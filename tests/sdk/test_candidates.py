"""Several candidates through the real client: one request for all of them, answered by one, in the client's order."""

import collections
from pathlib import Path
from typing import Any

import pytest

from hybrid.client import Client
from hybrid.errors import ConfigurationError, KeyExpiredError, NodeAuthError, OverloadedError
from hybrid.events import NodeVerified, Retry
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.trust.log_view import LogContradiction
from hybrid.wire.codec import decode_invoke_request
from hybrid.wire.errors import ErrorCode
from hybrid.wire.header import NO_TOKEN, Header, token_digest

QUESTION = "What is the capital of France?"


def client_of(nodes: MemoryTransport, **given: Any) -> Client:
    return Client(engine=FakeEngine(), transport=nodes, trust=nodes.policy, policy="only_private_cloud", **given)


def header_of(sealed: bytes) -> Header:
    return Header.decode(decode_invoke_request(sealed).header)


def order_of(sealed: bytes) -> list[str]:
    return [ref.node_id.hex() for ref in header_of(sealed).candidates]


def test_one_request_carries_a_package_for_each_of_three_candidates() -> None:
    nodes = MemoryTransport(weights=[1] * 5)
    with client_of(nodes) as client:
        reply = client.ask(QUESTION)
    (sealed,) = nodes.sealed
    invoke = decode_invoke_request(sealed)
    assert len(set(invoke.key_packages)) == len(set(order_of(sealed))) == 3
    assert nodes.answered_by == order_of(sealed)[:1]
    assert reply.receipt is not None
    assert reply.receipt.node_id.hex() == nodes.answered_by[0]
    assert len(nodes.requests) == 1


def test_the_next_candidate_answers_when_the_first_is_down_and_the_caller_is_told_who() -> None:
    nodes = MemoryTransport(weights=[1000, 1, 1])
    nodes.down = {nodes.node_ids[0]}
    with client_of(nodes) as client, client.stream(QUESTION) as stream:
        events = list(stream)
    (sealed,) = nodes.sealed
    up = [name for name in order_of(sealed) if name not in nodes.down]
    assert nodes.answered_by == up[:1]
    assert len([event for event in events if isinstance(event, NodeVerified)]) == 2 - (order_of(sealed)[0] in up)
    assert not [event for event in events if isinstance(event, Retry)]
    assert stream.reply is not None
    assert stream.reply.receipt is not None
    assert stream.reply.receipt.index == order_of(sealed).index(up[0])


def test_all_candidates_down_is_one_error_and_nothing_was_opened() -> None:
    nodes = MemoryTransport(weights=[1, 1, 1])
    nodes.down = set(nodes.node_ids)
    with client_of(nodes, max_retries=0) as client, pytest.raises(OverloadedError) as caught:
        client.ask(QUESTION)
    assert caught.value.left_device == "ciphertext"
    assert (nodes.requests, len(nodes.sealed)) == ([], 1)


def test_every_request_draws_anew() -> None:
    nodes = MemoryTransport(weights=[1] * 6)
    with client_of(nodes) as client:
        for _ in range(30):
            client.ask(QUESTION)
    orders = collections.Counter(tuple(order_of(sealed)) for sealed in nodes.sealed)
    assert len(orders) > 15  # of 120; a fixed personal set would be one
    assert nodes.contacts == 1


def test_a_stale_key_leads_to_one_refresh_and_one_more_attempt_and_no_third() -> None:
    nodes = MemoryTransport(weights=[1, 1, 1], fault=ErrorCode.STALE_KEY)
    with client_of(nodes) as client, pytest.raises(KeyExpiredError):
        client.ask(QUESTION)
    assert len(nodes.sealed) == 2
    assert nodes.contacts == 2
    assert header_of(nodes.sealed[0]).directory_id != header_of(nodes.sealed[1]).directory_id
    assert header_of(nodes.sealed[0]).rid != header_of(nodes.sealed[1]).rid


def test_what_is_found_out_between_the_draw_and_the_seal_stops_the_seal() -> None:
    """The background reading of the log may end the use of a directory while a person still thinks about consent."""
    nodes = MemoryTransport(weights=[1, 1, 1])
    found = LogContradiction("the log contradicts itself", check="log.consistency", expected="one root", got="two")

    def finds_out(_: object) -> bool:
        directory = client._async._driver.handover._cloud.directory  # type: ignore[union-attr]
        directory._suspect = found
        return True

    with client_of(nodes, on_handoff=finds_out) as client, pytest.raises(LogContradiction) as caught:
        client.ask(QUESTION)
    assert (nodes.sealed, caught.value.left_device) == ([], "no")


def test_a_log_that_contradicts_itself_gives_an_answer_of_the_device_under_auto_and_closes_the_route() -> None:
    found = LogContradiction("the log contradicts itself", check="log.consistency", expected="one root", got="two")
    nodes = MemoryTransport(fault=found)
    with Client(
        engine=FakeEngine(["from the device"]), transport=nodes, trust=nodes.policy, policy="prefer_private_cloud"
    ) as client:
        reply = client.ask(QUESTION)
        assert (reply.route, reply.attempts[0].error) == ("on_device", "LogContradiction")
        assert client.availability().private_cloud.reason == "attestation_failed"
        client.ask(QUESTION)
    assert len(nodes.sealed) == 1


def test_a_file_of_counts_that_is_broken_costs_no_answer_and_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "shares").mkdir()
    (tmp_path / "shares" / "localhost.json").write_text("nonsense")
    nodes = MemoryTransport()
    with client_of(nodes, state=tmp_path) as client:
        with client.stream(QUESTION) as first:
            (warning,) = warnings_in(first)
        with client.stream(QUESTION) as second:
            assert warnings_in(second) == []
    assert "localhost.json" in warning


# --- the access key ---------------------------------------------------------------------------------


def test_an_access_key_travels_beside_the_seal_and_its_digest_inside_the_header() -> None:
    nodes = MemoryTransport(access_key=b"a key of this test")
    with client_of(nodes, node_token="a key of this test") as client:
        client.ask(QUESTION)
        client.ask(QUESTION)
    first, second = (header_of(sealed) for sealed in nodes.sealed)
    assert first.token_digest == token_digest(first.rid, b"a key of this test")
    assert first.token_digest != second.token_digest  # no lasting pseudonym
    assert all(decode_invoke_request(sealed).token == b"a key of this test" for sealed in nodes.sealed)


@pytest.mark.parametrize("token", ["", "another key"])
def test_a_missing_or_wrong_access_key_is_one_error_without_a_retry(token: str) -> None:
    nodes = MemoryTransport(access_key=b"a key of this test")
    with client_of(nodes, node_token=token) as client, pytest.raises(NodeAuthError) as caught:
        client.ask(QUESTION)
    assert (len(nodes.sealed), nodes.requests) == (1, [])
    assert "key of this test" not in repr(caught.value)


def test_without_an_access_key_the_header_names_none() -> None:
    nodes = MemoryTransport()
    with client_of(nodes) as client:
        client.ask(QUESTION)
    assert header_of(nodes.sealed[0]).token_digest == NO_TOKEN


def test_an_access_key_longer_than_any_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="access key"):
        client_of(MemoryTransport(), node_token="x" * 2000)


# --- the bias alarm ---------------------------------------------------------------------------------


def warnings_in(stream: Any) -> list[str]:
    return [
        check.detail
        for event in stream
        if isinstance(event, NodeVerified)
        for check in event.checks
        if check.name == "nodes.bias" and check.status == "warn"
    ]


def test_skewed_answers_are_a_warning_once_and_never_an_error() -> None:
    nodes = MemoryTransport(weights=[1, 1, 1])
    favourite, *others = nodes.node_ids
    with client_of(nodes) as client:
        client.ask(QUESTION)
        shares = client._async._driver.handover._cloud.directory.shares  # type: ignore[union-attr]
        for name in nodes.node_ids:
            shares.counts[name].due = shares.counts[name].expected = shares.counts[name].first = 100
        shares.counts[favourite].answered = 280
        shares.counts[others[0]].answered = shares.counts[others[1]].answered = 10
        with client.stream(QUESTION) as first:
            (warning,) = warnings_in(first)
        with client.stream(QUESTION) as second:
            assert warnings_in(second) == []
    assert warning.startswith(f"node {favourite[:8]} answered 280 of 300 ")
