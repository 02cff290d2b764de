"""What a refusal carries, read by the official packages of google.rpc: a reason, and when to come back."""

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from hybrid.wire.errors import ErrorCode
from pcc_server import status_details
from pcc_server.errors import STATUS
from pcc_server.status_details import hint_ms
from tests.pcc_server.node_client import Client, Node, ask


def unpacked(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, list[error_details_pb2.RetryInfo]]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert all(detail.Unpack(retry) for detail in status.details[1:])
    return info, [retry][: len(status.details) - 1]


@pytest.mark.parametrize("retry_ms", [0, 1, 80, 999, 1000, 12_345, 30_000])
@pytest.mark.parametrize("code", list(ErrorCode))
def test_the_official_codec_reads_and_writes_the_same_bytes(code: ErrorCode, retry_ms: int) -> None:
    number = code_pb2.Code.Value(STATUS[code])
    data = status_details.encode(number, code, retry_ms)
    status = status_pb2.Status.FromString(data)
    info, retries = unpacked(status)
    assert (status.code, status.message) == (number, code.value)
    assert (info.reason, info.domain, dict(info.metadata)) == (code.value, "hybrid.wire.v1", {})
    assert [retry.retry_delay.ToMilliseconds() for retry in retries] == ([retry_ms] if retry_ms else [])
    assert status.SerializeToString(deterministic=True) == data


def test_a_hint_is_rounded_up_spread_to_both_sides_and_bounded() -> None:
    edges = iter((0, 200, 400))
    assert [hint_ms(1_201, lambda _: next(edges)) for _ in range(3)] == [1_040, 1_300, 1_560]
    assert hint_ms(0) == 0
    assert hint_ms(1, lambda _: 0) == 80
    assert hint_ms(10**9) == 30_000
    spread = {hint_ms(2_000) for _ in range(200)}
    assert min(spread) >= 1_600
    assert max(spread) <= 2_400
    assert len(spread) > 20


def test_a_full_node_tells_the_same_time_in_both_ways() -> None:
    with Node("--max-running", "1", "--max-queue", "0", "--fake-delay-ms", "200") as node, Client(node) as client:
        running = client.send(client.encode(client.seal(ask("x" * 100, max_tokens=50))[0]))
        next(running)
        call = client.send(client.encode(client.seal(ask("hello"))[0]))
        with pytest.raises(grpc.RpcError):
            list(call)
        status = rpc_status.from_call(call)  # raises where status and details differ
        info, retries = unpacked(status)
        trailers = dict(call.trailing_metadata())
        assert info.reason == "BUSY"
        assert [str(retry.retry_delay.ToMilliseconds()) for retry in retries] == [trailers["retry-after-ms"]]
        running.cancel()


def test_what_no_wait_can_mend_has_no_hint(client: Client) -> None:
    call = client.send(b"\xff")
    with pytest.raises(grpc.RpcError):
        list(call)
    info, retries = unpacked(rpc_status.from_call(call))
    assert (info.reason, retries) == ("MALFORMED", [])
    assert {key for key, _ in call.trailing_metadata()} == {"grpc-status-details-bin"}
