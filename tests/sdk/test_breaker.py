"""A node that keeps failing is left alone for a while, and said to be; asking for nothing else still tries it."""

from typing import Any

import pytest

from hybrid.breaker import FAILURES, FIRST_S, LONGEST_S, Breaker
from hybrid.client import Client
from hybrid.errors import APIConnectionError, AttestationError
from hybrid.events import Event, Retry
from hybrid.wire.types import Route
from tests.support import EASY, HARD, Bench


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_three_failures_in_a_row_close_the_route_for_half_a_minute() -> None:
    clock = Clock()
    breaker = Breaker(now=clock)
    for _ in range(FAILURES - 1):
        breaker.failed("node_unreachable", fix="start it")
        assert breaker.state.available
    breaker.failed("node_unreachable", fix="start it")
    assert (breaker.state.available, breaker.state.reason, breaker.state.fix) == (False, "node_unreachable", "start it")
    clock.now += FIRST_S
    assert breaker.state.available


def test_each_failed_try_doubles_the_pause_up_to_ten_minutes_and_an_answer_ends_it() -> None:
    clock = Clock()
    breaker, pauses = Breaker(now=clock), []
    for _ in range(7):
        breaker.failed("node_unreachable", attempts=FAILURES)
        begun = clock.now
        while not breaker.state.available:
            clock.now += 1
        pauses.append(clock.now - begun)
    assert pauses == [30, 60, 120, 240, 480, LONGEST_S, LONGEST_S]
    breaker.answered()
    breaker.failed("node_unreachable")
    assert breaker.state.available


def test_an_answer_between_them_starts_the_count_anew() -> None:
    breaker = Breaker(now=Clock())
    for _ in range(3):
        breaker.failed("node_overloaded", attempts=FAILURES - 1)
        breaker.answered()
    assert breaker.state.available


def test_a_node_that_could_not_be_verified_stays_closed() -> None:
    clock = Clock()
    breaker = Breaker(now=clock)
    breaker.failed("attestation_failed")
    clock.now += 1e9
    assert breaker.state.reason == "attestation_failed"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.retries.BACKOFF_S", (0.0, 0.0))


@pytest.mark.usefixtures("quick")
def test_a_node_that_is_absent_is_tried_three_times_each_retry_shown_then_left_alone() -> None:
    bench, seen = Bench(), list[Event]()
    bench.node.fault = "no_directory"
    with Client(**bench.options(on_event=seen.append)) as client:
        assert client.availability().private_cloud.available
        assert client.ask(HARD).route is Route.ON_DEVICE
        assert bench.node.contacts == 3
        assert [(e.attempt, e.cause) for e in seen if isinstance(e, Retry)] == [
            (2, "APIConnectionError"),
            (3, "APIConnectionError"),
        ]
        assert client.availability().private_cloud.reason == "node_unreachable"
        decision = client.ask(HARD).decision
        assert bench.node.contacts == 3
    assert decision.route is Route.ON_DEVICE
    assert decision.codes[:2] == ("node_unreachable", "degraded")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("fault", "kind"), [("no_directory", APIConnectionError), ("other_key", AttestationError)])
def test_who_demands_the_node_reaches_it_even_then_and_its_answer_reopens_the_route(fault: str, kind: Any) -> None:
    bench = Bench()
    bench.node.fault = fault
    with Client(**bench.options()) as client:
        client.ask(HARD)
        assert not client.availability().private_cloud.available
        with pytest.raises(kind):
            client.ask(EASY, policy="only_private_cloud")
        bench.node.fault = None
        assert client.ask(HARD).route is Route.ON_DEVICE
        assert client.ask(EASY, policy="only_private_cloud").route is Route.PRIVATE_CLOUD
        assert client.availability().private_cloud.available
        assert client.ask(HARD).route is Route.PRIVATE_CLOUD


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("retries", "contacts"), [(0, 1), (1, 2), (2, 3)])
def test_max_retries_bounds_the_tries_at_the_first_contact(retries: int, contacts: int) -> None:
    bench = Bench()
    bench.node.fault = "no_directory"
    with Client(**bench.options(policy="only_private_cloud", max_retries=retries)) as client:
        with pytest.raises(APIConnectionError):
            client.ask(EASY)
        assert bench.node.contacts == contacts


def test_a_person_who_declines_says_nothing_about_the_node() -> None:
    bench = Bench()
    with Client(**bench.options(on_handoff=lambda _: False)) as client:
        for _ in range(4):
            client.ask(HARD)
        assert client.availability().private_cloud.available
