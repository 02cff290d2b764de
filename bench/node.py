"""What sealing costs: the real node with its fake engine against the same processes that send the same pieces in clear.

The baseline is a gateway (grpc.aio) and a worker (the same fake engine) on the same kind of link, with the same window
and the same pace, which encodes and decodes protobuf chunks as any plaintext service would. Keys, padding, strict
decoding, receipt and admission are missing, so their cost is what shows. Clients of both run in this process and count:
sealing, opening and checking the receipt are part of ours. Rounds alternate; both sides are warm.

Two shapes, the same for both sides, each row with the pieces per message that were seen: one piece a message, as they
are streamed when a model produces them one by one; and up to 16, as when an engine outruns the network. Rows:
milliseconds to the first token (p50; ``cost_ms`` is sealed minus plain), and frames a second of one stream and of 16 at
once. ``cpu_us``: processor time per frame of client, gateway and worker together, which a busy machine disturbs least;
``paired_ratio`` is the median of the ratios of neighbouring rounds.
"""

import argparse
import asyncio
import json
import os
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
import psutil
from _rows import row

from hybrid.wire import codec
from hybrid.wire.constants import FRAMES_PER_MESSAGE
from hybrid.wire.directory import Directory
from hybrid.wire.encoding import u32
from hybrid.wire.envelope import Candidate, RequestSealer
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling
from hybrid.wire.v1 import pcc_pb2
from pcc_server.engines.fake import FakeEngine
from pcc_server.link import ACK_BYTES, Frame, Kind, Link
from pcc_server.outlet import Outlet
from pcc_server.pace import Pace

PLAIN = "/bench.Plain/Generate"
T = TypeVar("T")
TOKENS = 2000
STREAMS = 16
PAIRS = 21
OPTIONS = (("grpc.http2.lookahead_bytes", 1 << 20), ("grpc.http2.bdp_probe", 0))  # of the SDK; for both sides


# --- the baseline: gateway and worker in clear -----------------------------------------------------------


