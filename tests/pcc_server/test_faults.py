"""Each fault switch does to a reply what its name says, and a client notices."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from hybrid.wire.errors import DecryptionError, ReceiptMismatch, TruncatedStream, WireError
from pcc_server.config import FAULTS
from pcc_server.engines.fake import SLOW_FIRST_TOKEN_S
from tests.pcc_server.node_client import Client, Node, ask, collect


def outcome(fault: str) -> object:
    """What one request to a node with this fault raises: an error of the wire, or a status and a word."""
    with Node("--fault", fault) as node:
        try:
            with Client(node) as client:
                sealed, opener = client.seal(ask("x" * 100, max_tokens=60))
                return collect(client.send(client.encode(sealed)), opener).text
        except WireError as error:
            return type(error), getattr(error, "check", "")
        except grpc.RpcError as error:
            call: Any = error  # what the call raises is the call itself
            return call.code(), call.details()


EXPECTED: dict[str, object] = {
    "cut_stream": (TruncatedStream, ""),
    "reorder": (DecryptionError, ""),
    "flip_bit": (DecryptionError, ""),
    "duplicate": (DecryptionError, ""),
    "wrong_receipt": (ReceiptMismatch, "receipt.model"),
    "stale_key": (grpc.StatusCode.FAILED_PRECONDITION, "STALE_KEY"),
    "replay": (grpc.StatusCode.ALREADY_EXISTS, "REPLAY"),
    "overload": (grpc.StatusCode.UNAVAILABLE, "BUSY"),
    "rate_limit": (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT"),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "BUSY"),
    "die_before_head": (grpc.StatusCode.UNAVAILABLE, "BUSY"),
    "die_midstream": (grpc.StatusCode.UNAVAILABLE, "BUSY"),
    "abort": (grpc.StatusCode.UNAVAILABLE, "BUSY"),
    "hang": (grpc.StatusCode.UNAVAILABLE, "BUSY"),  # after the watchdog's ten seconds
}


def timed_outcome(fault: str) -> tuple[str, object, float]:
    begun = time.monotonic()
    return fault, outcome(fault), time.monotonic() - begun


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[object, float]]:
    """Every fault has a node of its own; three at a time, because most of a start is waiting."""
    with ThreadPoolExecutor(3) as pool:
        return {fault: (result, took_s) for fault, result, took_s in pool.map(timed_outcome, sorted(FAULTS))}


@pytest.mark.parametrize("fault", sorted(EXPECTED))
def test_a_fault_shows_at_the_client_as_what_it_is(outcomes: dict[str, tuple[object, float]], fault: str) -> None:
    assert outcomes[fault][0] == EXPECTED[fault]


def test_a_slow_first_token_is_slow_and_right(outcomes: dict[str, tuple[object, float]]) -> None:
    text, took_s = outcomes["slow_first_token"]
    assert str(text).endswith("token 60 ")
    assert took_s > SLOW_FIRST_TOKEN_S


def test_every_fault_has_a_test() -> None:
    assert set(EXPECTED) | {"slow_first_token"} == set(FAULTS)


@pytest.mark.parametrize("fault", ["cut_stream", "die_midstream"])
def test_what_came_before_a_cut_is_readable(fault: str) -> None:
    with Node("--fault", fault) as node, Client(node) as client:
        sealed, opener = client.seal(ask("x" * 100, max_tokens=60))
        call = client.send(client.encode(sealed))
        seen: list[bytes] = []

        def kept(pull: Callable[[], bytes] = lambda: next(call)):  # type: ignore[no-untyped-def]  # noqa: ANN202
            while True:
                try:
                    seen.append(pull())
                except (StopIteration, grpc.RpcError):
                    return
                yield seen[-1]

        with pytest.raises(TruncatedStream):
            collect(kept(), opener)
        assert seen
