"""A worker that hangs is ended and replaced; a node whose worker is silent says so."""

import os
import signal
import time
from dataclasses import dataclass

import grpc
import pytest

from pcc_server import health
from pcc_server.events import Phase
from pcc_server.life import FIRST_S, LONGEST_S, MOST_ENDS, WINDOW_S, Restarts
from pcc_server.startup import Startup
from pcc_server.watch import ASLEEP_S, SILENT_S, STEPS, Watch
from tests.pcc_server.node_client import Client, Node, alive, ask, until
from tests.pcc_server.replaced import hardy, serves, serves_again, status


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- what it judges by -------------------------------------------------------------------------------


def looked(watch: Watch, clock: Clock, seconds: float) -> float:
    """Let time pass, looking at every half second as the launcher does; returns what the last look said."""
    found = watch.still_s()
    for _ in range(int(seconds * 2)):
        clock.now += 0.5
        found = watch.still_s()
    return found


def test_a_worker_that_beats_is_left_alone_and_one_that_is_silent_is_not(clock: Clock) -> None:
    watch = Watch(now=clock)
    for _ in range(30):
        watch.beat(0)
        assert not looked(watch, clock, 1)
    assert not looked(watch, clock, SILENT_S - 1)
    assert looked(watch, clock, 1) > SILENT_S


def test_before_its_first_beat_nothing_is_judged(clock: Clock) -> None:
    """A model may take minutes to load."""
    assert not looked(Watch(now=clock), clock, 600)


def test_an_engine_that_does_not_turn_is_a_hang_although_the_worker_beats(clock: Clock) -> None:
    watch = Watch(now=clock)
    watch.beat(int(SILENT_S * 1000))
    assert not looked(watch, clock, 1)
    watch.beat(int(SILENT_S * 1000) + 1)
    assert looked(watch, clock, 1)


def test_a_slow_engine_gets_twenty_of_its_steps(clock: Clock) -> None:
    watch = Watch(now=clock)
    watch.beat(STEPS * 2_000 - 1, step_ms=2_000)
    assert not looked(watch, clock, 1)
    watch.beat(STEPS * 2_000 + 1, step_ms=2_000)
    assert looked(watch, clock, 1)


def test_a_launcher_that_stood_still_itself_judges_nobody(clock: Clock) -> None:
    watch = Watch(now=clock)
    watch.beat(0)
    clock.now += max(ASLEEP_S, SILENT_S) + 60
    assert not watch.still_s()
    assert looked(watch, clock, SILENT_S + 1)  # but from then on it does


def test_restarts_come_later_and_later_and_end_with_the_fifth(clock: Clock) -> None:
    restarts = Restarts(now=clock)
    assert [restarts.ended() for _ in range(MOST_ENDS)] == [FIRST_S, 1.0, 2.0, 4.0, None]


def test_ends_that_lie_long_back_count_no_more(clock: Clock) -> None:
    restarts = Restarts(now=clock)
    for _ in range(3 * MOST_ENDS):
        assert restarts.ended() in {FIRST_S, 2 * FIRST_S, 4 * FIRST_S}
        clock.now += WINDOW_S / 2.5


def test_no_pause_is_longer_than_half_a_minute(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcc_server.life.MOST_ENDS", 100)
    restarts = Restarts(now=clock)
    pauses = [restarts.ended() for _ in range(20)]
    assert pauses[-1] == LONGEST_S


def test_a_start_is_measured_by_the_one_before(clock: Clock) -> None:
    startup = Startup(now=clock)
    startup.begin()
    assert startup.told() == {"phase": "init", "pct": 0}
    startup.enter(Phase.VERIFY_WEIGHTS)
    clock.now += 2
    startup.enter(Phase.VERIFY_WEIGHTS, 40)
    assert startup.told() == {"phase": "verify_weights", "pct": 40, "eta_s": 3.0}
    startup.enter(Phase.LOAD)
    clock.now += 8
    startup.enter(Phase.READY)
    assert startup.told() == {"phase": "ready", "pct": 0}
    startup.begin(in_s=0.5)
    assert startup.told() == {"phase": "init", "pct": 0, "eta_s": 10.5}
    clock.now += 4.5
    assert startup.told()["eta_s"] == 6.0
    startup.enter(Phase.DEGRADED, reason="worker_ends")
    assert startup.told() == {"phase": "degraded", "pct": 0, "reason": "worker_ends"}


# --- the real thing ----------------------------------------------------------------------------------


def ended_by_the_watchdog(node: Node, worker: int) -> bool:
    stalled = node.events("child_stalled")
    return [event["program"] for event in stalled] == ["WORKER"] and not alive(worker)


@pytest.mark.linux
def test_a_worker_that_is_stopped_makes_the_node_unready_and_is_replaced() -> None:
    with Node() as node, Client(node) as client:
        worker, gateway = node.pid("worker"), node.pid("gateway")
        assert serves(node)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: status(node) is health.Serving.NOT_SERVING, SILENT_S + 5)
        until(lambda: ended_by_the_watchdog(node, worker), SILENT_S + 10)
        serves_again(node, "worker", worker)
        assert node.pid("gateway") == gateway
        assert client.refused(client.encode(client.seal(ask("old key"))[0]))[1] == "STALE_KEY"
        with Client(node) as anew:
            assert anew.ask("and on").receipt


@pytest.mark.linux
def test_an_engine_that_hangs_is_ended_and_its_caller_told() -> None:
    with Node("--fault", "hang", **hardy("watch.SILENT_S=2")) as node, Client(node) as client:
        worker = node.pid("worker")
        call = client.send(client.encode(client.seal(ask("x" * 50, max_tokens=50))[0]), timeout=30)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert (call.code(), call.details()) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        assert ended_by_the_watchdog(node, worker)
        serves_again(node, "worker", worker)


@pytest.mark.linux
def test_a_worker_that_waits_for_nothing_is_not_ended() -> None:
    """The control of both: with the same patience an idle node and a working one are left alone."""
    with Node("--fake-delay-ms", "100", **hardy("watch.SILENT_S=2")) as node, Client(node) as client:
        worker = node.pid("worker")
        assert client.ask("x" * 60, max_tokens=40).receipt
        time.sleep(2.5)
        assert node.pid("worker") == worker
        assert not node.events("child_stalled")


@pytest.mark.linux
def test_a_launcher_that_was_stopped_ends_nobody() -> None:
    patience = hardy("watch.SILENT_S=2", "watch.ASLEEP_S=1")
    with Node(**patience) as node:
        worker = node.pid("worker")
        os.kill(node.launcher, signal.SIGSTOP)
        time.sleep(4)
        os.kill(node.launcher, signal.SIGCONT)
        time.sleep(1.5)
        assert node.pid("worker") == worker
        assert serves(node)


@pytest.mark.soak
@pytest.mark.linux
def test_twenty_hangs_in_a_row_are_each_replaced() -> None:
    patience = ("watch.SILENT_S=2", "life.FIRST_S=0.05", "life.LONGEST_S=0.05", "life.MOST_ENDS=1000")
    with Node(**hardy(*patience)) as node:
        for _ in range(20):
            worker = node.pid("worker")
            os.kill(worker, signal.SIGSTOP)
            serves_again(node, "worker", worker)
