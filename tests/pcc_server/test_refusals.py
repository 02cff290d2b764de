"""Requests that must not run: one status, one word, nothing else, and the engine never starts."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.envelope import RequestSealer, SealedRequest
from hybrid.wire.errors import ErrorCode
from hybrid.wire.keys import EpochKey
from pcc_server import status_details
from pcc_server.errors import STATUS
from tests.pcc_server.node_client import Client, Node, ask, until


def told(code: ErrorCode) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """All that a caller sees of a refusal without a hint."""
    status = grpc.StatusCode[STATUS[code]]
    return status, code.value, ((status_details.TRAILER, str(status_details.encode(status.value[0], code))),)


REJECTED, MALFORMED = told(ErrorCode.REJECTED), told(ErrorCode.MALFORMED)
STALE, REPLAY = told(ErrorCode.STALE_KEY), told(ErrorCode.REPLAY)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def encode(
    sealed: SealedRequest, *, header: bytes | None = None, body: bytes | None = None, kp: bytes | None = None
) -> bytes:
    packages = sealed.key_packages if kp is None else (kp,)
    return codec.encode_invoke_request(header or sealed.header, body or sealed.body, packages)


def runs(node: Node) -> int:
    return len(node.events("request"))


def test_a_replayed_request_is_refused_and_does_not_run_again(node: Node, client: Client) -> None:
    before = runs(node)
    data = client.encode(client.seal(ask("once"))[0])
    list(client.send(data))
    assert client.refused(data) == REPLAY
    until(lambda: runs(node) == before + 1)
    time.sleep(0.2)
    assert runs(node) == before + 1


def test_of_ten_copies_at_once_exactly_one_runs(node: Node, client: Client) -> None:
    before = runs(node)
    data = client.encode(client.seal(ask("once"))[0])

    def send(_: int) -> str:
        call = client.send(data)
        try:
            return "ran" if list(call) else "empty"
        except grpc.RpcError:
            return str(call.details())

    with ThreadPoolExecutor(10) as pool:
        outcomes = sorted(pool.map(send, range(10)))
    assert outcomes == ["REPLAY"] * 9 + ["ran"]
    until(lambda: runs(node) == before + 1)


def test_every_flip_behind_the_key_is_refused_alike(client: Client) -> None:
    sealed, _ = client.seal(ask("hello"))
    package = sealed.key_packages[0]
    tampered = [encode(sealed, kp=flipped(package, at)) for at in (0, 600, 1087, 1088, 1119, 1120, 1150, 1200)]
    tampered += [encode(sealed, body=flipped(sealed.body, at)) for at in (0, 23, 24, 55, 56, 500, len(sealed.body) - 1)]
    tampered += [encode(sealed, header=flipped(sealed.header, at)) for at in (12, 27, 28, 59)]  # rid, directory_id
    assert {client.refused(data) for data in tampered} == {REJECTED}
    assert list(client.send(encode(sealed)))  # the control: the same request, untouched, runs


def test_no_flip_in_the_header_is_ever_opened(node: Node, client: Client) -> None:
    before = runs(node)
    sealed, _ = client.seal(ask("hello"))
    answers = {client.refused(encode(sealed, header=flipped(sealed.header, at))) for at in range(len(sealed.header))}
    assert answers == {REJECTED, MALFORMED, STALE, told(ErrorCode.TOKEN)}
    assert runs(node) == before


def test_a_request_made_by_a_stranger_s_package_is_rejected(client: Client) -> None:
    """Same header, own key package: the body does not open under the stranger's secret."""
    sealed, _ = client.seal(ask("hello"))
    other, _ = client.seal(ask("hello"))
    assert client.refused(encode(sealed, kp=other.key_packages[0])) == REJECTED


def test_a_request_to_an_unknown_key_is_stale(client: Client) -> None:
    key = EpochKey.generate(client.candidate.key.epoch, client.candidate.key.epoch_s).config
    client.candidate = replace(client.candidate, key=key)
    assert client.refused(client.encode(client.seal(ask("hello"))[0])) == STALE


