"""What sealing costs: the real node with its fake engine against plaintext gRPC over the same processes' libraries.

Two rows: time to the first token (``cost_ms`` is what sealing adds) and tokens per second of one stream. The baseline
sends one message per token; the node's gateway puts up to 16 waiting frames into one, which is where it gets ahead.
Servers run in processes of their own, both clients here; rounds alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import grpc
from _rows import row

from hybrid.wire import codec
from hybrid.wire.directory import Directory
from hybrid.wire.envelope import Candidate, RequestSealer
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling

PLAIN = "/bench.Plain/Generate"
TOKENS = 4000


def plain_server() -> None:
    """Stream ``TOKENS`` encoded chunks per request, one gRPC message each, and a first one at once."""
    import asyncio

    from grpc import aio

    async def generate(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
        wanted = codec.decode_request(request).sampling.max_tokens
        for number in range(wanted):
            await asyncio.sleep(0)
            await context.write(codec.encode_chunk(Chunk(text=f"token {number} ", tokens=1)))

    async def main() -> None:
        server = aio.server(options=(("grpc.so_reuseport", 0),))
        method = grpc.unary_stream_rpc_method_handler(generate)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Plain", {"Generate": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(json.dumps({"listen": f"127.0.0.1:{port}"}), flush=True)
        await server.wait_for_termination()

    asyncio.run(main())


def request(tokens: int) -> GenerateRequest:
    words = "x" * max(2000, tokens)  # a prompt of 2 kB; the fake engine answers with a token per character
    return GenerateRequest(messages=(Message(role=Role.USER, content=words),), sampling=Sampling(max_tokens=tokens))


class Sealed:
    """Our side: directory once, then seal, stream, open, check the receipt."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        parts = list(self._channel.unary_stream(codec.METHODS["Directory.Get"])(b""))
        self._directory = Directory.decode(codec.decode_directory_reply(codec.join_parts(parts)).directory)
        self._invoke = self._channel.stream_stream(codec.METHODS["Inference.Invoke"])

    def run(self, tokens: int) -> tuple[float, float]:
        """Return seconds to the first token and in all."""
        begun, first = time.perf_counter(), 0.0
        bundle = self._directory.nodes[0].bundle
        statement = bundle.statement
        candidate = Candidate(
            identity=statement.identity,
            key=statement.keys[0],
            bundle_id=bundle.id,
            manifest=statement.models[0].manifest,
        )
        sealed, opener = RequestSealer(
            candidates=[candidate], model_id="fake", directory_id=self._directory.id, deadline_ms=60_000
        ).seal(request(tokens))
        data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages)
        for message in self._invoke(iter([data])):
            reply = codec.decode_invoke_reply(message)
            if reply.head:
                opener.start(reply.head)
            events = opener.push(reply.frames) if reply.frames else []
            if not first and any(isinstance(event, Chunk) and event.text for event in events):
                first = time.perf_counter() - begun
            if reply.final:
                opener.finish(reply.final)
        opener.close()
        return first, time.perf_counter() - begun


class Plain:
    """The baseline: the same protobuf messages in clear."""

    def __init__(self, address: str) -> None:
        self._call = grpc.insecure_channel(address).unary_stream(PLAIN)

    def run(self, tokens: int) -> tuple[float, float]:
        """Return seconds to the first token and in all."""
        begun, first = time.perf_counter(), 0.0
        for message in self._call(codec.encode_request(request(tokens))):
            codec.decode_chunk(message)
            first = first or time.perf_counter() - begun
        return first, time.perf_counter() - begun


def child(words: list[str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["listen"]


def measure(rounds: int, ours: Callable[[], float], baseline: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Alternate, so that load of the machine falls on both."""
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def main() -> None:
    """Print two rows."""
    serve = [sys.executable, "-P", "-m", "pcc_server", "serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0"]
    node, address = child([*serve, "--max-new", str(TOKENS)])
    plain, plain_address = child([sys.executable, __file__, "--plain-server"])
    try:
        sealed, clear = Sealed(address), Plain(plain_address)
        for engine in (sealed, clear):
            engine.run(16)
        ours, baseline = measure(40, lambda: sealed.run(8)[0] * 1000, lambda: clear.run(8)[0] * 1000)
        cost = round(statistics.median(ours) - statistics.median(baseline), 3)
        row("node.ttft", ours=ours, baseline=baseline, unit="ms", smaller_is_better=True, cost_ms=cost)
        ours, baseline = measure(9, lambda: TOKENS / sealed.run(TOKENS)[1], lambda: TOKENS / clear.run(TOKENS)[1])
        row("node.frames", ours=ours, baseline=baseline, unit="tokens/s", plain_messages="one per token")
    finally:
        for process in (node, plain):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain-server", action="store_true", help="run the baseline's server")
    (plain_server if parser.parse_args().plain_server else main)()
