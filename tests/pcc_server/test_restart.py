"""A part of the node ends and is started again: what is new, what is the same, who is told what, and when it stops."""

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import hybrid
from hybrid.errors import AttestationError, RemoteError
from hybrid.testing import FakeEngine
from hybrid.trust.policy import Policy
from hybrid.wire import codec
from hybrid.wire.types import Route
from pcc_server import health
from pcc_server.life import MOST_ENDS
from tests.pcc_server.node_client import Client, Node, alive, ask, collect, kill, until
from tests.pcc_server.replaced import BACK_S, hardy, replace, serves, serves_again, status

pytestmark = pytest.mark.linux

STALE, BUSY = (grpc.StatusCode.FAILED_PRECONDITION, "STALE_KEY"), (grpc.StatusCode.UNAVAILABLE, "BUSY")
# A cycle a second: each fetches a directory, and an address gets 60 a minute.
TOUGH = ("life.FIRST_S=0.8", "life.LONGEST_S=0.8", "life.MOST_ENDS=100000")


# --- a restart forgets, and is the same node ---------------------------------------------------------


def test_after_a_restart_of_the_worker_what_was_sealed_before_opens_no_more() -> None:
    """S7: keys and replay set are gone with the process; the control: before, the same bytes open, once."""
    with Node() as node, Client(node) as client:
        sealed, opener = client.seal(ask("before"))
        data = client.encode(sealed)
        assert collect(client.send(data), opener).receipt
        assert client.refused(data)[1] == "REPLAY"
        replace(node, "worker")
        assert client.refused(data)[:2] == STALE
        with Client(node) as anew:
            assert anew.ask("after").receipt
            old, new = client.directory, anew.directory
        mine, others = (one.nodes[0].bundle.statement for one in (old, new))
        assert mine.identity.node_id != others.identity.node_id
        assert not {key.key_id for key in mine.keys} & {key.key_id for key in others.keys}
        assert (new.epoch, new.seq) > (old.epoch, old.seq)


def test_after_a_restart_of_the_gateway_the_node_is_the_same_on_the_same_port() -> None:
    with Node("--fake-delay-ms", "100", "--max-running", "1", "--max-queue", "0") as node, Client(node) as client:
        worker, sealed = node.pid("worker"), client.seal(ask("sealed before"))
        call = client.send(client.encode(client.seal(ask("x" * 500, max_tokens=400))[0]))
        next(call)
        replace(node, "gateway")
        with pytest.raises(grpc.RpcError):
            list(call)
        assert node.pid("worker") == worker
        with Client(node) as anew:  # at the address that was told once
            assert anew.directory.id == client.directory.id
            # The slot of the reply that nobody hears is free: there is one, and this takes it.
            assert collect(anew.send(anew.encode(sealed[0])), sealed[1]).receipt
        assert len([line for line in node.stdout if '"ready"' in line]) == 1


def test_both_parts_may_end_at_once() -> None:
    with Node() as node, Client(node) as client:
        pids = {program: node.pid(program) for program in ("gateway", "worker")}
        for pid in pids.values():
            kill(pid)
        for program, pid in pids.items():
            serves_again(node, program, pid)
        with Client(node) as anew:
            assert anew.ask("both are new").receipt
            assert (anew.directory.epoch, anew.directory.seq) > (client.directory.epoch, client.directory.seq)


# --- a client that pinned the key --------------------------------------------------------------------


@contextmanager
def pinned(node: Node) -> Iterator[hybrid.Client]:
    trust = Policy.pinned(node.ready["node_key"])
    with hybrid.Client(engine=FakeEngine(), node=node.address, trust=trust) as client:
        yield client


def test_a_client_that_pinned_the_key_goes_on_after_each_restart() -> None:
    with Node() as node, pinned(node) as client:
        for program in ("worker", "worker", "gateway"):
            assert client.ask("hello", policy="only_private_cloud").route is Route.PRIVATE_CLOUD
            replace(node, program)
        assert client.ask("hello", policy="only_private_cloud").route is Route.PRIVATE_CLOUD


def test_numbers_that_began_anew_would_be_refused_by_that_client() -> None:
    """The control of the test above: with a launcher that forgets the number there are two directories of one."""
    with Node(**hardy("forgetful")) as node, pinned(node) as client:
        assert client.ask("hello", policy="only_private_cloud").route is Route.PRIVATE_CLOUD
        replace(node, "worker")
        with pytest.raises(AttestationError, match=r"directory\.(unique|current)"):
            client.ask("hello", policy="only_private_cloud")


def test_a_client_that_asks_while_the_worker_is_away_is_answered_when_it_is_back() -> None:
    with Node() as node, pinned(node) as client:
        assert client.ask("hello", policy="only_private_cloud").route is Route.PRIVATE_CLOUD
        kill(node.pid("worker"))

        def answered() -> bool:
            try:
                return client.ask("at once", policy="only_private_cloud").route is Route.PRIVATE_CLOUD
            except RemoteError:  # where its own three attempts were over first
                return False

        until(answered, BACK_S)


# --- under load --------------------------------------------------------------------------------------


