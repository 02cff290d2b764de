"""One exchange without a network: what a genuine reply yields, and what every damaged one raises."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybrid.errors import (
    AttestationError,
    ConfigurationError,
    ContextOverflowError,
    HybridError,
    IntegrityError,
    ProtocolError,
    RefusalError,
    RemoteError,
)
from hybrid.exchange import Answering, Exchange, Item, Timeout
from hybrid.gate import Cleared, Gate
from hybrid.remote_errors import BROKEN, REFUSALS, SEALED, broken, refused, sealed
from hybrid.routing.labels import Labels, typed
from hybrid.trust.verify import VerifiedNode
from hybrid.wire.codec import decode_invoke_reply, encode_invoke_reply
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.errors import ErrorCode, ReceiptMismatch, SealedCode, WireError
from hybrid.wire.keys import IdentityKey
from hybrid.wire.receipt import Receipt, ReceiptFacts, SealedError, UsageReport
from hybrid.wire.types import Chunk
from hybrid.wire.v1 import pcc_pb2
from tests.trust.maker import ANSWER, NOW, USAGE, FakeWorker, Maker, asked, decision, failing, good

PROMPT = "What is the capital of France?"
MAKER = Maker()
NODES = MAKER.verified().nodes
DAMAGE = (IntegrityError, ProtocolError)


def clear(nodes: tuple[VerifiedNode, ...] = NODES) -> Cleared:
    return Gate().clear(asked(PROMPT), Labels((typed(PROMPT),)), decision(), nodes)


def exchanged(change: Callable[[list[bytes]], list[bytes]] = list, reply: Any = good) -> tuple[list[Item], Receipt]:
    """Seal, let the real node's half answer, change its messages, read them."""
    exchange = Exchange(now=lambda: NOW)
    worker = FakeWorker(MAKER, reply=reply, tamper=change)
    answer = worker.answer(exchange.start(clear(), deadline_ms=60_000))
    assert isinstance(answer, list)
    items = [item for message in answer for item in exchange.push(message)]
    return items, exchange.finish()


def text_of(items: list[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, Chunk))


def test_a_genuine_reply_yields_who_answers_the_text_the_counts_and_a_receipt() -> None:
    items, receipt = exchanged()
    assert isinstance(items[0], Answering)
    assert items[0].node is NODES[0]
    assert text_of(items) == "".join(ANSWER)
    assert isinstance(items[-1], UsageReport)
    assert receipt.tokens_out == 3


def test_the_node_opens_exactly_what_was_asked() -> None:
    exchange = Exchange(now=lambda: NOW)
    worker = FakeWorker(MAKER)
    worker.answer(exchange.start(clear(), deadline_ms=60_000))
    assert worker.opened == [asked(PROMPT)]
    assert PROMPT.encode() not in worker.seen[0]


def test_the_same_request_is_never_sealed_to_the_same_bytes() -> None:
    first, second = (Exchange(now=lambda: NOW).start(clear(), deadline_ms=60_000) for _ in range(2))
    assert first != second
    assert len(first) == len(second)


def rebuilt(message: bytes, part: str, data: bytes) -> bytes:
    reply = decode_invoke_reply(message)
    parts = {"head": reply.head, "frames": reply.frames, "final": reply.final, part: data}
    return encode_invoke_reply(**parts)


def flips() -> Iterator[tuple[str, int, int, int]]:
    """Name places: every byte of the head, and of each frame of a kind a spread that hits all its parts."""
    yield from (("head", 0, at, 1 << at % 8) for at in range(65))
    for message in range(1, 5):  # three data frames and the usage frame
        yield from (("frames", message, at, 1 << at % 8) for at in range(0, FRAME_BYTES, 17))
    yield from (("frames", 5, at, 1 << at % 8) for at in range(0, 8 * FRAME_BYTES, 97))  # the receipt's eight
    yield from (("final", 5, at, 1 << at % 8) for at in range(0, FRAME_BYTES, 17))


@pytest.mark.parametrize("part", ["head", "frames", "final"])
def test_no_flipped_bit_of_a_reply_goes_unnoticed(part: str) -> None:
    tried = 0
    for kind, message, at, bit in flips():
        if kind != part:
            continue

        def flip(
            messages: list[bytes], kind: str = kind, number: int = message, at: int = at, bit: int = bit
        ) -> list[bytes]:
            data = bytearray(getattr(decode_invoke_reply(messages[number]), kind))
            data[at] ^= bit
            return [*messages[:number], rebuilt(messages[number], kind, bytes(data)), *messages[number + 1 :]]

        with pytest.raises(IntegrityError):
            exchanged(flip)
        tried += 1
    assert tried >= 30


