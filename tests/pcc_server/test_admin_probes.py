"""The admin port's open half: up before the model is, true about readiness, free of content in every case (S5, P7)."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pcc_server.admin import read_token
from pcc_server.errors import StartFailure
from pcc_server.events import Phase
from tests.pcc_server.leaks import leaks, leaky_interpreter
from tests.pcc_server.node_client import Client, Node, ask, collect, kill, until
from tests.pcc_server.test_tls import make_pair

MARK = {"x-pcc-admin": "1"}
OPEN = ("/livez", "/readyz", "/startupz", "/metrics")
CANARY = "canary-51c7d0e2"
TOKEN = "t" * 40


def call(
    address: str,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, Any]:
    """Ask the port. Returns status and what the body says. Raises OSError when nobody answers."""
    connection = (
        http.client.HTTPSConnection(address, timeout=20, context=tls)
        if tls
        else http.client.HTTPConnection(address, timeout=20)
    )
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        is_json = "json" in (response.getheader("content-type") or "")
        return response.status, json.loads(body) if is_json else body.decode()
    finally:
        connection.close()


def metric(address: str, name: str, **labels: str) -> float | None:
    """Read one sample; None where it is not shown."""
    families = text_string_to_metric_families(call(address, "/metrics")[1])
    samples = (sample for family in families for sample in family.samples)
    return next((s.value for s in samples if s.name == name and s.labels == labels), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# --- before the node is ready (P7) -----------------------------------------------------------------


@pytest.mark.mlx
@pytest.mark.model
def test_the_port_answers_while_the_model_loads_and_says_how_far_it_is() -> None:
    admin = f"127.0.0.1:{free_port()}"
    seen: list[tuple[int, str, str, bool]] = []
    node = Node("--admin", admin, "--model", "starter", engine="mlx", wait=False)

    def look() -> bool:
        with contextlib.suppress(OSError):
            was_ready = bool(node.stdout)
            status, told = call(admin, "/startupz")
            if not seen:
                assert call(admin, "/livez") == (200, {"alive": True})
                assert call(admin, "/readyz") == (503, {"ready": False, "reasons": ["starting"]})
                assert metric(admin, "pcc_startup_phase", phase="ready") == 0
                assert call(admin, "/keys")[0] == 503
            seen.append((status, told["state"], told["phase"], was_ready))
            return bool(told["state"] == "started")
        return False

    with node:
        until(look, 60)
        assert call(admin, "/readyz") == (200, {"ready": True, "reasons": []})
        assert metric(admin, "pcc_startup_phase", phase="ready") == 1
    statuses, states, phases, ready = zip(*seen, strict=True)
    assert (statuses[0], states[0], ready[0]) == (503, "starting", False)
    assert statuses == (*(503,) * (len(seen) - 1), 200)
    assert {"load"} <= set(phases)
    order = [phase.value for phase in Phase]
    assert [order.index(phase) for phase in phases] == sorted(order.index(phase) for phase in phases)


# --- who may ask what ------------------------------------------------------------------------------


def test_off_loopback_probes_and_metrics_need_no_token_all_else_does_and_nothing_is_plain(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path / "tls")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    options = ("--admin", "0.0.0.0:0", "--admin-token", str(token), "--tls-cert", str(cert), "--tls-key", str(key))
    tls = ssl.create_default_context(cafile=str(cert))
    with Node(*options) as node:
        admin = f"127.0.0.1:{node.ready['admin'].rpartition(':')[2]}"
        for path in OPEN:
            assert call(admin, path, headers={"host": "10.1.2.3:9090"}, tls=tls)[0] == 200  # as a kubelet asks
        for path, method in (("/keys", "GET"), ("/evidence", "GET"), ("/drain", "POST"), ("/keys/rotate", "POST")):
            assert call(admin, path, method, MARK, tls)[0] == 401
        assert call(admin, "/keys", headers={"authorization": f"Bearer {TOKEN}"}, tls=tls)[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            call(admin, "/livez")
        old = ssl.create_default_context(cafile=str(cert))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            call(admin, "/livez", tls=old)
        make_pair(tmp_path / "tls")
        os.kill(node.launcher, signal.SIGHUP)
        renewed = ssl.create_default_context()

        def shows_the_new_one() -> bool:
            renewed.load_verify_locations(str(cert))
            with contextlib.suppress(ssl.SSLError):
                return bool(call(admin, "/livez", tls=renewed)[0] == 200)
            return False

        until(shows_the_new_one)
        with pytest.raises(ssl.SSLError):
            call(admin, "/livez", tls=tls)


def test_a_token_of_another_owner_may_be_read_by_our_group(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test gives a file away, which needs root")
    file = tmp_path / "token"
    file.write_text(TOKEN)
    os.chown(file, 12345, -1)
    file.chmod(0o440)  # what a Secret looks like to a pod that is not root
    assert read_token(str(file)) == TOKEN
    for mode in (0o444, 0o460, 0o441):
        file.chmod(mode)
        with pytest.raises(StartFailure, match="can be read by others"):
            read_token(str(file))


# --- drain -----------------------------------------------------------------------------------------


def test_a_drain_over_the_port_ends_the_node_when_its_streams_have_ended() -> None:
    with Node("--admin", "127.0.0.1:0", "--fake-delay-ms", "20") as node, Client(node) as client:
        admin = str(node.ready["admin"])
        sealed, opener = client.seal(ask("x" * 40, max_tokens=50))
        running = client.send(client.encode(sealed))
        opener_input = [next(running)]
        for headers in ({}, {"x-pcc-admin": "0"}, {**MARK, "host": "evil.example"}):
            assert call(admin, "/drain", "POST", headers)[0] == 403
        assert call(admin, "/drain")[0] == 405
        assert call(admin, "/readyz")[0] == 200
        assert call(admin, "/drain", "POST", MARK) == (202, {"draining": True})
        assert call(admin, "/readyz") == (503, {"ready": False, "reasons": ["draining"]})
        assert call(admin, "/startupz")[1]["state"] == "draining"
        assert metric(admin, "pcc_draining") == 1
        assert call(admin, "/livez")[0] == 200
        assert collect(iter([*opener_input, *running]), opener).receipt
        assert node.process.wait(20) == 0


# --- a worker that ends ----------------------------------------------------------------------------


@pytest.mark.linux
def test_a_lost_worker_is_told_of_and_counted() -> None:
    with Node("--admin", "127.0.0.1:0") as node:
        admin = str(node.ready["admin"])
        assert metric(admin, "pcc_worker_restarts_total") == 0
        before = call(admin, "/keys")[1]
        kill(node.pid("worker"))
        until(lambda: call(admin, "/readyz") == (503, {"ready": False, "reasons": ["worker_gone"]}))
        assert call(admin, "/livez")[0] == 200
        assert call(admin, "/startupz")[0] == 200  # it was ready once: nobody restarts the pod for it
        until(lambda: call(admin, "/readyz")[0] == 200, 30)
        assert metric(admin, "pcc_worker_restarts_total") == 1
        assert call(admin, "/keys")[1]["node_id"] != before["node_id"]


# --- content (S5) ----------------------------------------------------------------------------------


def shown(admin: str) -> list[str]:
    """Everything the open half of the port says now."""
    return [str(call(admin, path)) for path in OPEN]


def outcomes(client: Client) -> None:
    """Requests that hold the canary and end in every way that a client can bring about."""
    for _ in range(8):
        assert client.ask(f"{CANARY} please").text
    assert client.ask(f"{CANARY} " * 9000).failed  # more than the context holds
    sealed, _ = client.seal(ask(f"{CANARY} " + "x" * 200, max_tokens=400))
    running = client.send(client.encode(sealed))
    next(running)
    running.cancel()
    expired, _ = client.seal(ask(f"{CANARY} " + "x" * 200, max_tokens=400))
    with pytest.raises(grpc.RpcError):
        list(client.send(client.encode(expired), timeout=0.1))
    assert client.refused(CANARY.encode() * 100)[1] == "MALFORMED"


@pytest.mark.linux
def test_probes_metrics_and_logs_are_free_of_content_whatever_becomes_of_a_request() -> None:
    with Node("--admin", "127.0.0.1:0", "--fake-delay-ms", "2") as node, Client(node) as client:
        admin = str(node.ready["admin"])
        said = shown(admin)
        outcomes(client)
        until(lambda: (metric(admin, "pcc_requests_total", outcome="ok", finish_reason="length") or 0) >= 8)
        assert metric(admin, "pcc_rejected_total", reason="malformed") == 1
        said += shown(admin)
        sealed, _ = client.seal(ask(f"{CANARY} " + "x" * 300, max_tokens=400))
        running = client.send(client.encode(sealed))
        next(running)
        kill(node.pid("worker"))
        with pytest.raises(grpc.RpcError):
            list(running)
        said += shown(admin)
        until(lambda: call(admin, "/readyz")[0] == 200, 30)
        said += shown(admin)
        assert not leaks(CANARY, *said, node.words())
    assert not leaks(CANARY, node.words())


@pytest.mark.linux
def test_what_a_library_prints_is_counted_and_shown_to_nobody(tmp_path: Path) -> None:
    command = leaky_interpreter(tmp_path, f"shout:{CANARY}")
    with Node("--admin", "127.0.0.1:0", command=command) as node:
        admin = str(node.ready["admin"])
        until(lambda: (metric(admin, "pcc_worker_stderr_bytes_total") or 0) > 0)
        assert not leaks(CANARY, *shown(admin), node.words())


@pytest.mark.linux
def test_a_node_that_repeats_what_a_library_prints_would_be_noticed(tmp_path: Path) -> None:
    with Node(
        "--admin", "127.0.0.1:0", command=leaky_interpreter(tmp_path, f"shout:{CANARY}", filtering=False)
    ) as node:
        until(lambda: leaks(CANARY, node.words()))


def test_two_scrapes_of_a_real_node_do_not_show_one_request() -> None:
    with Node("--admin", "127.0.0.1:0") as node, Client(node) as client:
        admin = str(node.ready["admin"])

        def counted() -> dict[str, float]:
            families = text_string_to_metric_families(call(admin, "/metrics")[1])
            kinds = ("counter", "histogram")
            return {s.name + str(s.labels): s.value for f in families if f.type in kinds for s in f.samples}

        before = counted()
        assert client.ask("the one request", max_tokens=40).text
        until(lambda: node.events("request"))
        time.sleep(2.5)  # two beats of the worker: what it would publish has arrived
        assert counted() == before
        for _ in range(7):
            assert client.ask("seven more", max_tokens=40).text
        until(lambda: counted() != before)  # control: published at all
        assert metric(admin, "pcc_requests_total", outcome="ok", finish_reason="stop") == 8