def stream(client: Client, ends: "queue.Queue[tuple[Any, float]]") -> None:
    """Read one long reply to its end; put down how it ended and when."""
    call = client.send(client.encode(client.seal(ask("x" * 900, max_tokens=900))[0]))
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        trailers = {key for key, _ in call.trailing_metadata()}
        ends.put(((call.code(), call.details(), "retry-after-ms" in trailers), time.monotonic()))
    else:
        ends.put((None, time.monotonic()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_ends_under_load_is_told_to_every_caller_and_replaced(how: signal.Signals) -> None:
    with Node("--fake-delay-ms", "50") as node, Client(node) as client:
        gateway, worker = node.pid("gateway"), node.pid("worker")
        ends: queue.Queue[tuple[Any, float]] = queue.Queue()
        threads = [threading.Thread(target=stream, args=(client, ends)) for _ in range(16)]
        for thread in threads:
            thread.start()
        until(lambda: node.events("published"))
        time.sleep(0.5)
        assert ends.empty()  # the control: all of them run
        os.kill(worker, how)
        for thread in threads:
            thread.join(15)
        assert [ends.get_nowait()[0] for _ in threads] == [(*BUSY, True)] * len(threads)
        assert serves_again(node, "worker", worker)
        assert node.pid("gateway") == gateway
        with Client(node) as anew:
            assert anew.ask("and on").receipt
        assert node.events("child_ended") == [{"event": "child_ended", "program": "WORKER", "status": -how}]


def test_while_the_worker_is_away_callers_are_told_to_come_back() -> None:
    with Node(**hardy("life.FIRST_S=60")) as node, Client(node) as client:
        late = client.encode(client.seal(ask("late"))[0])
        kill(node.pid("worker"))
        until(lambda: not serves(node))
        code, word, trailers = client.refused(late)
        assert (code, word) == BUSY
        assert int(dict(trailers)["retry-after-ms"]) > 0
        get: Any = client.channel.unary_stream(codec.METHODS["Directory.Get"])
        call = get(b"", timeout=5)
        with pytest.raises(grpc.RpcError):
            list(call)
        assert (call.code(), call.details()) == BUSY
        assert node.stop() == 0  # a node without a worker can still be ended


# --- no restart storm --------------------------------------------------------------------------------


def test_a_worker_that_ends_five_times_stays_down_and_the_node_says_so() -> None:
    with Node(**hardy("life.FIRST_S=0.05")) as node:
        gateway = node.pid("gateway")
        for _ in range(MOST_ENDS - 1):
            worker = replace(node, "worker")  # the control: up to there it comes back
        kill(worker)
        until(lambda: node.events("given_up"), BACK_S)
        time.sleep(1.5)  # longer than any pause between two restarts was
        assert not any(alive(pid) for pid in [worker])
        with pytest.raises(AssertionError, match="no worker"):
            node.pid("worker")
        assert node.pid("gateway") == gateway
        assert status(node) is health.Serving.NOT_SERVING
        assert node.events("given_up") == [{"event": "given_up", "program": "WORKER", "ends": MOST_ENDS}]
        assert node.stop() == 0


def test_a_gateway_that_ends_too_often_ends_the_node_with_a_sentence() -> None:
    with Node(**hardy("life.FIRST_S=0.05", "life.MOST_ENDS=2")) as node:
        replace(node, "gateway")
        worker = node.pid("worker")
        kill(node.pid("gateway"))
        assert node.process.wait(15) == 1
        until(lambda: not alive(worker))
        node.stop()
        assert node.stderr[-1].startswith("pcc-server: the gateway was ended by SIGKILL")


# --- many times --------------------------------------------------------------------------------------


def held(pid: int) -> tuple[int, int]:
    """Open descriptors and resident pages of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def growth(cycles: int, *words: str) -> dict[str, tuple[int, float]]:
    """Kill the worker so many times; returns what launcher and gateway hold more: descriptors, MiB."""
    with Node(**hardy(*TOUGH, *words)) as node:
        pids = {"launcher": node.launcher, "gateway": node.pid("gateway")}
        for _ in range(2):  # what is made once is there after that
            replace(node, "worker")
        before = {name: held(pid) for name, pid in pids.items()}
        for _ in range(cycles):
            replace(node, "worker")
            with Client(node) as client:
                assert client.ask("x").receipt
        time.sleep(0.3)  # for the last connection to be closed
        after = {name: held(pid) for name, pid in pids.items()}
        return {
            name: (after[name][0] - before[name][0], (after[name][1] - before[name][1]) * 4096 / 2**20) for name in pids
        }


def flat(found: dict[str, tuple[int, float]], mib: float) -> bool:
    return all(fds <= 1 and grown <= mib for fds, grown in found.values())


def test_five_restarts_leak_nothing() -> None:
    assert flat(growth(5), 8.0)


def test_a_leak_over_restarts_would_be_seen() -> None:
    assert not flat(growth(2, "leaky"), 8.0)


@pytest.mark.soak
def test_two_hundred_restarts_leak_nothing() -> None:
    assert flat(growth(200), 8.0)