async def plain_worker(link_fd: int, batch: int) -> None:
    """Answer every OPEN with messages of encoded chunks, under the node's own window and at its pace."""
    engine, outlets, tasks = FakeEngine(), dict[int, Outlet](), set[asyncio.Task[None]]()
    ended = asyncio.Event()

    async def answer(number: int, request: bytes) -> None:
        outlet, pieces = outlets[number], Pieces()
        spoken = False
        pace = Pace(lambda: outlet.put(Kind.FRAMES, pieces.taken()), batch)
        async for chunk in engine.generate(codec.decode_request(request)):
            if chunk.text or chunk.progress:
                if outlet.full:
                    await outlet.room()
                pieces.add(chunk)
                pace.added(urgent=bool(chunk.text) and not spoken)
                spoken = spoken or bool(chunk.text)
        pace.close()
        if pieces.waiting:
            outlet.put(Kind.FRAMES, pieces.taken())
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
    """Chunks of one reply that wait for their message, encoded as any plaintext service would."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def add(self, chunk: Chunk) -> None:
        """Encode one chunk."""
        done, total = chunk.progress or (0, 0)
        message = pcc_pb2.Chunk(text=chunk.text, tokens=chunk.tokens, progress_done=done, progress_total=total)
        self.waiting.append(message.SerializeToString())

    def taken(self) -> bytes:
        """Return the message of what waits."""
        pieces, self.waiting = self.waiting, []
        return pcc_pb2.InvokeRequest(key_packages=pieces).SerializeToString()  # as good as any repeated bytes field


class Messages:
    """One reply inside the baseline's gateway: messages that the caller has not yet taken."""

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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield them as they come."""
        while self.waiting or not self.ended:
            if not self.waiting:
                self._news.clear()
                await self._news.wait()
                continue
            yield self.waiting.pop(0)


async def plain_gateway(link_fd: int) -> None:
    """Pass requests to the worker and its pieces back, up to 16 in one message."""
    streams: dict[int, Messages] = {}
    numbers = iter(range(1, 1 << 32))

    async def generate(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        number, messages = next(numbers), Messages()
        streams[number] = messages
        async for request in requests:
            link.send(Kind.OPEN, number, request)
        taken = 0
        async for message in messages:
            await context.write(message)
            taken += len(message)
            if taken >= ACK_BYTES:
                link.send(Kind.ACK, number, u32(taken))
                taken = 0
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
        channel = grpc.insecure_channel(address, options=OPTIONS)
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
        self._call = grpc.insecure_channel(address, options=OPTIONS).stream_stream(PLAIN)

    def run(self, tokens: int) -> Run:
        """Make one exchange."""
        return timed(lambda: self._exchange(tokens))

    def _exchange(self, tokens: int) -> Iterator[list[Chunk]]:
        for message in self._call(iter([codec.encode_request(request(tokens))])):
            pieces = pcc_pb2.InvokeRequest.FromString(message).key_packages  # as good as any repeated bytes field
            yield [decoded(piece) for piece in pieces]


def decoded(piece: bytes) -> Chunk:
    """Decode a chunk as any plaintext service would: without our strictness."""
    message = pcc_pb2.Chunk.FromString(piece)
    total = message.progress_total
    return Chunk(text=message.text, tokens=message.tokens, progress=(message.progress_done, total) if total else None)


def together(engine: Sealed | Plain, pool: ThreadPoolExecutor) -> tuple[float, list[Run]]:
    """Run 16 exchanges at once; returns tokens a second of all of them."""
    begun = time.perf_counter()
    runs = list(pool.map(engine.run, [TOKENS] * STREAMS))
    return sum(run.tokens for run in runs) / (time.perf_counter() - begun), runs


# --- the measurement -------------------------------------------------------------------------------------


def start(words: list[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **more)


def start_plain(batch: int) -> list[subprocess.Popen[str]]:
    left, right = socket.socketpair()
    with left, right:
        return [
            start([sys.executable, __file__, word, str(end.fileno()), "--batch", str(batch)], pass_fds=[end.fileno()])
            for word, end in (("--plain-gateway", left), ("--plain-worker", right))
        ]


def start_sealed(batch: int) -> subprocess.Popen[str]:
    words = ["-m", "pcc_server", "serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0"]
    return start([sys.executable, "-P", *words, "--max-new", str(TOKENS), "--batch", str(batch)])


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


class Processor:
    """Processor time of this process and of a side's own ones."""

    def __init__(self, roots: list[int]) -> None:
        parents = [psutil.Process(pid) for pid in (os.getpid(), *roots)]
        self._all = parents + [child for parent in parents[1:] for child in parent.children(recursive=True)]

    def seconds(self) -> float:
        """User and system time so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._all)


def first_tokens(sealed: Sealed, plain: Plain) -> None:
    """Print the row about the first token."""
    ours, baseline = alternate(60, lambda engine: engine.run(8).first_s * 1000, sealed, plain)
    cost = round(statistics.median(ours) - statistics.median(baseline), 3)
    row("node.ttft", ours=ours, baseline=baseline, unit="ms", smaller_is_better=True, cost_ms=cost)


def one_stream(sealed: Sealed, plain: Plain, name: str) -> None:
    """Print the row about one stream."""
    one, other = alternate(PAIRS, lambda engine: engine.run(TOKENS), sealed, plain)
    rates = [[run.tokens / run.all_s for run in runs] for runs in (one, other)]
    row(f"node.frames.1{name}", ours=rates[0], baseline=rates[1], unit="frames/s", per_message=shape(one, other))


def many_streams(sealed: Sealed, plain: Plain, name: str, spent: dict[Sealed | Plain, Processor]) -> None:
    """Print the row about 16 streams."""
    used: dict[Sealed | Plain, list[float]] = {sealed: [], plain: []}

    def run(engine: Sealed | Plain) -> tuple[float, list[Run]]:
        begun = spent[engine].seconds()
        done = together(engine, pool)
        used[engine].append((spent[engine].seconds() - begun) * 1e6 / (TOKENS * STREAMS))
        return done

    with ThreadPoolExecutor(STREAMS) as pool:
        many, others = alternate(PAIRS, run, sealed, plain)
    seen = shape([run for _, runs in many for run in runs], [run for _, runs in others for run in runs])
    rates = [[rate for rate, _ in rounds] for rounds in (many, others)]
    paired = round(statistics.median(ours / clear for ours, clear in zip(*rates, strict=True)), 3)
    cpu = {side: round(statistics.median(used[engine]), 1) for side, engine in (("ours", sealed), ("baseline", plain))}
    row(
        f"node.frames.{STREAMS}{name}",
        ours=rates[0],
        baseline=rates[1],
        unit="frames/s",
        per_message=seen,
        paired_ratio=paired,
        cpu_us=cpu,
    )


def measure(batch: int, name: str) -> None:
    """Start both sides in one shape and print its rows."""
    node, plain = start_sealed(batch), start_plain(batch)
    try:
        sealed, clear = Sealed(address(node)), Plain(address(plain[0]))
        for engine in (sealed, clear):
            assert engine.run(TOKENS).tokens == TOKENS
        spent = {sealed: Processor([node.pid]), clear: Processor([process.pid for process in plain])}
        if not name:
            first_tokens(sealed, clear)
        one_stream(sealed, clear, name)
        many_streams(sealed, clear, name, spent)
    finally:
        for process in (node, *plain):
            process.terminate()
            process.wait()


def main() -> None:
    measure(1, "")
    measure(FRAMES_PER_MESSAGE, ".batched")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain-gateway", type=int, metavar="FD", help="run the baseline's gateway")
    parser.add_argument("--plain-worker", type=int, metavar="FD", help="run the baseline's worker")
    parser.add_argument("--batch", type=int, default=FRAMES_PER_MESSAGE, help="the baseline's pieces of one message")
    given = parser.parse_args()
    if given.plain_gateway is not None:
        asyncio.run(plain_gateway(given.plain_gateway))
    elif given.plain_worker is not None:
        asyncio.run(plain_worker(given.plain_worker, given.batch))
    else:
        main()
