"""A thousand sealed streams at once on the fake engine (node design P3): none lost, none out of order; what it costs.

Rows: the gap between two tokens of a stream in ticks of the engine (5 tokens a second each), while all thousand run
and, beside it, with the moments in which a thousand start or end at once; memory of gateway and worker for each
stream, and the same streams at 20 tokens a second each, where the node puts frames together, against
a node that sends each by itself (``--batch 1``). The client runs on the same cores and counts against it.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psutil
from _crowd import Crowd, Outcome, share, words
from _rows import row

PROGRAMS = ("gateway", "worker")
TICK_S = 0.2


@dataclass(frozen=True)
class Run:
    """What one crowd met. gaps: seconds between two tokens of one stream; rss: bytes, before and while it ran."""

    outcomes: list[Outcome]
    rss_before: dict[str, int]
    rss_while: dict[str, int]
    cpu_s: dict[str, float]
    seconds: float

    @property
    def gaps(self) -> list[float]:
        """Gaps of all streams; tokens of one message count as one, and as no gap among themselves."""
        return [after - before for before, after in self._pairs()]

    @property
    def gaps_of_all(self) -> list[float]:
        """Of these, the gaps that ended while every stream ran: between the last first token and the first last one."""
        begun = max(one.tokens_at[0] for one in self.outcomes)
        ended = min(one.tokens_at[-1] for one in self.outcomes)
        return [after - before for before, after in self._pairs() if begun <= after <= ended]

    def _pairs(self) -> Iterator[tuple[float, float]]:
        return (pair for one in self.outcomes for pair in pairwise(one.tokens_at))

    def per_stream(self, program: str) -> float:
        """Kilobytes that one stream takes in a process."""
        return (self.rss_while[program] - self.rss_before[program]) / len(self.outcomes) / 1e3


@contextmanager
def node(streams: int, delay_ms: float, *options: str) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """Start a node with room for so many streams; yields its address and its processes."""
    command = [sys.executable, "-P", "-m", "pcc_server", "serve", "--json", "--engine", "fake"]
    command += ["--listen", "127.0.0.1:0", "--max-running", str(streams), "--fake-delay-ms", str(delay_ms), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            said: Iterator[dict[str, Any]] = map(json.loads, process.stdout)
            ready = next(event for event in said if event["event"] == "ready")
            yield ready["listen"], dict(processes(psutil.Process(process.pid)))
        finally:
            process.terminate()


def processes(launcher: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    for child in launcher.children(recursive=True):
        for name in PROGRAMS:
            if f"pcc_server.{name}" in child.cmdline():
                yield name, child


def rss(parts: dict[str, psutil.Process]) -> dict[str, int]:
    return {name: part.memory_info().rss for name, part in parts.items()}


def cpu(parts: dict[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(part.cpu_times()[:2]) for name, part in parts.items()}


async def crowd(address: str, parts: dict[str, psutil.Process], streams: int, tokens: int, delay_s: float) -> Run:
    """Seal all first, then send all at once; look at memory in the middle."""
    async with Crowd(address, streams=streams) as clients:
        for _ in range(20):  # first uses: imports, threads
            await clients.ask(clients.seal(tokens=1))
        sealed = [clients.seal(tokens=tokens) for _ in range(streams)]
        before, used, begun = rss(parts), cpu(parts), time.monotonic()
        tasks = [asyncio.create_task(clients.ask(one)) for one in sealed]
        await asyncio.sleep(tokens * delay_s * 0.75)
        while_ = rss(parts)
        outcomes = await asyncio.gather(*tasks)
        spent = {name: seconds - used[name] for name, seconds in cpu(parts).items()}
        return Run(outcomes, before, while_, spent, time.monotonic() - begun)


def measure(streams: int, tokens: int, delay_ms: float, *options: str) -> Run:
    with node(streams, delay_ms, *options) as (address, parts):
        run = asyncio.run(crowd(address, parts, streams, tokens, delay_ms / 1000))
    check(run.outcomes, tokens)
    return run


def check(outcomes: list[Outcome], tokens: int) -> None:
    """See that every stream gave every token in order, and its receipt."""
    bad = [one for one in outcomes if not one.served or one.text != words(tokens)]
    assert not bad, f"{len(bad)} of {len(outcomes)} streams: {[(one.code, one.told, one.broken) for one in bad[:5]]}"


def facts(run: Run) -> dict[str, Any]:
    """Return what a row says beside its figure."""
    return {
        "streams": len(run.outcomes),
        "rss_mb": {name: round(size / 1e6, 1) for name, size in run.rss_while.items()},
        "kb_per_stream": {name: round(run.per_stream(name), 1) for name in PROGRAMS},
        "cpu_share": {name: round(spent / run.seconds, 2) for name, spent in run.cpu_s.items()},
        "messages": sum(len(set(one.tokens_at)) for one in run.outcomes),
    }


def slow_and_fast(streams: int, tokens: int) -> None:
    slow = measure(streams, tokens, round(1000 * TICK_S))
    row(
        "streams.gap_p99",
        ours=[share(slow.gaps_of_all, 0.99) / TICK_S],
        baseline=[1.0],
        unit="ticks of 0.2 s",
        smaller_is_better=True,
        with_start_and_end=round(share(slow.gaps, 0.99) / TICK_S, 2),
        of_all=len(slow.gaps_of_all),
        **facts(slow),
    )
    fast, one_by_one = measure(streams, 2 * tokens, 50), measure(streams, 2 * tokens, 50, "--batch", "1")
    seconds = [[run.seconds] for run in (fast, one_by_one)]
    beside = {"together": facts(fast), "one_by_one": facts(one_by_one)}
    row("streams.20_per_s", ours=seconds[0], baseline=seconds[1], unit="s", smaller_is_better=True, **beside)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--tokens", type=int, default=50)
    given = parser.parse_args()
    slow_and_fast(given.streams, given.tokens)
