"""The health service, asked by the official client."""

import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hybrid.wire.errors import Malformed
from pcc_server import health
from tests.pcc_server.node_client import Client, Node, ask, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
INFERENCE = "hybrid.wire.v1.Inference"


def stub(client: Client) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(client.channel)


def request(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", INFERENCE])
def test_a_ready_node_is_serving(client: Client, service: str) -> None:
    assert stub(client).Check(request(service), timeout=5).status == SERVING


def test_an_unknown_service_is_not_found(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub(client).Check(request("another.Service"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_watching_an_unknown_service_says_so(client: Client) -> None:
    watch = stub(client).Watch(request("another.Service"), timeout=5)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_sees_the_drain_at_once() -> None:
    with Node("--fake-delay-ms", "100") as node, Client(node) as client:
        watch = stub(client).Watch(request("hybrid.wire.v1.Inference"), timeout=20)
        assert next(watch).status == SERVING
        call = client.send(client.encode(client.seal(ask("x" * 100, max_tokens=10))[0]))
        next(call)
        os.kill(node.launcher, signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert list(call)  # the reply still runs to its end
        assert node.process.wait(15) == 0


def test_a_node_with_a_stopped_worker_is_not_serving_refuses_and_recovers() -> None:
    with Node() as node, Client(node) as client:
        worker = node.pid("worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            until(lambda: stub(client).Check(request(INFERENCE), timeout=5).status == NOT_SERVING, timeout=15)
            assert stub(client).Check(request(""), timeout=5).status == SERVING  # the process is well
            assert client.refused(client.encode(client.seal(ask("x"))[0]))[:2] == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        finally:
            os.kill(worker, signal.SIGCONT)
        until(lambda: stub(client).Check(request(INFERENCE), timeout=5).status == SERVING)
        assert client.ask("again").receipt
        until(lambda: node.events("worker_silent"))


@pytest.mark.parametrize("service", ["", "a", "hybrid.wire.v1.Inference", "ü" * 60])
def test_our_codec_reads_what_the_official_one_writes(service: str) -> None:
    assert health.decode_request(request(service).SerializeToString()) == service


@pytest.mark.parametrize("status", list(health.Serving))
def test_the_official_codec_reads_what_ours_writes(status: health.Serving) -> None:
    assert health_pb2.HealthCheckResponse.FromString(health.encode_reply(status)).status == status


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05a", b"\x12\x01a", b"\x0a\x01\xff", b"\x0a\x80\x01" + b"a" * 128])
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        health.decode_request(data)
