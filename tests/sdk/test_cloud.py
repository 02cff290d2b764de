"""The sealed hop end to end: real gRPC on loopback where the network matters, the same worker in memory elsewhere."""

import asyncio
import datetime as dt
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybrid.cloud import STATUS, CloudEngine, GrpcTransport, mapped, retry_hint
from hybrid.errors import (
    APIConnectionError,
    APITimeoutError,
    AttestationError,
    ConfigurationError,
    ContextOverflowError,
    GenerationCancelled,
    HybridError,
    IntegrityError,
    KeyExpiredError,
    NodeAuthError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    RemoteError,
    ServerError,
)
from hybrid.events import NodeVerified, Retry
from hybrid.exchange import Timeout, Transport
from hybrid.gate import Gate
from hybrid.peers import Address, peers_of
from hybrid.remote import CloudEvent, CloudResult
from hybrid.routing.labels import Labels, typed
from hybrid.trust.policy import Policy
from hybrid.trust.verify import Verifier
from hybrid.wire.codec import decode_invoke_reply, encode_invoke_reply
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.errors import ErrorCode, SealedCode
from hybrid.wire.keys import EpochKey
from hybrid.wire.receipt import SealedError
from hybrid.wire.types import Chunk, FinishReason, Usage
from tests.sdk.grpc_node import GrpcNode, Proxy
from tests.trust.maker import (
    ANSWER,
    EPOCH_S,
    NOW,
    DirectTransport,
    FakeWorker,
    Maker,
    asked,
    decision,
    failing,
    finished,
    live,
)

PROMPT = "What is the capital of France?"
T = TypeVar("T")


@dataclass
class Slept:
    """A clock that notes how long it was asked to wait, and does not."""

    waits: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


def engine_for(transport: Transport, maker: Maker, **kw: Any) -> CloudEngine:
    kw.setdefault("now", lambda: maker.now)
    kw.setdefault("sleep", Slept())
    gate = kw.pop("gate", None) or Gate()
    policy = kw.pop("policy", None) or maker.policy()
    return CloudEngine(transport, Verifier(policy), gate, **kw)


async def events_of(engine: CloudEngine, into: list[CloudEvent] | None = None, **kw: Any) -> list[CloudEvent]:
    """Verify, clear, stream; keep every event, also of a stream that fails."""
    events = [] if into is None else into
    nodes = await engine.nodes()
    cleared = engine.gate.clear(asked(PROMPT), Labels((typed(PROMPT),)), decision(), nodes)
    async for event in engine.stream(cleared, **kw):
        events.append(event)
    return events


def in_memory(worker: FakeWorker, into: list[CloudEvent] | None = None, **kw: Any) -> list[CloudEvent]:
    transport = kw.pop("transport", None) or DirectTransport(worker)
    return asyncio.run(events_of(engine_for(transport, worker.maker, **kw), into))


def failed(worker: FakeWorker, kind: type[HybridError], **kw: Any) -> tuple[Any, list[CloudEvent]]:
    events: list[CloudEvent] = []
    with pytest.raises(kind) as caught:
        in_memory(worker, events, **kw)
    assert not [event for event in events if isinstance(event, CloudResult)]
    return caught.value, events


def text_of(events: list[CloudEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk))


# --- the good case ---------------------------------------------------------------------------------


def test_an_answer_comes_as_node_text_end_and_result() -> None:
    worker = FakeWorker(Maker())
    first, *middle, end, result = in_memory(worker)
    assert isinstance(first, NodeVerified)
    assert (first.tier_words, first.model) == ("software, NOT private from the operator", "fake")
    assert text_of(middle) == "".join(ANSWER)
    assert isinstance(end, Chunk)
    assert (end.finish_reason, end.usage) == (FinishReason.STOP, Usage(input=7, output=3))
    assert isinstance(result, CloudResult)
    assert (result.attempts, result.finish_reason) == (1, FinishReason.STOP)
    assert result.bytes_wire == len(worker.seen[0]) > result.bytes_plain > len(PROMPT)


