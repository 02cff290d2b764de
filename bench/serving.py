"""What the engine does for many at once, on the starter: batching, fairness, and the peer that mlx-lm brings.

``batch``: eight streams against one, through MLXEngine with one BLAS thread as in a node. ``gap``: a long prompt
arrives among eight answers; the gaps between their tokens, against mlx-lm's generator with its defaults, and how soon a
short prompt behind the long one starts. ``installed`` and ``alike``: eight sealed clients of a whole node against eight
of ``mlx_lm.server``, as it is installed, and with the weights and the BLAS we use; rounds alternate. Rates are of all
streams together, from the first request to the last token.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from _crowd import Crowd, share
from _rows import row
from decode import request, starter

STREAMS = 8
PROMPTS = [
    f"Tell me a long story about {what}."
    for what in (
        "a lighthouse keeper and a storm",
        "a lost ship",
        "a baker who cannot sleep",
        "two sisters and a dog",
        "a train through the snow",
        "the last day of school",
        "an old clock maker",
        "a garden on a roof",
    )
]
LONG = "The keeper climbed the stairs and counted the lamps of every ship that passed him in the dark. "
LONG_TOKENS = 20  # about so many for each time that sentence is said
MAX_STALL_S = 0.2  # the engine's default
NEEDED = {"batch": 5.5, "peer": 1.5, "freeze": 10.0, "short": 3.0}
START_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["batch", "gap", "installed", "alike"], default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--long", type=int, default=3_000, help="tokens of the long prompt, about")
    options = parser.parse_args()
    folder = starter()
    if options.only in (None, "batch"):
        batch(folder, options.rounds, options.tokens)
    if options.only in (None, "gap"):
        gap(folder, options.long)
    if options.only in (None, "installed"):
        peer("installed", folder, folder, {}, rounds=1, tokens=options.tokens)  # one of its rounds takes minutes
    if options.only in (None, "alike"):
        with tempfile.TemporaryDirectory() as scratch:
            wide = Path(scratch) / "f32"
            subprocess.run([sys.executable, __file__, "--widen", str(wide)], check=True)
            peer("alike", folder, wide, fast(), rounds=options.rounds, tokens=options.tokens)


# --- eight streams against one -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def engine(folder: Path) -> Any:
    from device.engine import MLXEngine
    from device.options import EngineOptions

    options = EngineOptions(stateless=True, signals=False, max_rows=STREAMS + 2)
    opened = await asyncio.to_thread(MLXEngine.open, folder, model_id="smollm2-135m", options=options)
    try:
        yield opened
    finally:
        await opened.close()


async def times(opened: Any, text: str, tokens: int) -> list[tuple[float, float]]:
    """Ask and note when each token came, on the wall's clock and on that of this process's work."""
    came: list[tuple[float, float]] = []
    async for chunk in opened.generate(request(text, tokens)):
        came += [(time.perf_counter(), time.process_time())] * chunk.tokens
    return came


def decode_rates(*streams: list[tuple[float, float]]) -> tuple[float, float]:
    """Tokens a second of all streams while all of them answer, by either clock. Exits where they never do."""
    begun, ended = max(stream[0] for stream in streams), min(stream[-1] for stream in streams)
    if begun >= ended:
        raise SystemExit("the first stream ended before the last began: ask for more --tokens")
    count = sum(begun < at <= ended for stream in streams for at in stream)
    return count / (ended[0] - begun[0]), count / (ended[1] - begun[1])


def batch(folder: Path, rounds: int, tokens: int) -> None:
    """Print the row of P1. cpu_ratio: the same by processor time, which a busy machine disturbs least."""

    async def measure() -> list[tuple[tuple[float, float], tuple[float, float]]]:
        figures = []
        async with engine(folder) as opened:
            await times(opened, PROMPTS[0], 8)
            for _ in range(rounds):
                one = decode_rates(await times(opened, PROMPTS[0], 2 * tokens))
                many = decode_rates(*await asyncio.gather(*(times(opened, text, tokens) for text in PROMPTS)))
                figures.append((many, one))
        return figures

    figures = asyncio.run(measure())
    row(
        "serving.eight_streams",
        ours=[many[0] for many, _ in figures],
        baseline=[one[0] for _, one in figures],
        unit="tok/s",
        cpu_ratio=round(statistics.median(many[1] / one[1] for many, one in figures), 2),
        needed=NEEDED["batch"],
    )


# --- a long prompt among eight answers ---------------------------------------------------------------------------


def gap(folder: Path, long: int) -> None:
    """Print the rows of R8: gaps, and the wait of a short prompt behind the long one. cpu: by processor time."""
    text = LONG * (long // LONG_TOKENS)
    ours = asyncio.run(ours_among_eight(folder, text))
    theirs, read = library_among_eight(folder, text)
    row(
        "serving.gap_p99",
        ours=[ours.p99(0)],
        baseline=[theirs.longest(0)],
        unit="s",
        smaller_is_better=True,
        prompt_tokens=read,
        step_s=round(ours.usual(0), 3),
        allowed_s=round(MAX_STALL_S + ours.usual(0), 3),
        longest_s=round(ours.longest(0), 3),
        cpu={"p99": round(ours.p99(1), 3), "step": round(ours.usual(1), 3), "longest": round(ours.longest(1), 3)},
        frozen_steps=round(theirs.longest(1) / theirs.usual(1), 1),
        needed_frozen_steps=NEEDED["freeze"],
    )
    alone_s, behind_s = ours.short_s
    row(
        "serving.short_behind_long",
        ours=[behind_s],
        baseline=[alone_s],
        unit="s",
        smaller_is_better=True,
        needed=NEEDED["short"],
    )


@dataclass(frozen=True, slots=True)
class Gaps:
    """Times between two tokens of a stream by (wall, processor): before the long prompt came, and until it was read.

    short_s: seconds a short prompt took to its first token, without and behind the long one.
    """

    before: list[tuple[float, float]]
    during: list[tuple[float, float]]
    short_s: tuple[float, float] = (0.0, 0.0)

    def usual(self, clock: int) -> float:
        """Return the median before."""
        return statistics.median(gap[clock] for gap in self.before)

    def p99(self, clock: int) -> float:
        """Return what one gap in a hundred exceeds."""
        return share((gap[clock] for gap in self.during), 0.99)

    def longest(self, clock: int) -> float:
        """Return the longest."""
        return max(gap[clock] for gap in self.during)


async def ours_among_eight(folder: Path, text: str) -> Gaps:
    """Let eight answers run, then a short prompt, then the long one, then the short one behind it."""
    clocks: list[list[tuple[float, float]]] = [[] for _ in PROMPTS]
    async with engine(folder) as opened:
        await times(opened, PROMPTS[0], 8)
        tasks = [asyncio.create_task(note(opened, each, clock)) for each, clock in zip(PROMPTS, clocks, strict=True)]
        while not all(clocks):  # noqa: ASYNC110 - the engine is no asyncio object
            await asyncio.sleep(0.01)
        calm = time.perf_counter()
        await asyncio.sleep(3.0)
        quiet = time.perf_counter()
        alone_s = await first_s(opened, "Say hello.")
        begun = time.perf_counter()
        reading = asyncio.create_task(first_s(opened, text))
        await asyncio.sleep(1.0)
        behind_s = await first_s(opened, "Say hello.")
        await reading
        ended = time.perf_counter()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Gaps(between(clocks, calm, quiet), between(clocks, begun, ended), (alone_s, behind_s))


def between(clocks: list[list[tuple[float, float]]], begun: float, ended: float) -> list[tuple[float, float]]:
    """Return the gaps of all streams that ended in a span of time."""
    pairs = [pair for clock in clocks for pair in pairwise(clock) if begun < pair[1][0] < ended]
    return [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairs]


async def note(opened: Any, text: str, clock: list[tuple[float, float]]) -> None:
    async for chunk in opened.generate(request(text, 2_000)):
        clock += [(time.perf_counter(), time.process_time())] * chunk.tokens


async def first_s(opened: Any, text: str) -> float:
    begun = time.perf_counter()
    async with contextlib.aclosing(opened.generate(request(text, 1))) as stream:
        async for chunk in stream:
            if chunk.tokens:
                break
    return time.perf_counter() - begun


def library_among_eight(folder: Path, text: str) -> tuple[Gaps, int]:
    """Do the same with mlx-lm's generator as it comes; returns the tokens of the long prompt, too."""
    from device import loader, runtime

    runtime.mlx(threads=1)
    plan = loader.plan(folder, context_tokens=None, cpu=True, force=False)
    loaded = loader.load(folder, plan, check_contents=False)
    encode = loaded.tokenizer.encode
    generator = runtime.mlx_lm("generate").BatchGenerator(loaded.model, max_tokens=2_000)
    generator.insert([encode(each) for each in PROMPTS])
    while len(generator.next()[1]) < STREAMS:
        pass
    before = [step(generator)[0] for _ in range(12)]
    ids = encode(text)
    (long,) = generator.insert([ids])
    during, answered = [], False
    while not answered:
        took, responses = step(generator)
        during.append(took)
        answered = any(response.uid == long for response in responses)
    generator.close()
    return Gaps(before, during), len(ids)


