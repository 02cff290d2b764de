"""What sealing costs: the real node with its fake engine against the same processes that send the same pieces in clear.

The baseline is a gateway (grpc.aio) and a worker (the same fake engine) on the same kind of link, with the same window
and up to 16 waiting pieces a message. Keys, padding, receipt and admission are missing, so their cost is what shows.
Rows: milliseconds to the first token (p50; ``cost_ms`` is sealed minus plain), frames a second of one stream, and of
16 streams at once, each with the pieces per message that were seen. Clients of both run in this process and count:
sealing, opening and checking the receipt are part of ours. Rounds alternate.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from _rows import row

from hybrid.wire import codec
from hybrid.wire.constants import FRAMES_PER_MESSAGE
from hybrid.wire.directory import Directory
from hybrid.wire.encoding import u32
from hybrid.wire.envelope import Candidate, RequestSealer
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling
from hybrid.wire.v1 import pcc_pb2
from pcc_server.engines.fake import FakeEngine
from pcc_server.link import Frame, Kind, Link
from pcc_server.outlet import Outlet

PLAIN = "/bench.Plain/Generate"
T = TypeVar("T")
TOKENS = 2000
STREAMS = 16


# --- the baseline: gateway and worker in clear -----------------------------------------------------------


async def plain_worker(link_fd: int) -> None:
    """Answer every OPEN with encoded chunks, one FRAMES record each, under the node's own window."""
    engine, outlets, tasks = FakeEngine(), dict[int, Outlet](), set[asyncio.Task[None]]()
    ended = asyncio.Event()

    async def answer(number: int, request: bytes) -> None:
        outlet = outlets[number]
        async for chunk in engine.generate(codec.decode_request(request)):
            if chunk.text or chunk.progress:
                await outlet.room()
                outlet.put(Kind.FRAMES, codec.encode_chunk(chunk))
        outlet.end()

    def heard(frame: Frame) -> None:
        if frame.kind is Kind.OPEN:
            outlets[frame.stream] = Outlet(link, frame.stream)
            tasks.add(asyncio.create_task(answer(frame.stream, frame.payload)))
        elif frame.kind is Kind.ACK:
            outlets[frame.stream].acked(int.from_bytes(frame.payload, "big"))

    link = await Link.connect(link_fd, heard, ended.set)
    await ended.wait()


class Pieces:
    """One reply inside the baseline's gateway."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.ended = False
        self._news = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Take what the worker sent."""
        if frame.kind is Kind.END:
            self.ended = True
        else:
            self.waiting.append(frame.payload)
        self._news.set()

    async def messages(self) -> AsyncIterator[list[bytes]]:
        """Yield what waits, up to 16 pieces at a time."""
        while self.waiting or not self.ended:
            if not self.waiting:
                self._news.clear()
                await self._news.wait()
                continue
            some = self.waiting[:FRAMES_PER_MESSAGE]
            del self.waiting[:FRAMES_PER_MESSAGE]
            yield some