def test_the_same_answer_comes_over_grpc() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node:
            transport = GrpcTransport(node.address)
            engine = engine_for(transport, worker.maker)
            assert not transport.peer_is_loopback
            events = await events_of(engine)
            assert transport.peer_is_loopback
            assert text_of(events) == "".join(ANSWER)
            assert isinstance(events[-1], CloudResult)
            await events_of(engine)
            assert worker.directories == 1
            await engine.close()

    asyncio.run(run())


def test_the_gate_counts_exactly_what_the_node_received() -> None:
    worker, gate = FakeWorker(Maker(), refusals=[ErrorCode.BUSY]), Gate()
    *_, result = in_memory(worker, gate=gate)
    assert isinstance(result, CloudResult)
    assert gate.bytes_sent == sum(map(len, worker.seen)) == result.bytes_wire
    assert [record.bytes_wire for record in gate.records] == [len(data) for data in worker.seen]


# --- before anything is sent -----------------------------------------------------------------------


def recorded(pinned: Callable[[Maker], Policy]) -> tuple[int, int]:
    """Ask through a recorder; returns the request bytes it saw and how many requests reached the node."""
    seen: list[tuple[str, str]] = []

    async def run() -> tuple[int, int]:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node, Proxy(node.port).serving() as proxy:
            engine = engine_for(GrpcTransport(proxy.address), worker.maker, policy=pinned(worker.maker))
            try:
                await events_of(engine)
            except AttestationError as error:
                seen.append((error.check, error.left_device))
            await engine.close()
            proxy.messages = worker.directories + len(worker.seen)
            return proxy.request_bytes(), len(worker.seen)

    counted = asyncio.run(run())
    assert seen in ([], [("directory.signature", "no")])
    return counted


def test_a_wrong_node_key_means_that_not_one_request_byte_leaves() -> None:
    assert recorded(lambda _: Maker().policy()) == (0, 0)
    size, requests = recorded(lambda maker: maker.policy())
    assert requests == 1
    assert size > 1096 + 1201  # the smallest body and one key package: the recorder does see what leaves


def test_a_failed_attestation_is_never_retried() -> None:
    worker = FakeWorker(Maker())
    error, events = failed(worker, AttestationError, policy=Maker().policy())
    assert (worker.directories, len(worker.seen), events) == (1, 0, [])
    assert error.check == "directory.signature"


def test_software_evidence_off_loopback_sends_nothing() -> None:
    worker = FakeWorker(Maker())
    transport = DirectTransport(worker, peer_is_loopback=False)
    error, _ = failed(worker, AttestationError, transport=transport)
    assert (error.check, worker.seen) == ("tier.software", [])


# --- damage on the way -----------------------------------------------------------------------------


def test_a_stream_cut_after_its_head_is_an_integrity_error_with_the_text_so_far() -> None:
    for keep in range(1, 6):
        worker = FakeWorker(Maker(), tamper=lambda m, keep=keep: m[:keep])
        error, events = failed(worker, IntegrityError)
        assert error.partial == text_of(events) == "".join(ANSWER[: keep - 1])
        assert (error.left_device, error.route) == ("yes", "private_cloud")
        assert len(worker.seen) == 1


@pytest.mark.parametrize("status", [None, *(code for code in grpc.StatusCode if code is not grpc.StatusCode.OK)])
def test_whatever_status_ends_a_cut_stream_over_grpc_it_is_an_integrity_error(status: grpc.StatusCode | None) -> None:
    async def run() -> None:
        worker = FakeWorker(live(), tamper=lambda messages: messages[:2])
        async with GrpcNode(worker, status=status).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            with pytest.raises(IntegrityError) as caught:
                await events_of(engine)
            assert caught.value.partial == ANSWER[0]
            assert "proxy" not in str(caught.value)
            assert len(worker.seen) == 1
            await engine.close()

    asyncio.run(run())