def test_no_flipped_bit_of_the_outer_messages_goes_unnoticed() -> None:
    places = random.Random(7)  # noqa: S311 - a test repeats itself
    for _ in range(150):
        number, bit = places.randrange(6), 1 << places.randrange(8)

        def flip(messages: list[bytes], number: int = number, bit: int = bit) -> list[bytes]:
            data = bytearray(messages[number])
            data[places.randrange(len(data))] ^= bit
            return [*messages[:number], bytes(data), *messages[number + 1 :]]

        with pytest.raises(DAMAGE):
            exchanged(flip)


@pytest.mark.parametrize("keep", range(6))
def test_a_reply_cut_after_any_message_is_never_taken_for_complete(keep: int) -> None:
    with pytest.raises(IntegrityError, match="cut off"):
        exchanged(lambda messages: messages[:keep])


@pytest.mark.parametrize("size", [1, 511, 513, 1000])
def test_a_frame_of_another_size_is_found(size: int) -> None:
    def odd(messages: list[bytes]) -> list[bytes]:
        frame = decode_invoke_reply(messages[1]).frames
        return [messages[0], encode_invoke_reply(frames=(frame * 2)[:size]), *messages[2:]]

    with pytest.raises(IntegrityError):
        exchanged(odd)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [m[0], *m[2:]],
        lambda m: [m[0], m[1], m[1], *m[2:]],
        lambda m: [m[0], m[2], m[1], *m[3:]],
        lambda m: [*m[:4], m[5]],
        lambda m: [*m[:5], rebuilt(m[5], "frames", decode_invoke_reply(m[5]).frames[FRAME_BYTES:])],
        lambda m: [*m[:5], rebuilt(m[5], "frames", b"")],
        lambda m: [*m[:1], rebuilt(m[1], "final", decode_invoke_reply(m[5]).final), *m[2:]],
    ],
    ids=["dropped", "doubled", "swapped", "usage dropped", "receipt shortened", "no receipt", "final too early"],
)
def test_frames_dropped_doubled_or_moved_are_found(change: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(DAMAGE):
        exchanged(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[1:],
        lambda m: [m[0], m[0], *m[1:]],
        lambda m: [*m, m[0]],
        lambda m: [*m, m[1]],
        lambda m: [*m, m[5]],
        lambda m: [*m, b""],
        lambda m: [m[0], b"", *m[1:]],
        lambda m: [*m[:3], b"\xff\xff", *m[3:]],
    ],
    ids=[
        "no head", "second head", "head after final", "data after final", "second final", "empty after final", "empty",
        "not a message",
    ],
)  # fmt: skip
def test_messages_out_of_place_are_a_protocol_error(change: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(ProtocolError):
        exchanged(change)


def test_after_an_outer_message_that_does_not_decode_nothing_more_is_opened() -> None:
    exchange = Exchange(now=lambda: NOW)
    answer = FakeWorker(MAKER).answer(exchange.start(clear(), deadline_ms=60_000))
    assert isinstance(answer, list)
    list(exchange.push(answer[0]))
    for broken_message in (b"\xff", b""):
        with pytest.raises(ProtocolError):
            list(exchange.push(broken_message))
    for message in answer[1:]:
        with pytest.raises(ProtocolError):
            list(exchange.push(message))
    with pytest.raises(IntegrityError, match="cut off"):
        exchange.finish()


def test_a_reply_with_anything_after_its_end_is_no_longer_complete() -> None:
    exchange = Exchange(now=lambda: NOW)
    answer = FakeWorker(MAKER).answer(exchange.start(clear(), deadline_ms=60_000))
    assert isinstance(answer, list)
    for message in answer:
        list(exchange.push(message))
    assert exchange.complete
    with pytest.raises(ProtocolError):
        list(exchange.push(answer[1]))
    assert not exchange.complete
    with pytest.raises(IntegrityError):
        exchange.finish()


def test_more_than_sixteen_frames_in_one_message_are_refused() -> None:
    def together(messages: list[bytes], copies: int) -> list[bytes]:
        frames = b"".join(decode_invoke_reply(message).frames for message in messages[1:])
        joined = pcc_pb2.InvokeReply(frames=frames + bytes(copies * FRAME_BYTES)).SerializeToString()
        return [messages[0], joined]

    with pytest.raises(ProtocolError, match="larger"):
        exchanged(lambda m: together(m, 17 - 12))
    with pytest.raises(IntegrityError):  # sixteen are allowed, and then judged one by one
        exchanged(lambda m: together(m, 16 - 12))


@pytest.mark.parametrize("check", ["receipt.model", "receipt.usage", "receipt.signature"])
def test_the_error_names_the_check_of_the_receipt_that_failed(check: str) -> None:
    def lying(sealer: ReplySealer, _: object, worker: FakeWorker) -> list[bytes]:
        manifest = bytes(32) if check == "receipt.model" else NODES[0].manifest
        usage = None if check == "receipt.usage" else USAGE
        identity = IdentityKey.generate() if check == "receipt.signature" else worker.maker.identity
        frames = sealer.usage(USAGE)
        facts = ReceiptFacts(model_id="fake", manifest=manifest, usage=usage, finish=usage.finish if usage else None)
        receipt, final = sealer.finish(facts, identity, now=lambda: NOW)
        return [encode_invoke_reply(head=sealer.head, frames=frames), encode_invoke_reply(frames=receipt, final=final)]

    with pytest.raises(IntegrityError, match=check):
        exchanged(reply=lying)


def test_the_reply_to_another_request_is_refused() -> None:
    other = FakeWorker(MAKER).answer(Exchange(now=lambda: NOW).start(clear(), deadline_ms=60_000))
    assert isinstance(other, list)
    with pytest.raises(IntegrityError):
        exchanged(lambda _: other)


def test_a_receipt_signed_by_another_identity_is_refused() -> None:
    def foreign(sealer, request, worker):  # noqa: ANN001, ANN202 - the shape of Reply
        return good(sealer, request, FakeWorker(Maker(signer=MAKER.signer, identity=IdentityKey.generate())))

    with pytest.raises(IntegrityError, match="receipt"):
        exchanged(reply=foreign)


def test_text_opened_before_the_damage_is_yielded_first() -> None:
    exchange = Exchange(now=lambda: NOW)
    answer = FakeWorker(MAKER).answer(exchange.start(clear(), deadline_ms=60_000))
    assert isinstance(answer, list)
    list(exchange.push(answer[0]))
    frames = b"".join(decode_invoke_reply(message).frames for message in answer[1:3])
    seen = []
    with pytest.raises(IntegrityError) as caught:  # noqa: PT012 - what came before the error is the point
        for item in exchange.push(encode_invoke_reply(frames=frames + bytes(FRAME_BYTES))):
            seen.append(item)  # noqa: PERF402 - a comprehension would lose them
    assert text_of(seen) == ANSWER[0] + ANSWER[1]
    assert caught.value.left_device == "yes"


def test_sealing_after_the_evidence_has_ended_raises_and_yields_no_bytes() -> None:
    late = NODES[0].valid_until + 1
    with pytest.raises(AttestationError):
        Exchange(now=lambda: late).start(clear(), deadline_ms=60_000)


def test_a_reply_read_before_anything_was_sent_is_our_own_mistake() -> None:
    with pytest.raises(RuntimeError):
        Exchange().finish()


def test_a_sealed_error_comes_with_a_receipt_of_its_own() -> None:
    error = SealedError(code=SealedCode.CONTEXT_LENGTH, first=2048, second=5000)
    items, receipt = exchanged(reply=failing(error))
    assert items[1:] == [error]
    assert receipt.status == 1


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    """Every class of a tree but its root."""
    return {kind, *(leaf for sub in kind.__subclasses__() for leaf in leaves(sub))}


def test_every_error_of_the_wire_floor_has_its_row() -> None:
    assert set(BROKEN) == leaves(WireError) - {WireError}
    for kind in BROKEN:
        error = kind(1, 2) if kind.__name__ == "Oversized" else kind("x")
        assert broken(error, left_device_yes=True).left_device == "yes"
        assert plain(str(broken(error, left_device_yes=True)))
    assert isinstance(broken(ReceiptMismatch("receipt.usage"), left_device_yes=True), IntegrityError)


def plain(words: str) -> bool:
    """Whether an error reads as they all do: one sentence, lower case, no full stop."""
    return bool(words) and words[0].islower() and not words.endswith(".")


def test_every_outer_refusal_has_its_row_and_a_hint() -> None:
    assert set(REFUSALS) == set(ErrorCode)
    for code in ErrorCode:
        error = refused(code, retry_after=1.5)
        assert isinstance(error, RemoteError)
        assert plain(str(error))
        assert plain(error.hint)
        assert error.left_device == "ciphertext"
        assert error.retry_after == 1.5


def test_every_sealed_error_has_its_row_and_has_left_the_device() -> None:
    assert set(SEALED) == set(SealedCode)
    for code in SealedCode:
        error = sealed(SealedError(code=code, first=1, second=2))
        assert isinstance(error, HybridError)
        assert error.left_device == "yes"
        assert plain(str(error))
        assert plain(error.hint)
    overflow = sealed(SealedError(code=SealedCode.CONTEXT_LENGTH, first=2048, second=5000))
    assert isinstance(overflow, ContextOverflowError)
    assert (overflow.limit, overflow.needed) == (2048, 5000)
    assert isinstance(sealed(SealedError(code=SealedCode.REFUSAL)), RefusalError)


@pytest.mark.parametrize(("total", "deadline_ms"), [(1, 15_000), (15, 15_000), (15.1, 30_000), (600, 600_000)])
def test_the_deadline_is_the_smallest_the_protocol_has(total: float, deadline_ms: int) -> None:
    assert Timeout(total=total).deadline_ms == deadline_ms


@pytest.mark.parametrize("change", [{"total": 601}, {"connect": 0}, {"idle": -1}, {"attest": float("nan")}])
def test_a_timeout_no_deadline_can_keep_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Timeout(**change)
