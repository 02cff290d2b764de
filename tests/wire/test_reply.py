"""Both ends of a reply: who can read and make it, and that every change of its frames is found (SPEC 8, 9)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.wire.constants import FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_REPLY_FRAMES, RECEIPT_FRAMES
from hybrid.wire.encoding import digest, u8, u32
from hybrid.wire.envelope import ReplyOpener, ReplySealer
from hybrid.wire.errors import (
    DecryptionError,
    Misuse,
    Oversized,
    ReceiptMismatch,
    ReplyFull,
    ReplyOrder,
    SealedCode,
    TruncatedStream,
    WireError,
)
from hybrid.wire.frames import FrameSealer, FrameType, pack
from hybrid.wire.receipt import Receipt, ReceiptFacts, SealedError
from hybrid.wire.types import Chunk, FinishReason
from tests.wire.support import (
    FACTS,
    MANIFEST,
    MODEL,
    USAGE,
    Written,
    cut,
    read,
    reply_sealer,
    seal,
    worker,
    write,
)


def _begun(count: int = 1) -> tuple[ReplyOpener, Written]:
    """Seal, let the first worker answer in 20 frames, and start the client on its head."""
    sealed, client = seal(count)
    written = write(sealed)
    client.start(written.head)
    return client, written


def test_a_whole_reply_reads_as_it_was_written() -> None:
    client, written = _begun()
    assert len(written.frames) == 20
    assert client.push(b"".join(written.data)) == [
        *(Chunk(text=f"word {number} ", tokens=1) for number in range(11)),
        USAGE,
    ]
    assert client.push(b"".join(written.receipt)) == []
    receipt = client.finish(written.final)
    client.close()
    assert (receipt.model_id, receipt.tokens_out, receipt.finish) == (MODEL, 20, FinishReason.STOP)
    assert receipt.minute % 60 == 0


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_any_candidate_may_answer_and_is_named(index: int) -> None:
    sealed, client = seal(4)
    written = write(sealed, index)
    assert read(client, written).node_id == worker(index).identity.public.node_id


def _again(client: ReplyOpener) -> ReplyOpener:
    """Return a second opener of the same request, as only a test may have it."""
    return ReplyOpener(client._secrets, client._expected, q=client._q, model_id=client._model_id)


@pytest.mark.parametrize("real", [0, 1, 2])
def test_a_reply_opens_under_its_own_index_alone(real: int) -> None:
    sealed, client = seal(3)
    head = write(sealed, real).head
    for claimed in range(3):
        if claimed == real:
            assert _again(client).start(head) == real  # positive control
        else:
            with pytest.raises(DecryptionError):
                _again(client).start(bytes((claimed,)) + head[1:])


def test_a_candidate_that_opened_the_request_cannot_forge_anothers_reply() -> None:
    sealed, client = seal(3)
    own_secret, other_secret = client._secrets[1], client._secrets[0]
    for secret, accepted in ((own_secret, False), (other_secret, True)):
        forged = ReplySealer(secret, bytes(32), q=sealed.q, index=0, ref=worker(0).candidate.ref)
        if accepted:
            assert _again(client).start(forged.head) == 0  # positive control: R_0 is what counts
        else:
            with pytest.raises(DecryptionError):
                _again(client).start(forged.head)


def test_the_reply_to_another_request_is_refused() -> None:
    other, _ = seal()
    _, client = seal()
    with pytest.raises(DecryptionError):
        client.start(write(other).head)


@pytest.mark.parametrize("at", range(65))
def test_any_flipped_byte_of_the_head_is_refused(at: int) -> None:
    sealed, client = seal(3)
    head = bytearray(write(sealed).head)
    head[at] ^= 0x01
    with pytest.raises(DecryptionError):
        client.start(bytes(head))


@pytest.mark.parametrize("length", [0, 64, 66])
def test_a_head_of_another_length_is_refused(length: int) -> None:
    sealed, client = seal()
    with pytest.raises(DecryptionError):
        client.start((write(sealed).head + b"\0")[:length])


def test_a_second_head_is_refused() -> None:
    client, written = _begun()
    with pytest.raises(ReplyOrder):
        client.start(written.head)


@pytest.mark.parametrize("kept", range(21))
def test_a_reply_cut_after_any_frame_is_truncated(kept: int) -> None:
    client, written = _begun()
    for frame in written.frames[:kept]:
        client.push(frame)
    with pytest.raises(TruncatedStream):
        client.close()


def test_a_reply_without_even_a_head_is_truncated() -> None:
    _, client = seal()
    with pytest.raises(TruncatedStream):
        client.close()


@pytest.mark.parametrize("kept", range(20))
def test_the_final_frame_does_not_fit_after_fewer_frames(kept: int) -> None:
    client, written = _begun()
    for frame in written.frames[:kept]:
        client.push(frame)
    with pytest.raises(DecryptionError):
        client.finish(written.final)


@pytest.mark.parametrize("dropped", range(19))
def test_a_dropped_frame_is_found(dropped: int) -> None:
    client, written = _begun()
    frames = written.frames
    del frames[dropped]
    with pytest.raises(DecryptionError):
        client.push(b"".join(frames))


@pytest.mark.parametrize("repeated", range(20))
def test_a_repeated_frame_is_found(repeated: int) -> None:
    client, written = _begun()
    frames = written.frames
    frames.insert(repeated, frames[repeated])
    with pytest.raises(DecryptionError):
        client.push(b"".join(frames))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(20)))
def test_any_other_order_of_frames_is_found(order: list[int]) -> None:
    client, written = _begun()
    frames = b"".join(written.frames[number] for number in order)
    if order == list(range(20)):
        client.push(frames)
    else:
        with pytest.raises(DecryptionError):
            client.push(frames)


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1, FRAME_BYTES + 1])
def test_frames_of_another_size_are_refused(length: int) -> None:
    client, written = _begun()
    with pytest.raises(DecryptionError):
        client.push((written.frames[0] + b"\0")[:length])


def test_a_frame_with_any_byte_flipped_is_refused() -> None:
    sealed, client = seal()
    written = write(sealed)
    for at in range(FRAME_BYTES):
        frame = bytearray(written.frames[0])
        frame[at] ^= 0x80
        victim = _again(client)
        victim.start(written.head)
        with pytest.raises(DecryptionError):
            victim.push(bytes(frame))


def test_a_frame_of_another_nodes_reply_to_the_same_request_is_refused() -> None:
    sealed, client = seal(2)
    first, second = write(sealed, 0), write(sealed, 1)
    client.start(first.head)
    with pytest.raises(DecryptionError):
        client.push(second.frames[0])


def test_after_a_failure_the_good_frame_does_not_open_either() -> None:
    client, written = _begun()
    with pytest.raises(DecryptionError):
        client.push(written.frames[1])
    with pytest.raises(ReplyOrder):
        client.push(written.frames[0])
    with pytest.raises(TruncatedStream):
        client.close()


def test_data_after_the_final_frame_is_refused() -> None:
    sealed, client = seal()
    written = write(sealed)
    read(client, written)
    with pytest.raises(ReplyOrder):
        client.push(written.frames[0])
    with pytest.raises(ReplyOrder):
        client.finish(written.final)


def test_the_final_frame_does_not_open_among_the_others_nor_another_as_the_final_one() -> None:
    client, written = _begun()
    client.push(b"".join(written.frames))
    with pytest.raises(DecryptionError):
        client.push(written.final)
    client, written = _begun()
    client.push(b"".join(written.frames[:-1]))
    with pytest.raises(DecryptionError):
        client.finish(written.frames[-1])


def test_frames_before_the_head_are_refused() -> None:
    sealed, client = seal()
    with pytest.raises(ReplyOrder):
        client.push(write(sealed).frames[0])


def test_a_long_message_takes_several_frames_and_comes_back_whole() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    chunk = Chunk(text="é" * 30_000, tokens=1)
    frames = cut(node.data(chunk))
    assert len(frames) == 122
    assert [event for frame in frames for event in client.push(frame)] == [chunk]


def test_a_message_beyond_64_kib_is_not_sealed() -> None:
    node = reply_sealer(seal()[0])
    with pytest.raises(Oversized):
        node.data(Chunk(text="x" * MAX_MESSAGE_BYTES, tokens=1))


def test_a_message_beyond_64_kib_is_not_reassembled() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    endless = [node._frames._cipher.seal(pack(FrameType.DATA | 0x80, bytes(493))) for _ in range(134)]
    with pytest.raises(Oversized):
        client.push(b"".join(endless))


def test_a_sealed_error_ends_the_reply_with_a_receipt() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    error = SealedError(code=SealedCode.CONTEXT_LENGTH, first=2048, second=3000)
    assert client.push(node.error(error)) == [error]
    frames, final = node.finish(ReceiptFacts(model_id=MODEL, manifest=MANIFEST, status=1), worker(0).identity)
    client.push(frames)
    receipt = client.finish(final)
    assert (receipt.status, receipt.tokens_out, receipt.finish) == (1, 0, None)


def test_a_reply_sealer_holds_to_the_order_of_messages() -> None:
    node = reply_sealer(seal()[0])
    node.error(SealedError(code=SealedCode.OVERLOADED))
    with pytest.raises(Misuse):
        node.data(Chunk(text="late"))
    with pytest.raises(Misuse):
        node.finish(FACTS, worker(0).identity)
    node.finish(replace(FACTS, status=1), worker(0).identity)
    with pytest.raises(Misuse):
        node.finish(replace(FACTS, status=1), worker(0).identity)


def test_a_receipt_takes_eight_frames_whatever_the_models_name() -> None:
    for length in (1, 128):
        node = reply_sealer(seal()[0])
        frames, _ = node.finish(ReceiptFacts(model_id="m" * length, manifest=MANIFEST), worker(0).identity)
        assert len(frames) == RECEIPT_FRAMES * FRAME_BYTES


def test_a_full_reply_keeps_room_for_its_end() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    node._frames._cipher.counter = client._frames._cipher.counter = MAX_REPLY_FRAMES - 65  # type: ignore[union-attr]
    client.push(node.data(Chunk(text="last")))
    with pytest.raises(ReplyFull):
        node.data(Chunk(text="one too many"))
    client.push(node.usage(USAGE))
    frames, final = node.finish(FACTS, worker(0).identity)
    client.push(frames)
    client.finish(final)


def test_no_frame_opens_beyond_the_last_that_a_reply_may_have() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    node._frames._cipher.counter = client._frames._cipher.counter = MAX_REPLY_FRAMES - 1  # type: ignore[union-attr]
    with pytest.raises(ReplyOrder):
        client.push(node._frames._cipher.seal(pack(FrameType.DATA, b"")))


def _lying(changes: dict[str, object], signer: int = 0) -> str:
    """Read a reply whose node signs a receipt with these changes; returns the check that fails, if any."""
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    client.push(node.data(Chunk(text="Yes.", tokens=1)) + node.usage(USAGE))
    receipt: Receipt = replace(node._receipt(FACTS, 2_199.0), **changes)  # type: ignore[arg-type]
    signed = receipt.signed(worker(signer).identity)
    frames: FrameSealer = node._frames
    client.push(frames.seal(FrameType.RECEIPT, signed, keep_back=1))
    try:
        client.finish(_final(frames, signed, receipt.status))
    except ReceiptMismatch as mismatch:
        return mismatch.check
    return ""


def _final(frames: FrameSealer, receipt: bytes, status: int) -> bytes:
    return frames.final(u8(status) + u32(frames.counter) + digest("receipt", receipt))


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("", {}),
        ("receipt.request", {"request": bytes(32)}),
        ("receipt.request", {"index": 1}),
        ("receipt.request", {"node_id": bytes(32)}),
        ("receipt.request", {"ek_id": bytes(16)}),
        ("receipt.request", {"bundle_id": bytes(32)}),
        ("receipt.request", {"resp_salt": bytes(32)}),
        ("receipt.transcript", {"transcript": bytes(32)}),
        ("receipt.transcript", {"frames": 3}),
        ("receipt.final", {"status": 1}),
        ("receipt.model", {"model_id": "other"}),
        ("receipt.model", {"manifest": bytes(32)}),
        ("receipt.usage", {"tokens_in": 0}),
        ("receipt.usage", {"tokens_cached": 0}),
        ("receipt.usage", {"tokens_out": 0}),
        ("receipt.usage", {"finish": FinishReason.LENGTH}),
        ("receipt.usage", {"params_digest": bytes(32)}),
        ("", {"minute": 60}),
    ],
)
def test_a_receipt_that_says_something_else_fails_its_named_check(check: str, changes: dict[str, object]) -> None:
    assert _lying(changes) == check


def test_a_receipt_signed_by_another_worker_fails() -> None:
    assert _lying({}, signer=1) == "receipt.signature"


def test_every_flipped_byte_of_a_stored_receipt_fails() -> None:
    sealed, client = seal()
    receipt = read(client, write(sealed))
    stored, identity = receipt.encode(), worker(0).identity.public
    Receipt.decode(stored).verify(identity)  # positive control
    for at in [*range(len(stored) - 3373), *range(len(stored) - 3373, len(stored), 97)]:
        changed = stored[:at] + bytes((stored[at] ^ 0x01,)) + stored[at + 1 :]
        with pytest.raises(WireError):
            Receipt.decode(changed).verify(identity)