def test_a_status_after_the_final_frame_takes_nothing_from_the_answer() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker, status=grpc.StatusCode.INTERNAL).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            assert isinstance((await events_of(engine))[-1], CloudResult)
            await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "tamper",
    [
        lambda m: [m[0], m[2], m[1], *m[3:]],
        lambda m: [*m[:2], m[1], *m[2:]],
        lambda m: [*m[:2], *m[3:]],
        lambda m: [*m, m[1]],
        lambda m: [m[0], encode_invoke_reply(frames=bytes(512)), *m[1:]],
        lambda m: [encode_invoke_reply(head=bytes(65)), *m[1:]],
        lambda m: [*m[:-1], encode_invoke_reply(frames=decode_invoke_reply(m[-1]).frames, final=bytes(512))],
    ],
    ids=["swapped", "doubled", "dropped", "after final", "forged frame", "forged head", "forged final"],
)
def test_damage_ends_in_a_typed_error_and_is_never_retried_nor_complete(
    tamper: Callable[[list[bytes]], list[bytes]],
) -> None:
    worker = FakeWorker(Maker(), tamper=tamper)
    error, events = failed(worker, RemoteError)
    assert isinstance(error, IntegrityError | ProtocolError)
    assert len(worker.seen) == 1
    assert not [event for event in events if isinstance(event, Retry)]
    assert text_of(events) == error.partial
    assert not [event for event in events if isinstance(event, Chunk) and event.finish_reason]


def test_a_proxy_that_flips_a_bit_is_always_found_out() -> None:
    places = random.Random(3)  # noqa: S311 - a test repeats itself

    async def once(at: int, bit: int) -> tuple[HybridError | None, bool]:
        def flip(start: int, data: bytes) -> bytes:
            if not start <= at < start + len(data):
                return data
            nonlocal hit
            hit = True
            changed = bytearray(data)
            changed[at - start] ^= bit
            return bytes(changed)

        hit = False
        timeout = Timeout(connect=5, attest=5, first_token=2, idle=2, total=10)
        async with Proxy(node.port, change=flip).serving() as proxy:
            engine = engine_for(GrpcTransport(proxy.address, timeout), maker, timeout=timeout, max_retries=0)
            try:
                events = await events_of(engine)
            except HybridError as error:
                return error, hit
            finally:
                await engine.close()
            assert text_of(events) == "".join(ANSWER)  # a flip outside the messages may do no harm at all
            return None, hit

    async def run() -> None:
        nonlocal node
        async with GrpcNode(FakeWorker(maker)).serving() as serving:
            node = serving
            clean, _ = await once(10**9, 1)
            assert clean is None
            results = [await once(places.randrange(100, 16_000), 1 << places.randrange(8)) for _ in range(12)]
        assert sum(hit for _, hit in results) >= 8
        assert sum(error is not None for error, hit in results if hit) >= 8

    maker, node = live(), GrpcNode(FakeWorker(Maker()))
    asyncio.run(run())


def test_an_answer_that_never_says_how_it_ended_is_not_complete() -> None:
    def unfinished(sealer: ReplySealer, _: object, worker: FakeWorker) -> list[bytes]:
        messages = [encode_invoke_reply(head=sealer.head), encode_invoke_reply(frames=sealer.data(Chunk(text="Par")))]
        return [*messages, finished(sealer, worker, None)]

    error, events = failed(FakeWorker(Maker(), reply=unfinished), ProtocolError)
    assert (error.partial, error.left_device) == ("Par", "yes")
    assert not [event for event in events if isinstance(event, Chunk) and event.finish_reason]


# --- retries ---------------------------------------------------------------------------------------


def test_a_stale_key_fetches_verifies_and_seals_anew_once() -> None:
    worker = FakeWorker(Maker(), refusals=[ErrorCode.STALE_KEY])
    events = in_memory(worker)
    (retry,) = [event for event in events if isinstance(event, Retry)]
    assert (retry.attempt, retry.cause) == (2, "KeyExpiredError")
    assert (worker.directories, len(set(worker.seen))) == (2, 2)
    assert isinstance(events[-1], CloudResult)
    assert events[-1].attempts == 2