def step(generator: Any) -> tuple[tuple[float, float], list[Any]]:
    begun = time.perf_counter(), time.process_time()
    responses = generator.next()[1]
    return (time.perf_counter() - begun[0], time.process_time() - begun[1]), responses


# --- a whole node against mlx_lm.server --------------------------------------------------------------------------


def peer(name: str, folder: Path, model: Path, more: dict[str, str], *, rounds: int, tokens: int) -> None:
    """Print a row of P2. model, more: what the peer is given, and its environment."""
    figures: dict[str, list[float]] = {"ours": [], "peer": []}
    alike = ("--prompt-cache-size", "0") if more else ()  # it shares prompts between callers, which a node must not
    with node(folder) as ours, server(model, more, *alike) as theirs:
        sealed(ours, 4)
        completion(theirs, PROMPTS[0], 4)
        for _ in range(rounds):
            figures["ours"].append(sealed(ours, tokens))
            figures["peer"].append(asked(theirs, tokens))
    needed = {"needed": NEEDED["peer"]} if name == "installed" else {}
    row(f"serving.peer.{name}", ours=figures["ours"], baseline=figures["peer"], unit="tok/s", **needed)


def fast() -> dict[str, str]:
    """Return the environment that gives another program the BLAS we use, with one thread as in a node."""
    from device.blas import OPENBLAS

    return {"LD_PRELOAD": OPENBLAS[0], "OPENBLAS_NUM_THREADS": "1"}


