"""A node on loopback made of grpc.aio and the real wire, by script; and a proxy that watches or changes its bytes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from hybrid.wire.codec import split_parts
from hybrid.wire.errors import ErrorCode
from tests.trust.maker import FakeWorker

STATUS = {
    ErrorCode.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.REJECTED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.STALE_KEY: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.REPLAY: grpc.StatusCode.ALREADY_EXISTS,
    ErrorCode.BUSY: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.FAULT: grpc.StatusCode.INTERNAL,
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA_FRAME = 0


@dataclass
class GrpcNode:
    """Serves one worker. status: what every call ends with after its messages, OK unless set."""

    worker: FakeWorker
    status: grpc.StatusCode | None = None
    hang_after: int | None = None
    credentials: Any = None
    port: int = 0
    running: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def get(self, _: bytes, context: Any) -> AsyncIterator[bytes]:
        for part in split_parts(self.worker.directory()):
            yield part

    async def invoke(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        (data,) = [request async for request in requests]
        self.running += 1
        try:
            async for message in self._messages(data, context):
                yield message
        finally:
            self.running -= 1
            self.released.set()

    async def _messages(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        answer = self.worker.answer(data)
        if isinstance(answer, ErrorCode):
            trailing = (("retry-after-ms", "20"),) if answer in (ErrorCode.BUSY, ErrorCode.LIMIT) else ()
            await context.abort(STATUS[answer], answer.value, trailing)
            return
        for number, message in enumerate(answer):
            if number == self.hang_after:
                await asyncio.sleep(3600)
            yield message
        if self.status is not None:
            await context.abort(self.status, "whatever a proxy may write here")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["GrpcNode", None]:
        server = grpc.aio.server()
        handlers = {
            "Directory": {"Get": grpc.unary_stream_rpc_method_handler(self.get)},
            "Inference": {"Invoke": grpc.stream_stream_rpc_method_handler(self.invoke)},
        }
        for service, methods in handlers.items():
            name = f"hybrid.wire.v1.{service}"
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        if self.credentials is None:
            self.port = server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = server.add_secure_port("127.0.0.1:0", self.credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)


@dataclass
class Proxy:
    """Carries bytes between a client and a node; keeps what the client sent, may change what the node answers."""

    upstream: int
    change: Callable[[int, bytes], bytes] = lambda _, data: data
    sent: bytearray = field(default_factory=bytearray)
    received: int = 0
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["Proxy", None]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            await asyncio.gather(self._up(reader, up_writer), self._down(up_reader, writer))
        except asyncio.CancelledError:
            pass  # the end of the test: streams' own callback would report it as an error
        finally:
            for end in (up_writer, writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.sent += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                changed = self.change(self.received, data)
                self.received += len(data)
                writer.write(changed)
                await writer.drain()
        writer.close()

    def request_bytes(self) -> int:
        """Bytes of gRPC messages the client sent, without their five-byte prefixes (RFC 9113, section 4.1)."""
        data, total = bytes(self.sent).removeprefix(PREFACE), 0
        while len(data) >= 9:
            length = int.from_bytes(data[:3], "big")
            total += length if data[3] == DATA_FRAME else 0
            data = data[9 + length :]
        return total - 5 * self.messages

    messages: int = 0
    tasks: list[Any] = field(default_factory=list)