def test_a_second_stale_key_is_raised() -> None:
    worker = FakeWorker(Maker(), refusals=[ErrorCode.STALE_KEY] * 5)
    error, _ = failed(worker, KeyExpiredError)
    assert (len(worker.seen), error.left_device) == (2, "ciphertext")


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        (ErrorCode.BUSY, OverloadedError, 3),
        (ErrorCode.LIMIT, RateLimitError, 3),
        (ErrorCode.FAULT, ServerError, 2),
        (ErrorCode.STALE_KEY, KeyExpiredError, 2),
        (ErrorCode.REJECTED, ProtocolError, 1),
        (ErrorCode.MALFORMED, ProtocolError, 1),
        (ErrorCode.REPLAY, IntegrityError, 1),
        (ErrorCode.TOKEN, NodeAuthError, 1),
        (ErrorCode.DEADLINE, APITimeoutError, 1),
    ],
)
def test_every_refusal_is_tried_as_often_as_the_protocol_allows_and_never_with_the_same_bytes(
    code: ErrorCode, kind: type[RemoteError], attempts: int
) -> None:
    worker = FakeWorker(Maker(), refusals=[code] * 9)
    error, _ = failed(worker, kind)
    assert len(worker.seen) == len(set(worker.seen)) == attempts
    assert (error.left_device, bool(error.hint), bool(error.request_id)) == ("ciphertext", True, True)


def test_different_failures_share_three_attempts() -> None:
    worker = FakeWorker(Maker(), refusals=[ErrorCode.STALE_KEY, ErrorCode.FAULT, ErrorCode.BUSY, ErrorCode.BUSY])
    failed(worker, OverloadedError)
    assert len(worker.seen) == 3


def test_no_retry_is_made_when_none_is_allowed() -> None:
    worker = FakeWorker(Maker(), refusals=[ErrorCode.BUSY])
    failed(worker, OverloadedError, max_retries=0)
    assert len(worker.seen) == 1


def test_many_allowed_retries_are_still_at_most_three_attempts() -> None:
    worker = FakeWorker(Maker(), refusals=[ErrorCode.BUSY] * 9)
    failed(worker, OverloadedError, max_retries=100)
    assert len(worker.seen) == 3


def test_every_attempt_passes_the_gate_anew_with_a_record_of_its_own() -> None:
    worker, gate = FakeWorker(Maker(), refusals=[ErrorCode.BUSY, ErrorCode.BUSY]), Gate()
    in_memory(worker, gate=gate)
    assert len({record.id for record in gate.records}) == 3
    assert len({record.plan_id for record in gate.records}) == 1


def test_a_retry_hint_over_grpc_is_waited_for_and_a_busy_node_is_told_from_a_lost_one() -> None:
    async def run() -> None:
        slept = Slept()
        worker = FakeWorker(live(), refusals=[ErrorCode.BUSY, ErrorCode.LIMIT])
        async with GrpcNode(worker).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker, sleep=slept)
            events = await events_of(engine)
            await engine.close()
        assert [e.cause for e in events if isinstance(e, Retry)] == ["OverloadedError", "RateLimitError"]
        assert slept.waits == [0.02, 0.02]

    asyncio.run(run())


def test_nothing_listening_is_tried_three_times_and_nothing_has_left() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            nodes = await engine.nodes()
        cleared = engine.gate.clear(asked(PROMPT), Labels((typed(PROMPT),)), decision(), nodes)
        events: list[CloudEvent] = []
        with pytest.raises(APIConnectionError, match="nothing answers") as caught:  # noqa: PT012 - keeps the events
            async for event in engine.stream(cleared):
                events.append(event)  # noqa: PERF401
        assert len([event for event in events if isinstance(event, Retry)]) == 2
        assert caught.value.hint
        await engine.close()

    asyncio.run(run())


def test_a_node_that_came_back_is_found_again() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node:
            transport = GrpcTransport(node.address)
            await transport.directory()
        with pytest.raises(APIConnectionError):
            await transport.directory()
        async with GrpcNode(worker).serving() as again:
            transport._parsed = Address.parse(again.address)
            assert await transport.directory()
        await transport.close()

    asyncio.run(run())


def test_evidence_that_ended_while_somebody_was_asked_is_fetched_anew() -> None:
    maker = Maker()
    worker = FakeWorker(maker)
    clock = [NOW]

    async def run() -> None:
        engine = engine_for(DirectTransport(worker), maker, now=lambda: clock[0])
        nodes = await engine.nodes()
        cleared = engine.gate.clear(asked(PROMPT), Labels((typed(PROMPT),)), decision(), nodes)
        clock[0] = nodes[0].valid_until + 1
        maker.epoch += 2
        maker.keys = [EpochKey.generate(maker.epoch + n, EPOCH_S) for n in range(2)]
        assert isinstance([event async for event in engine.stream(cleared)][-1], CloudResult)

    asyncio.run(run())
    assert (worker.directories, len(worker.seen)) == (2, 1)