def widen(target: Path) -> None:
    """Write the starter with f32 weights, as mlx-lm's own folder."""
    from device import runtime
    from device.loader import plan  # noqa: F401 - opens the one door to MLX first

    core, utils = runtime.mlx(), runtime.mlx_lm("utils")
    model, tokenizer, config = utils.load(str(starter()), return_config=True)
    model.set_dtype(core.float32)
    utils.dequantize_model(model)
    config = {name: value for name, value in config.items() if not name.startswith("quantization")}
    utils.save(target, starter(), model, tokenizer, config)


@contextlib.contextmanager
def node(folder: Path) -> Iterator[str]:
    words = ["serve", "--json", "--engine", "mlx", "--model", str(folder), "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "PCC_LIMITS_MAX_RUNNING": str(STREAMS)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pcc_server", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)
        yield next(str(line["listen"]) for line in lines if line["event"] == "ready")
    finally:
        process.terminate()
        process.wait()


def sealed(address: str, tokens: int) -> float:
    """Tokens a second of eight sealed clients together."""

    async def run() -> float:
        async with Crowd(address, streams=STREAMS) as crowd:
            ready = [crowd.seal(tokens=tokens, text=text) for text in PROMPTS]
            begun = time.perf_counter()
            outcomes = await asyncio.gather(*(crowd.ask(each) for each in ready))
            took = time.perf_counter() - begun
        assert all(outcome.served for outcome in outcomes), outcomes
        return sum(len(outcome.tokens_at) for outcome in outcomes) / took

    return asyncio.run(run())


@contextlib.contextmanager
def server(model: Path, more: dict[str, str], *options: str) -> Iterator[int]:
    """Run the peer on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = ["-m", "mlx_lm", "server", "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    process = subprocess.Popen([sys.executable, *words], env=environment, **quiet)
    try:
        until = time.monotonic() + START_S
        while not answers(port):
            assert process.poll() is None, "the peer does not start"
            assert time.monotonic() < until, "the peer does not listen"
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def asked(port: int, tokens: int) -> float:
    """Tokens a second of eight clients of the peer together, as it counts them itself."""
    with ThreadPoolExecutor(STREAMS) as pool:
        begun = time.perf_counter()
        counts = list(pool.map(lambda text: completion(port, text, tokens), PROMPTS))
        return sum(counts) / (time.perf_counter() - begun)


def completion(port: int, text: str, tokens: int) -> int:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0.0}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return int(answer["usage"]["completion_tokens"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--widen"]:
        widen(Path(sys.argv[2]))
    else:
        main()
