"""A whole node, sealed and hardened, against the same engine driven bare: what all around the engine costs (P6).

The baseline is a process that holds ``MLXEngine`` with the options of a node and asks it as directly as can be: no
wire, no seal, no sandbox, no scrubbing allocator. Eight streams at once, each round at one of the two while the other
rests. Rows: milliseconds from sending to the first token, the median of the eight (``cost_ms``: how much later than
bare, 10 at most), and tokens a second of all eight from sending to the last token (0.95 of bare at least).
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _crowd import Crowd
from _rows import row
from decode import request, starter
from serving import PROMPTS, STREAMS

from hybrid.own_node import OwnNode

NEEDED = {"cost_ms": 10.0, "throughput": 0.95}


@dataclass(frozen=True, slots=True)
class Round:
    """Eight answers. first_s: of each, from sending to its first token.  tps: tokens a second of all."""

    first_s: list[float]
    tps: float

    @classmethod
    def of(cls, begun: float, streams: list[list[float]]) -> "Round":
        """Make it of when each token came."""
        took_s = max(stream[-1] for stream in streams) - begun
        return cls([stream[0] - begun for stream in streams], sum(map(len, streams)) / took_s)


# --- the baseline ----------------------------------------------------------------------------------------


async def bare(folder: Path) -> None:
    """Answer each line of stdin, a number of tokens, with a round; the process ends with its input."""
    from device.engine import MLXEngine
    from device.options import EngineOptions

    options = EngineOptions(stateless=True, signals=False, max_rows=STREAMS)
    engine = await asyncio.to_thread(MLXEngine.open, folder, model_id="bare", options=options)
    print(json.dumps({}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begun = time.monotonic()
        streams = await asyncio.gather(*(token_times(engine, text, int(line)) for text in PROMPTS))
        round_ = Round.of(begun, streams)
        print(json.dumps({"first_s": round_.first_s, "tps": round_.tps}), flush=True)
    await engine.close()


async def token_times(engine: Any, text: str, tokens: int) -> list[float]:
    """Ask, and note when each token came."""
    came: list[float] = []
    async for chunk in engine.generate(request(text, tokens), partition=""):
        came += [time.monotonic()] * chunk.tokens
    return came


class Bare:
    """The baseline's process."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bare", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout
        heard: dict[str, Any] = json.loads(self._process.stdout.readline())
        return heard

    def run(self, tokens: int) -> Round:
        """Run one round."""
        assert self._process.stdin
        print(tokens, file=self._process.stdin, flush=True)
        return Round(**self._heard())

    def close(self) -> None:
        """End it."""
        self._process.communicate("")


# --- ours ------------------------------------------------------------------------------------------------


def sealed(address: str, tokens: int) -> Round:
    """Run one round at a node."""

    async def run() -> Round:
        async with Crowd(address, streams=STREAMS) as crowd:
            ready = [crowd.seal(tokens=tokens, text=text) for text in PROMPTS]
            begun = time.monotonic()
            outcomes = await asyncio.gather(*(crowd.ask(one) for one in ready))
        assert all(outcome.served for outcome in outcomes), outcomes[0]
        return Round.of(begun, [outcome.tokens_at for outcome in outcomes])

    return asyncio.run(run())


def alternate(ours: Callable[[], Round], baseline: Callable[[], Round], rounds: int) -> list[tuple[Round, Round]]:
    """Run both in turn, each first in every other round; the first pair warms up."""
    pairs = []
    for at in range(rounds + 1):
        if at % 2:
            mine = ours()
            pairs.append((mine, baseline()))
        else:
            other = baseline()
            pairs.append((ours(), other))
    return pairs[1:]


def told(pairs: list[tuple[Round, Round]]) -> None:
    """Print both rows."""
    first = [[1e3 * statistics.median(one.first_s) for one in side] for side in zip(*pairs, strict=True)]
    cost_ms = round(statistics.median(ours - bare_ms for ours, bare_ms in zip(*first, strict=True)), 1)
    note = {"cost_ms": cost_ms, "needed_cost_ms": NEEDED["cost_ms"]}
    row("whole.ttft_p50", ours=first[0], baseline=first[1], unit="ms", smaller_is_better=True, **note)
    rates = [[one.tps for one in side] for side in zip(*pairs, strict=True)]
    row("whole.throughput", ours=rates[0], baseline=rates[1], unit="tok/s", needed=NEEDED["throughput"])


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        asyncio.run(bare(given.bare))
        return
    folder = starter()
    baseline = Bare(folder)
    try:
        with OwnNode.start(model=folder, options=("--max-running", str(STREAMS))) as node:
            told(
                alternate(lambda: sealed(node.address, given.tokens), lambda: baseline.run(given.tokens), given.rounds)
            )
    finally:
        baseline.close()


if __name__ == "__main__":
    main()