# --- sealed errors ---------------------------------------------------------------------------------


def test_a_sealed_context_error_names_limit_and_need_and_has_left_the_device() -> None:
    error = SealedError(code=SealedCode.CONTEXT_LENGTH, first=2048, second=5000)
    caught, _ = failed(FakeWorker(Maker(), reply=failing(error)), ContextOverflowError)
    assert (caught.limit, caught.needed, caught.left_device) == (2048, 5000, "yes")


@pytest.mark.parametrize(("code", "attempts"), [(SealedCode.OVERLOADED, 3), (SealedCode.ENGINE_FAILED, 1)])
def test_a_sealed_failure_is_retried_only_where_nothing_was_generated(code: SealedCode, attempts: int) -> None:
    worker = FakeWorker(Maker(), reply=failing(SealedError(code=code)))
    error, _ = failed(worker, RemoteError)
    assert (len(worker.seen), error.left_device) == (attempts, "yes")


def test_a_sealed_error_whose_receipt_is_missing_is_a_cut_stream() -> None:
    worker = FakeWorker(
        Maker(), reply=failing(SealedError(code=SealedCode.REFUSAL)), tamper=lambda messages: messages[:1]
    )
    failed(worker, IntegrityError)


# --- time ------------------------------------------------------------------------------------------


def slow(number: int) -> Callable[[int], float]:
    return lambda at: 30.0 if at == number else 0.0


@pytest.mark.parametrize(
    ("number", "phase", "left", "limits"),
    [(0, "first_token", "ciphertext", {"first_token": 0.05}), (2, "idle", "yes", {"idle": 0.05})],
)
def test_time_without_progress_is_counted_by_phase(
    number: int, phase: str, left: str, limits: dict[str, float]
) -> None:
    worker = FakeWorker(Maker())
    transport = DirectTransport(worker, delay=slow(number))
    error, events = failed(worker, APITimeoutError, transport=transport, timeout=Timeout(**limits))
    assert (error.phase, error.left_device) == (phase, left)
    assert error.partial == text_of(events)
    assert (transport.cancelled, len(worker.seen)) == (1, 1)


def test_progress_starts_the_wait_for_the_first_token_anew() -> None:
    worker = FakeWorker(Maker())
    transport = DirectTransport(worker, delay=lambda _: 0.12)
    assert in_memory(worker, transport=transport, timeout=Timeout(first_token=0.4, idle=0.4))


def test_the_whole_answer_has_a_limit_of_its_own() -> None:
    worker = FakeWorker(Maker())
    transport = DirectTransport(worker, delay=lambda _: 0.04)
    error, _ = failed(worker, APITimeoutError, transport=transport, timeout=Timeout(total=0.1))
    assert error.phase == "total"


def test_evidence_that_does_not_come_is_a_timeout_of_its_phase() -> None:
    class Silent(DirectTransport):
        async def directory(self) -> bytes:
            await asyncio.sleep(30)
            return b""

    worker = FakeWorker(Maker())
    error, _ = failed(worker, APITimeoutError, transport=Silent(worker), timeout=Timeout(attest=0.05))
    assert (error.phase, error.left_device) == ("attest", "no")


def test_a_connection_that_does_not_come_is_a_timeout_of_its_phase() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody ever speaks
            transport = GrpcTransport(f"127.0.0.1:{silent.getsockname()[1]}", Timeout(connect=0.2))
            with pytest.raises(APITimeoutError) as caught:
                await transport.directory()
            assert (caught.value.phase, caught.value.left_device) == ("connect", "no")
            await transport.close()

    asyncio.run(run())


# --- stopping --------------------------------------------------------------------------------------


def test_closing_the_iterator_cancels_the_call_at_the_node() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker, hang_after=2).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            cleared = engine.gate.clear(asked(PROMPT), Labels((typed(PROMPT),)), decision(), await engine.nodes())
            stream = engine.stream(cleared)
            async for event in stream:
                if isinstance(event, Chunk):
                    break
            assert node.running == 1
            await stream.aclose()
            await asyncio.wait_for(node.released.wait(), 5)
            assert node.running == 0
            await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize("hang_after", [0, 2])
