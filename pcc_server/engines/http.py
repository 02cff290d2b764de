"""HTTP/1.1 with an engine of others, one request a connection, over sockets that somebody else dialled.

The engine is believed nothing: every length and every wait is bounded, and no text of its errors goes anywhere.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

import h11

from pcc_server.dialled import Dial, DialFailure

from .sse import BadStream, Events

MAX_HEAD_BYTES = 32_768
MAX_JSON_BYTES = 8_388_608
MAX_INFORMATIONAL = 4
READ_BYTES = 65_536
OK = 200
EVENT_STREAM = "text/event-stream"
JSON_TYPE = "application/json"


class EngineFailure(Exception):
    """The engine did not do as asked. status: what it answered with; 0: nothing, or nothing that is HTTP."""

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.status = status


class Unreachable(EngineFailure):
    """Nobody answers where the engine should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds to wait: for a connection, for a whole small reply, for the first event, and between two of them."""

    connect_s: float = 5.0
    reply_s: float = 30.0
    first_s: float = 300.0
    idle_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: a path and a JSON body, or none."""

    path: str
    body: Any = None

    @property
    def method(self) -> str:
        """POST with a body, GET without."""
        return "GET" if self.body is None else "POST"


class Connection:
    """One exchange over one connected socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        sock.setblocking(False)  # noqa: FBT003 - the signature of the standard library

    def close(self) -> None:
        """End it at once: an engine stops generating when its reader is gone."""
        self._sock.close()

    async def connected(self) -> None:
        """Wait until the connection stands or is refused; which of the two, the first byte tells."""
        ready = asyncio.Event()
        self._loop.add_writer(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(self._sock)

    async def send(self, ask: Ask, accept: str) -> None:
        """Send the request. Raises OSError when nobody takes it."""
        body = b"" if ask.body is None else json.dumps(ask.body, separators=(",", ":")).encode()
        headers = [("Host", "localhost"), ("Accept", accept), ("Accept-Encoding", "identity"), ("Connection", "close")]
        if ask.body is not None:
            headers += [("Content-Type", JSON_TYPE), ("Content-Length", str(len(body)))]
        head = self._http.send(h11.Request(method=ask.method, target=ask.path, headers=headers)) or b""
        rest = self._http.send(h11.Data(data=body)) or b""
        self._http.send(h11.EndOfMessage())
        await self._loop.sock_sendall(self._sock, head + rest)

    async def head(self) -> h11.Response:
        """Return the head of the reply. Raises EngineFailure for anything else."""
        for _ in range(MAX_INFORMATIONAL + 1):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                break
        raise EngineFailure

    async def piece(self) -> bytes | None:
        """Return the next piece of the body, None at its end. Raises EngineFailure when it is cut short."""
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise EngineFailure
        return None

    async def _next(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._loop.sock_recv(self._sock, READ_BYTES))
        except (h11.ProtocolError, OSError):
            raise EngineFailure from None
        return event


@contextlib.asynccontextmanager
async def opened(dial: Dial, ask: Ask, accept: str, patience: Patience) -> AsyncIterator[Connection]:
    """Dial and send a request; the connection ends with the block. Raises Unreachable."""
    try:
        async with asyncio.timeout(patience.connect_s):
            connection = Connection(await dial())
    except (DialFailure, TimeoutError):
        raise Unreachable from None
    try:
        await _say(connection, ask, accept, patience)
        yield connection
    finally:
        connection.close()


async def _say(connection: Connection, ask: Ask, accept: str, patience: Patience) -> None:
    try:
        async with asyncio.timeout(patience.connect_s):
            await connection.connected()
        async with asyncio.timeout(patience.reply_s):
            await connection.send(ask, accept)
    except (OSError, TimeoutError):
        raise Unreachable from None


async def fetch(dial: Dial, ask: Ask, patience: Patience) -> tuple[int, Any]:
    """Return status and body of a small reply; None for a body that is no JSON. Raises EngineFailure."""
    async with opened(dial, ask, JSON_TYPE, patience) as connection:
        try:
            async with asyncio.timeout(patience.reply_s):
                response = await connection.head()
                body = await _whole(connection)
        except TimeoutError:
            raise EngineFailure from None
    return response.status_code, read_json(body) if header(response, b"content-type") == JSON_TYPE else None


async def _whole(connection: Connection) -> bytes:
    body = bytearray()
    while (piece := await connection.piece()) is not None:
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise EngineFailure
    return bytes(body)


async def events(dial: Dial, ask: Ask, patience: Patience) -> AsyncIterator[str]:
    """Yield the data of each event of a streamed reply; its end without a last word is the reader's to judge.

    Time counts only while the engine is waited for, and only a whole event ends a wait. Raises EngineFailure for a
    refusal, another content type, silence, and bytes that are no event stream.
    """
    parser, now = Events(), asyncio.get_running_loop().time
    async with opened(dial, ask, EVENT_STREAM, patience) as connection:
        until = now() + patience.first_s
        try:
            async with asyncio.timeout_at(until):
                _check_streams(await connection.head())
            while (piece := await _before(until, connection)) is not None:
                for event in parser.push(piece):
                    yield event
                    until = now() + patience.idle_s
        except (TimeoutError, BadStream):
            raise EngineFailure from None


async def _before(until: float, connection: Connection) -> bytes | None:
    async with asyncio.timeout_at(until):
        return await connection.piece()


def _check_streams(response: h11.Response) -> None:
    if response.status_code != OK:
        raise EngineFailure(response.status_code)
    if header(response, b"content-type") != EVENT_STREAM or header(response, b"content-encoding") not in (
        "",
        "identity",
    ):
        raise EngineFailure


def header(response: h11.Response, name: bytes) -> str:
    """Return a header's value in lower case without its parameters; empty when it is absent."""
    values = [value for key, value in response.headers if key == name]
    return values[0].decode("latin-1").partition(";")[0].strip().lower() if values else ""


def read_json(data: bytes | str) -> Any:
    """Decode what an engine sent. Raises EngineFailure, also for NaN and for numbers and depths without end."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise EngineFailure from None


def _refuse(_: str) -> NoReturn:
    raise ValueError
