"""What a killed worker costs its callers: when they are told, and when the node serves again (node design R2).

Each round starts a node (its time to ready is the baseline of the second row: it holds the same load), lets sealed
streams run, kills the worker with SIGKILL, and asks until a fresh request is answered. Rows:

restart.told_ms      from the kill to the typed error of the slowest of 16 streams, against the end of 16 streams of a
                     bare grpc.aio server that is killed the same way; target: 100 ms
restart.serving_s    from the kill to the first answered request, against the node's own start; ``over_s`` is the
                     difference, which holds the launcher's pause of half a second; target: 2 s

The second row has the fake engine and, with ``--model starter``, a model.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import psutil
from _crowd import Crowd, Outcome
from _rows import row
from grpc import aio

from hybrid.own_node import OwnNode

STREAMS = 16
ROUNDS = 5
TOKENS = 900
SERVING_WITHIN_S = 120.0
PLAIN = "/bench.Plain/Stream"


# --- the baseline: a server that is one process ----------------------------------------------------------


async def plain_server() -> None:
    """Stream a message every 50 ms to whoever asks, for ever."""

    async def stream(_request: bytes, context: Any) -> None:
        while True:
            await context.write(b"x" * 512)
            await asyncio.sleep(0.05)

    class Methods(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_stream_rpc_method_handler(stream)

    server = aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def plain_told_ms() -> float:
    """Kill such a server under streams; returns when the last of them ended."""
    command = [sys.executable, __file__, "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - nothing else runs
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"

        async def read(channel: aio.Channel) -> float:
            method: Any = channel.unary_stream(PLAIN)
            try:
                async for _ in method(b""):
                    pass
            except aio.AioRpcError:
                return time.monotonic()
            raise RuntimeError("a stream without an end ended")

        async with aio.insecure_channel(address) as channel:
            streams = [asyncio.create_task(read(channel)) for _ in range(STREAMS)]
            await asyncio.sleep(0.5)
            killed = time.monotonic()
            process.kill()
            return (max(await asyncio.gather(*streams)) - killed) * 1000


# --- ours ------------------------------------------------------------------------------------------------


def worker_of(node: OwnNode) -> psutil.Process:
    """Find the process that holds keys and model."""
    children = psutil.Process(node.pid).children()
    return next(child for child in children if "pcc_server.worker" in child.cmdline())


async def one_round(start: Callable[[], OwnNode]) -> tuple[float, float, float]:
    """Return seconds of the node's start, milliseconds until the last caller was told, seconds until it served."""
    begun = time.monotonic()
    with start() as node:
        started_s = time.monotonic() - begun
        async with Crowd(node.address) as crowd:
            sealed = [crowd.seal(tokens=TOKENS, text="Count slowly to a thousand.") for _ in range(STREAMS)]
            streams = [asyncio.create_task(crowd.ask(one)) for one in sealed]
            await asyncio.sleep(1.0)
            worker = worker_of(node)
            killed = time.monotonic()
            worker.send_signal(signal.SIGKILL)
            outcomes = await asyncio.gather(*streams)
            check(outcomes)
            told_ms = (max(outcome.ended for outcome in outcomes) - killed) * 1000
            return started_s, told_ms, await served_at(node) - killed


def check(outcomes: list[Outcome]) -> None:
    """See that every stream ran and was told what it should be."""
    said = {(outcome.code, outcome.broken, outcome.retry_ms > 0) for outcome in outcomes}
    if said != {("BUSY", "", True)}:
        raise SystemExit(f"streams ended with {said}")


async def served_at(node: OwnNode) -> float:
    """Ask until a fresh request is answered; returns when that was, on the monotonic clock."""
    end = time.monotonic() + SERVING_WITHIN_S
    while time.monotonic() < end:
        try:
            async with Crowd(node.address, streams=1) as crowd:
                outcome = await crowd.ask(crowd.seal(tokens=1, text="x"))
        except aio.AioRpcError:
            outcome = None
        if outcome and outcome.served:
            return outcome.ended
        await asyncio.sleep(0.02)
    raise SystemExit("the node did not serve again")


async def measure(name: str, start: Callable[[], OwnNode], rounds: int) -> None:
    """Run the rounds of one engine and print its rows."""
    plain = [await plain_told_ms() for _ in range(rounds)]
    found = [await one_round(start) for _ in range(rounds)]
    starts, told, serving = (list(column) for column in zip(*found, strict=True))
    row(
        f"restart.told_ms.{name}",
        ours=told,
        baseline=plain,
        unit="ms",
        smaller_is_better=True,
        streams=STREAMS,
        worst_ms=round(max(told), 1),
        target_ms=100,
    )
    over = [ours - load for ours, load in zip(serving, starts, strict=True)]
    row(
        f"restart.serving_s.{name}",
        ours=serving,
        baseline=starts,
        unit="s",
        smaller_is_better=True,
        over_s=round(statistics.median(over), 2),
        worst_over_s=round(max(over), 2),
        target_over_s=2,
    )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a catalogue id or a folder: measure this model, too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        asyncio.run(plain_server())
        return
    slow = ("--fake-delay-ms", "50")
    asyncio.run(measure("fake", lambda: OwnNode.start(engine="fake", options=slow), given.rounds))
    if given.model:
        many = ("--max-running", str(STREAMS))
        asyncio.run(measure("mlx", lambda: OwnNode.start(model=given.model, options=many), given.rounds))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    main()