def test_setting_cancel_ends_the_answer_and_keeps_the_text_so_far(hang_after: int) -> None:
    expected = "".join(ANSWER[: max(0, hang_after - 1)])

    async def run() -> None:
        worker, cancel, events = FakeWorker(live()), asyncio.Event(), list[CloudEvent]()
        async with GrpcNode(worker, hang_after=hang_after).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            task = asyncio.ensure_future(events_of(engine, events, cancel=cancel))
            while not (node.running and text_of(events) == expected):  # noqa: ASYNC110 - the node tells nobody
                await asyncio.sleep(0.005)
            cancel.set()
            with pytest.raises(GenerationCancelled) as caught:
                await task
            assert caught.value.partial == expected
            await asyncio.wait_for(node.released.wait(), 5)
            assert node.running == 0
            await engine.close()

    asyncio.run(run())


def test_a_cancelled_task_cancels_the_call_and_the_cancellation_passes_through() -> None:
    async def run() -> None:
        worker = FakeWorker(Maker())
        transport = DirectTransport(worker, delay=slow(2))
        task = asyncio.ensure_future(events_of(engine_for(transport, worker.maker)))
        while not worker.seen:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.cancelled == 1

    asyncio.run(run())


# --- statuses, addresses, TLS ----------------------------------------------------------------------


def test_every_status_but_ok_has_its_row_and_every_row_a_hint() -> None:
    assert set(STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    for status in STATUS:
        error = mapped(status)
        assert isinstance(error, RemoteError)
        assert not error.hint.endswith(".")
        assert f"{error}"[0].islower()
        assert type(error) is not RemoteError


@pytest.mark.parametrize(
    ("trailing", "seconds"),
    [
        ([("retry-after-ms", "250")], 0.25),
        ([("retry-after-ms", "99999")], 30.0),
        ([("retry-after-ms", "999999")], None),
        ([("retry-after-ms", "-5")], None),
        ([("retry-after-ms", "1e3")], None),
        ([("retry-after-ms", "")], None),
        ([("retry-after-ms", "\u0661")], None),
        ([("retry-after-ms", b"250")], None),
        ([("retry-after-ms", "1"), ("retry-after-ms", "2")], None),
        ([], None),
    ],
)
def test_a_retry_hint_is_a_bounded_whole_number_or_none(
    trailing: list[tuple[str, str | bytes]], seconds: float | None
) -> None:
    assert retry_hint(trailing) == seconds


def test_a_text_in_a_status_is_never_repeated() -> None:
    async def run() -> None:
        worker = FakeWorker(live(), tamper=lambda _: [])
        async with GrpcNode(worker, status=grpc.StatusCode.INVALID_ARGUMENT).serving() as node:
            engine = engine_for(GrpcTransport(node.address), worker.maker)
            with pytest.raises(ProtocolError) as caught:
                await events_of(engine)
            error = caught.value
            assert "proxy" not in f"{error} {error.hint} {error.__cause__}"
            assert error.__suppress_context__
            await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8443", "127.0.0.1", 8443), ("[::1]:1", "::1", 1), ("pcc.example.com:443", "pcc.example.com", 443)],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host=host, port=port)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "http://a:1", "a:1/x", "a b:1", "unix:"]
)
def test_an_address_that_is_none_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        GrpcTransport(text)


@pytest.mark.parametrize(
    ("numbers", "loopback"),
    [
        (["127.0.0.1"], [True]),
        (["127.8.9.1"], [True]),
        (["::1"], [True]),
        (["::ffff:127.0.0.1"], [True]),
        (["192.0.2.1"], [False]),
        (["2001:db8::1"], [False]),
        (["127.0.0.1", "192.0.2.1"], [True, False]),
        (["0.0.0.0"], [False]),  # noqa: S104 - to be refused
    ],
)
def test_what_is_loopback_is_decided_by_the_number_and_not_by_the_name(
    numbers: list[str], loopback: list[bool]
) -> None:
    async def names_lie(_host: str, _port: int) -> list[str]:
        return numbers

    peers = asyncio.run(peers_of(Address.parse("localhost:1"), names_lie))
    assert [peer.is_loopback for peer in peers] == loopback
    assert all(peer.target.startswith(("ipv4:", "ipv6:[")) for peer in peers)