def test_a_request_that_names_another_bundle_is_stale(client: Client) -> None:
    client.candidate = replace(client.candidate, bundle_id=secrets.token_bytes(32))
    assert client.refused(client.encode(client.seal(ask("hello"))[0])) == STALE


def test_a_restarted_node_refuses_what_was_sealed_to_the_old_one() -> None:
    with Node() as node, Client(node) as client:
        data = client.encode(client.seal(ask("hello"))[0])
        address = node.address
    with Node("--listen", address) as again, Client(again) as client:
        assert client.refused(data) == STALE


def test_a_model_that_is_not_served_is_malformed(client: Client) -> None:
    client.model_id = "another"
    assert client.refused(client.encode(client.seal(ask("hello"))[0])) == MALFORMED


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 100, b"\x0a\x03abc"])
def test_bytes_that_are_no_request_are_malformed(client: Client, data: bytes) -> None:
    assert client.refused(data) == MALFORMED


def test_two_messages_in_one_request_are_malformed(client: Client) -> None:
    data = client.encode(client.seal(ask("hello"))[0])
    call = client.channel.stream_stream(codec.METHODS["Inference.Invoke"])(iter([data, data]), timeout=10)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert (call.code(), call.details()) == MALFORMED[:2]


def test_a_second_key_package_for_one_candidate_is_malformed(client: Client) -> None:
    sealed, _ = client.seal(ask("hello"))
    data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages * 2)
    assert client.refused(data) == MALFORMED


def test_a_token_the_header_does_not_know_is_refused(client: Client) -> None:
    sealed, _ = client.seal(ask("hello"))
    data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages, token=b"t")
    assert client.refused(data)[:2] == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN")


def test_a_routed_request_with_its_index_runs(node: Node, client: Client) -> None:
    """A router sends one package and its index; the header has two candidates."""
    with Node() as elsewhere, Client(elsewhere) as far:
        other = far.candidate
    sealed, opener = RequestSealer(
        candidates=[other, client.candidate], model_id="fake", directory_id=client.directory.id, deadline_ms=15_000
    ).seal(ask("hello"))
    data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages[1:], index=1)
    reply = codec.decode_invoke_reply(next(iter(client.send(data))))
    assert opener.start(reply.head) == 1


def test_a_message_beyond_the_limit_is_refused_unread_and_one_at_the_limit_is_read(client: Client) -> None:
    assert client.refused(b"\x00" * (1_310_720 + 1))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.refused(b"\x00" * 1_310_720) == MALFORMED


def test_what_the_gateway_refuses_by_itself_is_an_event_too(node: Node, client: Client) -> None:
    before = len(node.events("refused"))
    assert client.refused(b"\xff") == MALFORMED
    until(lambda: len(node.events("refused")) > before)


def test_a_full_node_says_busy_and_when_to_come_back() -> None:
    with Node("--max-running", "1", "--max-queue", "1", "--fake-delay-ms", "200") as node, Client(node) as client:
        calls = [client.send(client.encode(client.seal(ask("x" * 100, max_tokens=50))[0])) for _ in range(2)]
        for call in calls:
            next(call)  # its head: it is inside, running or waiting
        status, words, trailers = client.refused(client.encode(client.seal(ask("hello"))[0]))
        assert (status, words) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        assert 0 < int(dict(trailers)["retry-after-ms"]) <= 30_000
        for call in calls:
            call.cancel()


def test_the_directory_is_limited_per_address() -> None:
    with Node() as node, Client(node) as client:
        get = client.channel.unary_stream(codec.METHODS["Directory.Get"])
        codes = []
        for _ in range(70):
            call = get(b"", timeout=5)
            with suppress(grpc.RpcError):
                list(call)
            codes.append((call.code(), call.details()))
        assert codes[0] == (grpc.StatusCode.OK, "")
        assert codes[-1] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT")