async def plain_gateway(link_fd: int) -> None:
    """Pass requests to the worker and its pieces back, up to 16 in one message."""
    streams: dict[int, Pieces] = {}
    numbers = iter(range(1, 1 << 32))

    async def generate(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        number, pieces = next(numbers), Pieces()
        streams[number] = pieces
        async for request in requests:
            link.send(Kind.OPEN, number, request)
        async for some in pieces.messages():
            await context.write(pcc_pb2.InvokeRequest(key_packages=some).SerializeToString())
            link.send(Kind.ACK, number, u32(sum(map(len, some))))
        del streams[number]

    link = await Link.connect(link_fd, lambda frame: streams[frame.stream].put(frame), lambda: None)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Generate": grpc.stream_stream_rpc_method_handler(generate)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Plain", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"listen": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


# --- the clients -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds to the first token and in all, tokens and messages of one exchange."""

    first_s: float
    all_s: float
    tokens: int
    messages: int


def request(tokens: int) -> GenerateRequest:
    words = "x" * 2000  # a prompt of 2 kB; the fake engine answers with a token per character
    return GenerateRequest(messages=(Message(role=Role.USER, content=words),), sampling=Sampling(max_tokens=tokens))


def timed(exchange: Callable[[], Iterator[list[Chunk]]]) -> Run:
    begun, first, tokens, messages = time.perf_counter(), 0.0, 0, 0
    for chunks in exchange():
        tokens += sum(chunk.tokens for chunk in chunks)
        messages += 1
        first = first or (time.perf_counter() - begun if tokens else 0.0)
    return Run(first, time.perf_counter() - begun, tokens, messages)


class Sealed:
    """Our side: directory once, then seal, stream, open, check the receipt."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address)
        parts = list(channel.unary_stream(codec.METHODS["Directory.Get"])(b""))
        directory = Directory.decode(codec.decode_directory_reply(codec.join_parts(parts)).directory)
        bundle = directory.nodes[0].bundle
        self._statement, self._bundle_id, self._directory_id = bundle.statement, bundle.id, directory.id
        self._invoke = channel.stream_stream(codec.METHODS["Inference.Invoke"])

    def run(self, tokens: int) -> Run:
        """Make one exchange."""
        return timed(lambda: self._exchange(tokens))

    def _exchange(self, tokens: int) -> Iterator[list[Chunk]]:
        statement = self._statement
        candidate = Candidate(
            identity=statement.identity,
            key=statement.keys[0],
            bundle_id=self._bundle_id,
            manifest=statement.models[0].manifest,
        )
        sealed, opener = RequestSealer(
            candidates=[candidate], model_id="fake", directory_id=self._directory_id, deadline_ms=60_000
        ).seal(request(tokens))
        data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages)
        for message in self._invoke(iter([data])):
            reply = codec.decode_invoke_reply(message)
            if reply.head:
                opener.start(reply.head)
            events = opener.push(reply.frames) if reply.frames else []
            if reply.final:
                opener.finish(reply.final)
            yield [event for event in events if isinstance(event, Chunk)]
        opener.close()


class Plain:
    """The baseline's side: the same protobuf messages in clear."""

    def __init__(self, address: str) -> None:
        self._call = grpc.insecure_channel(address).stream_stream(PLAIN)

    def run(self, tokens: int) -> Run:
        """Make one exchange."""
        return timed(lambda: self._exchange(tokens))

    def _exchange(self, tokens: int) -> Iterator[list[Chunk]]:
        for message in self._call(iter([codec.encode_request(request(tokens))])):
            pieces = pcc_pb2.InvokeRequest.FromString(message).key_packages  # as good as any repeated bytes field
            yield [codec.decode_chunk(piece) for piece in pieces]


def together(engine: Sealed | Plain, pool: ThreadPoolExecutor) -> tuple[float, list[Run]]:
    """Run 16 exchanges at once; returns tokens a second of all of them."""
    begun = time.perf_counter()
    runs = list(pool.map(engine.run, [TOKENS // 4] * STREAMS))
    return sum(run.tokens for run in runs) / (time.perf_counter() - begun), runs


# --- the measurement -------------------------------------------------------------------------------------


def start(words: list[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **more)


def start_plain() -> list[subprocess.Popen[str]]:
    left, right = socket.socketpair()
    with left, right:
        return [
            start([sys.executable, __file__, word, str(end.fileno())], pass_fds=[end.fileno()])
            for word, end in (("--plain-gateway", left), ("--plain-worker", right))
        ]


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["listen"])


def per_message(runs: list[Run]) -> float:
    return round(sum(run.tokens for run in runs) / sum(run.messages for run in runs), 2)


def alternate(rounds: int, run: Callable[[Sealed | Plain], T], sealed: Sealed, plain: Plain) -> tuple[list[T], list[T]]:
    """Run both in turn, each first in every other round, so that load of the machine falls on both."""
    results: dict[Sealed | Plain, list[T]] = {sealed: [], plain: []}
    for number in range(rounds):
        for engine in (sealed, plain)[:: 1 if number % 2 else -1]:
            results[engine].append(run(engine))
    return results[sealed], results[plain]


def shape(ours: list[Run], baseline: list[Run]) -> dict[str, float]:
    return {"ours": per_message(ours), "baseline": per_message(baseline)}


def measure(sealed: Sealed, plain: Plain) -> None:
    """Print the rows."""
    ours, baseline = alternate(60, lambda engine: engine.run(8).first_s * 1000, sealed, plain)
    cost = round(statistics.median(ours) - statistics.median(baseline), 3)
    row("node.ttft", ours=ours, baseline=baseline, unit="ms", smaller_is_better=True, cost_ms=cost)
    one, other = alternate(11, lambda engine: engine.run(TOKENS), sealed, plain)
    rates = [[run.tokens / run.all_s for run in runs] for runs in (one, other)]
    row("node.frames", ours=rates[0], baseline=rates[1], unit="frames/s", per_message=shape(one, other))
    with ThreadPoolExecutor(STREAMS) as pool:
        many, others = alternate(7, lambda engine: together(engine, pool), sealed, plain)
    seen = shape([run for _, runs in many for run in runs], [run for _, runs in others for run in runs])
    rates = [[rate for rate, _ in rounds] for rounds in (many, others)]
    row(f"node.frames.{STREAMS}", ours=rates[0], baseline=rates[1], unit="frames/s", per_message=seen)


def main() -> None:
    serve = [sys.executable, "-P", "-m", "pcc_server", "serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0"]
    node, plain = start([*serve, "--max-new", str(TOKENS)]), start_plain()
    try:
        engines = Sealed(address(node)), Plain(address(plain[0]))
        for engine in engines:
            assert engine.run(16).tokens == 16
        measure(*engines)
    finally:
        for process in (node, *plain):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain-gateway", type=int, metavar="FD", help="run the baseline's gateway")
    parser.add_argument("--plain-worker", type=int, metavar="FD", help="run the baseline's worker")
    given = parser.parse_args()
    if given.plain_gateway is not None:
        asyncio.run(plain_gateway(given.plain_gateway))
    elif given.plain_worker is not None:
        asyncio.run(plain_worker(given.plain_worker))
    else:
        main()