def test_a_name_that_leads_nowhere_is_a_connection_error() -> None:
    async def nothing(_host: str, _port: int) -> list[str]:
        raise OSError

    with pytest.raises(APIConnectionError):
        asyncio.run(peers_of(Address.parse("node.invalid:1"), nothing))


def test_a_name_that_leads_off_this_machine_gets_tls_and_never_plaintext() -> None:
    async def elsewhere(_host: str, _port: int) -> list[str]:
        return ["192.0.2.1"]

    transport = GrpcTransport("localhost:8443", resolver=elsewhere)
    (peer,) = asyncio.run(peers_of(transport._parsed, elsewhere))
    assert transport._secure(peer)
    (near,) = asyncio.run(peers_of(Address.parse("127.0.0.1:1")))
    assert not transport._secure(near)


def certificate() -> tuple[bytes, bytes]:
    """Make a key and a certificate for localhost; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, no = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no), made.public_bytes(pem)


async def here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def over_tls(roots: bytes, *, node_speaks_tls: bool, key: bytes, chain: bytes) -> Awaitable[list[CloudEvent]]:
    async def run() -> list[CloudEvent]:
        worker = FakeWorker(live())
        credentials = grpc.ssl_server_credentials([(key, chain)]) if node_speaks_tls else None
        async with GrpcNode(worker, credentials=credentials).serving() as node:
            transport = GrpcTransport(
                f"localhost:{node.port}", Timeout(connect=2), root_certificates=roots, resolver=here
            )
            engine = engine_for(transport, worker.maker)
            try:
                return await events_of(engine)
            finally:
                await engine.close()

    return run()


def test_tls_to_a_node_whose_certificate_is_trusted_works() -> None:
    key, chain = certificate()
    events = asyncio.run(_await(over_tls(chain, node_speaks_tls=True, key=key, chain=chain)))
    assert isinstance(events[-1], CloudResult)


def test_a_node_that_does_not_speak_tls_is_named_as_such() -> None:
    key, chain = certificate()
    with pytest.raises(APIConnectionError, match="does not speak TLS"):
        asyncio.run(_await(over_tls(chain, node_speaks_tls=False, key=key, chain=chain)))


def test_a_certificate_nobody_vouches_for_is_named_as_such() -> None:
    key, chain = certificate()
    _, other = certificate()
    with pytest.raises(APIConnectionError, match="certificate is not trusted"):
        asyncio.run(_await(over_tls(other, node_speaks_tls=True, key=key, chain=chain)))


async def _await(work: Awaitable[T]) -> T:
    return await work


def test_a_canary_appears_in_no_error_and_no_event() -> None:
    canary = "heliotrope-4711"

    class Loud(DirectTransport):
        async def exchange(self, sealed: bytes, deadline_s: float) -> AsyncIterator[bytes]:
            assert canary.encode() not in sealed
            async for message in super().exchange(sealed, deadline_s):
                yield message

    async def run(worker: FakeWorker) -> str:
        engine = engine_for(Loud(worker), worker.maker, max_retries=0)
        cleared = engine.gate.clear(asked(canary), Labels((typed(canary),)), decision(), await engine.nodes())
        try:
            return repr([event async for event in engine.stream(cleared)])
        except HybridError as error:
            return f"{error!r} {error} {error.hint} {error.__cause__!r}"

    for refusals in ([], [ErrorCode.FAULT], [ErrorCode.REJECTED]):
        assert canary not in asyncio.run(run(FakeWorker(Maker(), refusals=list(refusals))))


def test_requests_at_once_share_one_connection_and_do_not_disturb_each_other() -> None:
    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node, Proxy(node.port).serving() as proxy:
            engine = engine_for(GrpcTransport(proxy.address), worker.maker)
            answers = await asyncio.gather(*(events_of(engine) for _ in range(10)))
            assert {text_of(events) for events in answers} == {"".join(ANSWER)}
            assert (len(proxy.tasks), worker.directories, len(set(worker.seen))) == (1, 1, 10)
            await engine.close()

    asyncio.run(run())
