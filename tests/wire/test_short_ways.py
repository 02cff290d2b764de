"""What is encoded by hand, because every token passes through it: the same bytes and values as protobuf's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.wire.codec import decode_chunk, decode_invoke_reply, encode_chunk, encode_invoke_reply, split_frames
from hybrid.wire.constants import FRAME_BYTES, FRAMES_PER_MESSAGE
from hybrid.wire.errors import DecryptionError, Malformed, NonCanonical, ReplyOrder
from hybrid.wire.types import Chunk
from hybrid.wire.v1 import pcc_pb2
from tests.wire.test_reply import reply_sealer, seal

WORDS = st.one_of(st.text(max_size=140), st.sampled_from(["", "é" * 63, "é" * 64, "x" * 127, "x" * 128, "\0"]))
COUNTS = st.one_of(st.integers(0, 200), st.sampled_from([127, 128, 2**32 - 1]))
PROGRESS = st.one_of(st.none(), st.tuples(st.integers(0, 9), st.integers(9, 300)))


@settings(deadline=None)
@given(WORDS, COUNTS, PROGRESS)
def test_a_chunk_is_the_message_protobuf_makes_of_it(text: str, tokens: int, progress: tuple[int, int] | None) -> None:
    done, total = progress or (0, 0)
    message = pcc_pb2.Chunk(text=text, tokens=tokens, progress_done=done, progress_total=total)
    data = message.SerializeToString(deterministic=True)
    chunk = Chunk(text=text, tokens=tokens, progress=progress)
    assert encode_chunk(chunk) == data
    assert decode_chunk(data) == chunk


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=140), st.binary(max_size=6).map(lambda tail: b"\x0a\x02ab" + tail)))
def test_any_other_bytes_are_judged_as_protobuf_judges_them(data: bytes) -> None:
    try:
        message = pcc_pb2.Chunk.FromString(data)
        message.DiscardUnknownFields()
        canonical = message.SerializeToString(deterministic=True) == data
    except Exception:  # noqa: BLE001 - protobuf's own class differs between its implementations
        canonical = False
    if canonical and message.progress_done <= message.progress_total:
        assert decode_chunk(data).text == message.text
    else:
        with pytest.raises(Malformed):
            decode_chunk(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x01\xff\x10\x01",  # no UTF-8
        b"\x0a\x03\xed\xa0\x80\x10\x01",  # a surrogate
        b"\x0a\x01a\x10\x00",  # a default that is spelled out
        b"\x0a\x01a\x10\x81\x00",  # a number longer than it needs
        b"\x0a\x00\x10\x01",  # an empty text that is spelled out
        b"\x10\x01\x0a\x01a",  # fields in another order
        b"\x0a\x01a\x10\x01\x10\x01",  # twice
    ],
)
def test_other_spellings_of_a_short_chunk_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_chunk(data)


def test_text_that_is_no_unicode_is_not_encoded() -> None:
    with pytest.raises(Malformed):
        encode_chunk(Chunk(text="\ud800", tokens=1))


@pytest.mark.parametrize("count", range(FRAMES_PER_MESSAGE + 1))
def test_frames_alone_are_the_message_protobuf_makes_of_them(count: int) -> None:
    frames = bytes(range(256)) * 2 * count
    data = pcc_pb2.InvokeReply(frames=frames).SerializeToString(deterministic=True)
    assert encode_invoke_reply(frames=frames) == data
    assert decode_invoke_reply(data).frames == frames
    assert split_frames(frames) == ([frames] if frames else [])


def test_a_length_of_frames_that_is_longer_than_it_needs_is_refused() -> None:
    assert decode_invoke_reply(b"\x12\x80\x04" + bytes(FRAME_BYTES)).frames == bytes(FRAME_BYTES)
    with pytest.raises(NonCanonical):
        decode_invoke_reply(b"\x12\x80\x84\x00" + bytes(FRAME_BYTES))


# --- frames by the run -----------------------------------------------------------------------------------

CHUNKS = [Chunk(text="x" * length, tokens=1) for length in (1, 5, 480, 490, 700, 3, 2000, 0)]


def test_frames_sealed_together_are_those_sealed_one_by_one() -> None:
    sealed, _ = seal()
    one, run = reply_sealer(sealed), reply_sealer(sealed)
    run._frames = type(run._frames)(bytes(32), bytes(12), bytes(32))
    one._frames = type(one._frames)(bytes(32), bytes(12), bytes(32))
    apart = b"".join(one.data(chunk) for chunk in CHUNKS)
    for chunk in CHUNKS:
        run.add(chunk)
    assert run.take() == apart
    assert run.take() == b""
    assert run._frames.transcript.digest() == one._frames.transcript.digest()
    assert run._frames.counter == one._frames.counter == len(apart) // FRAME_BYTES


def test_whatever_comes_next_takes_along_what_waits() -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    node.add(CHUNKS[0])
    node.add(CHUNKS[1])
    assert client.push(node.dummy()) == CHUNKS[:2]


@pytest.mark.parametrize("bad", range(6))
def test_what_came_before_a_bad_frame_is_told_and_nothing_after_it(bad: int) -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    frames = bytearray(b"".join(node.data(Chunk(text=str(number), tokens=1)) for number in range(6)))
    frames[bad * FRAME_BYTES + 7] ^= 1
    events, failure = client.open(bytes(frames))
    assert [event.text for event in events if isinstance(event, Chunk)] == [str(number) for number in range(bad)]
    assert isinstance(failure, DecryptionError)
    with pytest.raises(ReplyOrder):
        client.push(node.dummy())
