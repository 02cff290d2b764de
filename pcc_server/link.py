"""Length-prefixed frames on the socketpair between gateway and worker. Everything on it is sealed or public.

``u32 length ‖ u8 kind ‖ u32 stream ‖ payload``; length counts what follows it. Stream 0 is the link itself.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from hybrid.wire.constants import MAX_DIRECTORY_BYTES
from hybrid.wire.encoding import Reader, u8, u32, v2, v4
from hybrid.wire.errors import ErrorCode, Malformed

MAX_FRAME_BYTES = MAX_DIRECTORY_BYTES + 65_536  # a publication is the largest thing that crosses
WINDOW_BYTES = 256 * 1024  # sealed bytes of one stream that may wait in the gateway (node design 3.6)
ACK_BYTES = WINDOW_BYTES // 4  # the gateway tells of so many at a time
READER_PATIENCE_S = 30.0  # a reader that takes nothing for so long has gone to sleep
LINK_STREAM = 0
_HEAD = struct.Struct(">IBI")
_AFTER_LENGTH = _HEAD.size - 4


class Kind(IntEnum):
    """What a frame is. The first three come from the gateway."""

    OPEN = 1  # an OpenStream record
    CANCEL = 2  # the client is gone
    ACK = 3  # u32: so many more bytes of the stream were taken out of the buffer
    HEAD = 4
    FRAMES = 5  # whole 512-byte reply frames
    FINAL = 6
    END = 7  # the stream is over, status OK
    REFUSE = 8  # the stream is over: u8 code, u32 retry_ms
    PUBLISH = 9  # stream 0: a Publication record
    BEAT = 10  # stream 0: the worker's I/O thread is alive
    CALL = 11  # from the gateway: u8 operation, then what it needs; answered by RESULT or REFUSE under its number
    RESULT = 12
    CHECKPOINT = 13  # stream 0, from the gateway: the log's newest signed checkpoint
    TALLY = 14  # stream 0: what the worker counted, as ``tally`` encodes it


class Operation(IntEnum):
    """What a CALL asks of the worker."""

    ATTEST = 1  # nonces, 32 bytes each; answered with an AttestReply
    ROTATE = 2  # answered when the new keys are published
    REVOKE = 3  # a key's 16 bytes; the same


_KINDS = {int(kind): kind for kind in Kind}
CODE_NUMBERS = {code: number for number, code in enumerate(ErrorCode, start=1)}
_CODES = {number: code for code, number in CODE_NUMBERS.items()}


class Frame(NamedTuple):
    """One frame of the link."""

    kind: Kind
    stream: int
    payload: bytes


class OpenStream(NamedTuple):
    """A request on its way to the worker. left_ms: of the caller's time, when the gateway let it in.

    position: of this node among the candidates.  tenant: whose it is, a small number for each access key; 0: anybody.
    """

    left_ms: int
    position: int
    header: bytes
    body: bytes
    key_package: bytes
    tenant: int = 0

    def encode(self) -> bytes:
        """Encode for an OPEN frame."""
        numbers = u32(self.left_ms) + u8(self.position) + u32(self.tenant)
        return b"".join((numbers, v2(self.header), v2(self.key_package), v4(self.body)))

    @classmethod
    def decode(cls, data: bytes) -> "OpenStream":
        """Decode the payload of an OPEN frame. Raises Malformed."""
        reader = Reader(data)
        left_ms, position, tenant = reader.u32(), reader.u8(), reader.u32()
        header, key_package, body = reader.v2(), reader.v2(), reader.v4(MAX_FRAME_BYTES)
        reader.end()
        return cls(left_ms, position, header, body, key_package, tenant)


def encode_refusal(code: ErrorCode, retry_ms: int) -> bytes:
    """Encode the payload of a REFUSE frame."""
    return u8(CODE_NUMBERS[code]) + u32(retry_ms)


def decode_refusal(data: bytes) -> tuple[ErrorCode, int]:
    """Decode the payload of a REFUSE frame. Raises Malformed."""
    reader = Reader(data)
    number, retry_ms = reader.u8(), reader.u32()
    reader.end()
    if number not in _CODES:
        raise Malformed("an unknown refusal code")
    return _CODES[number], retry_ms


class Link(asyncio.Protocol):
    """One end of the link. What one turn of the event loop sends leaves in one write.

    on_frame: called for every frame.  on_end: called once, when the other end is gone or breaks the format.
    """

    def __init__(self, on_frame: Callable[[Frame], None], on_end: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._rest = b""
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, fd: int, on_frame: Callable[[Frame], None], on_end: Callable[[], None]) -> "Link":
        """Take over an inherited end of a socketpair."""
        end = socket.socket(fileno=fd)
        end.setblocking(False)  # noqa: FBT003 - the signature of the standard library
        _, link = await asyncio.get_running_loop().create_connection(lambda: cls(on_frame, on_end), sock=end)
        return link

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        """Queue one frame. After the end of the link it goes nowhere."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(_HEAD.pack(len(payload) + _AFTER_LENGTH, kind, stream))
        self._out.append(payload)

    def close(self) -> None:
        """Send what is queued and close this end."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def flush(self) -> None:
        """Hand what is queued to the socket now."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells the type checker what a stream socket gives
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand out every whole frame (asyncio.Protocol)."""
        whole = self._rest + data if self._rest else data
        try:
            self._rest = whole[self._hand_out(whole) :]
        except Malformed:
            self.close()

    def _hand_out(self, data: bytes) -> int:
        """Return how many bytes were whole frames. Raises Malformed."""
        at, size = 0, len(data)
        while size - at >= _HEAD.size:
            length, kind, stream = _HEAD.unpack_from(data, at)
            if not _AFTER_LENGTH <= length <= MAX_FRAME_BYTES or kind not in _KINDS:
                raise Malformed("the link broke its format")
            end = at + 4 + length
            if end > size:
                break
            self._on_frame(Frame(_KINDS[kind], stream, data[at + _HEAD.size : end]))
            at = end
        return at

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the owner (asyncio.Protocol)."""
        self._on_end()
