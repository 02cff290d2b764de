"""Frames on the socketpair: whole, in order, bounded, and an end that everybody hears of."""

import asyncio
import os
import socket
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.errors import ErrorCode, Malformed
from pcc_server.errors import Limit, Refusal, Refused
from pcc_server.link import (
    WINDOW_BYTES,
    Frame,
    Kind,
    Link,
    OpenStream,
    decode_refusal,
    encode_refusal,
)
from pcc_server.outlet import Outlet
from pcc_server.streams import Stream


class Ends:
    """Two links on one socketpair, and what the right one heard."""

    def __init__(self) -> None:
        self.heard: list[Frame] = []
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        left, right = socket.socketpair()
        self.left = await Link.connect(left.detach(), lambda _: None, lambda: None)
        self.right = await Link.connect(right.detach(), self._hear, self.ended.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.left.close()
        self.right.close()
        await asyncio.sleep(0)

    def _hear(self, frame: Frame) -> None:
        self.heard.append(frame)
        self._news.set()

    async def hear(self, count: int) -> list[Frame]:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self._news.clear()
                await self._news.wait()
        return self.heard


def test_frames_arrive_whole_and_in_order_whatever_their_size() -> None:
    sizes = [0, 1, 511, 512, 65_536, 1_300_000, 3]

    async def main() -> list[Frame]:
        async with Ends() as ends:
            for number, size in enumerate(sizes):
                ends.left.send(Kind.FRAMES, number, bytes([number]) * size)
            return list(await ends.hear(len(sizes)))

    frames = asyncio.run(main())
    assert frames == [Frame(Kind.FRAMES, n, bytes([n]) * size) for n, size in enumerate(sizes)]


@given(cuts=st.lists(st.integers(1, 40), max_size=60))
def test_frames_cut_at_any_byte_are_put_together(cuts: list[int]) -> None:
    data = b"".join(
        (len(p) + 5).to_bytes(4, "big") + bytes((Kind.FRAMES,)) + n.to_bytes(4, "big") + p
        for n, p in enumerate((b"", b"a" * 7, b"bb" * 200))
    )
    heard: list[Frame] = []

    async def main() -> None:
        link, rest = Link(heard.append, lambda: None), data
        for cut in cuts:
            link.data_received(rest[:cut])
            rest = rest[cut:]
        link.data_received(rest)

    asyncio.run(main())
    assert heard == [Frame(Kind.FRAMES, n, p) for n, p in enumerate((b"", b"a" * 7, b"bb" * 200))]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff" + bytes(5), b"\0\0\0\1" + bytes(5), b"\0\0\0\5\x63" + bytes(4)])
def test_a_broken_format_ends_the_link(data: bytes) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        ended = asyncio.Event()
        await Link.connect(right.detach(), lambda _: None, ended.set)
        with left:
            left.sendall(data)
            async with asyncio.timeout(5):
                await ended.wait()

    asyncio.run(main())


def test_the_end_of_the_other_side_is_told_once_and_sending_is_harmless() -> None:
    async def main() -> None:
        async with Ends() as ends:
            ends.left.close()
            async with asyncio.timeout(5):
                await ends.ended.wait()
            ends.right.send(Kind.END, 1)
            ends.left.send(Kind.END, 1)

    asyncio.run(main())


def test_records_of_the_link_come_back_as_they_went() -> None:
    opening = OpenStream(1234, 2, b"header", os.urandom(70_000), b"package")
    assert OpenStream.decode(opening.encode()) == opening
    for code in ErrorCode:
        assert decode_refusal(encode_refusal(code, 7)) == (code, 7)
    with pytest.raises(Malformed):
        OpenStream.decode(opening.encode() + b"\0")
    with pytest.raises(Malformed):
        decode_refusal(b"\xff\0\0\0\0")


def test_a_writer_waits_when_the_window_is_full_until_something_is_taken() -> None:
    async def main() -> tuple[bool, bool]:
        async with Ends() as ends:
            outlet = Outlet(ends.left, 1)
            outlet.put(Kind.FRAMES, bytes(WINDOW_BYTES))
            waiting = asyncio.create_task(outlet.room())
            await asyncio.sleep(0.01)
            blocked = not waiting.done()
            outlet.acked(FRAME_BYTES)
            await asyncio.wait_for(waiting, 1)
            return blocked, waiting.done()

    assert asyncio.run(main()) == (True, True)


def test_a_reader_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcc_server.outlet.READER_PATIENCE_S", 0.01)

    async def main() -> None:
        async with Ends() as ends:
            outlet = Outlet(ends.left, 1)
            outlet.put(Kind.FRAMES, bytes(WINDOW_BYTES))
            await outlet.room()

    with pytest.raises(Limit):
        asyncio.run(main())


def test_waiting_frames_share_a_message_sixteen_at_most_and_the_final_one_comes_last() -> None:
    from hybrid.wire.codec import decode_invoke_reply

    async def main() -> list[tuple[int, int, int]]:
        stream = Stream(0)
        for kind, size in ((Kind.HEAD, 65), (Kind.FRAMES, 20 * FRAME_BYTES), (Kind.FINAL, FRAME_BYTES), (Kind.END, 0)):
            stream.put(Frame(kind, 1, bytes(size)))
        shapes = []
        while message := await stream.next():
            reply = decode_invoke_reply(message[0])
            shapes.append((len(reply.head), len(reply.frames) // FRAME_BYTES, len(reply.final)))
        return shapes

    assert asyncio.run(main()) == [(65, 16, 0), (0, 4, FRAME_BYTES)]


def test_what_is_buffered_goes_out_before_a_refusal() -> None:
    async def main() -> None:
        stream = Stream(0)
        stream.put(Frame(Kind.FRAMES, 1, bytes(FRAME_BYTES)))
        stream.refuse(Refusal(code=ErrorCode.BUSY))
        stream.put(Frame(Kind.FRAMES, 1, bytes(FRAME_BYTES)))  # too late
        message = await stream.next()
        assert message is not None
        assert message[1] == FRAME_BYTES
        await stream.next()

    with pytest.raises(Refused) as refused:
        asyncio.run(main())
    assert refused.value.code is ErrorCode.BUSY
