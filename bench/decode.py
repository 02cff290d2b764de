"""Decode and prefill, ours against stock mlx-lm, on the starter.

a) one process, the same loaded weights: ``Client.stream`` against ``mlx_lm.stream_generate``.
b) alternating child processes on a host without Metal or CUDA: our CPU path against stock mlx-lm with the BLAS it
   bundles, in its three settings: dequantised to f32, packed with scales cast to f32, packed with the file's 16-bit
   scales. The last is printed beside, never boasted of: it runs at a third of a token a second on x86.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from _rows import row

PROMPT = "Tell me a long story about a lighthouse keeper, a storm, a lost ship and what the keeper learned from it. "
STOCK = ("f32", "packed-f32", "packed-f16")
FEW = {"packed-f16": (8, 2)}  # prompt and answer tokens where more would take minutes


def main() -> None:
    """Print all rows, or with ``--child`` the figures of one setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="model folder; the starter in the store if left out")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", choices=["same", "stock"], default=None)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.model or starter()
    if options.child:
        print(json.dumps(child(options.child, folder)))
        return
    if options.only != "stock":
        same_weights(folder, options.rounds, options.tokens)
    if options.only != "same":
        against_stock(folder, options.rounds)


def starter() -> Path:
    """Return the starter's folder in the store."""
    from device.store import Store

    return Store().get("smollm2-135m").path


def request(text: str, tokens: int) -> Any:
    from hybrid.wire.types import GenerateRequest, Message, Role, Sampling

    return GenerateRequest(messages=(Message(role=Role.USER, content=text),), sampling=Sampling(max_tokens=tokens))


def same_weights(folder: Path, rounds: int, tokens: int) -> None:
    """Row a: ``Client.stream`` against mlx-lm's stream in turn; median time between tokens, the first excluded."""
    from device import runtime
    from device.engine import MLXEngine
    from hybrid.client import Client

    engine = MLXEngine.open(folder, model_id="smollm2-135m")
    loaded = engine._core._loaded  # noqa: SLF001 - the same weights for both is the point
    ids = engine._framer.ids(request(PROMPT, tokens))  # noqa: SLF001
    stream_generate = runtime.mlx_lm("generate").stream_generate

    def stock() -> float:
        return rate(stream_generate(loaded.model, loaded.tokenizer, ids, max_tokens=tokens))

    def ours(client: Client) -> float:
        with client.stream(PROMPT, max_tokens=tokens, temperature=0.0) as stream:
            return rate(stream.text_deltas())

    def rate(items: Iterable[Any]) -> float:
        times = [time.perf_counter() for _ in items]
        return 1 / statistics.median(b - a for a, b in pairwise(times[1:]))

    figures: dict[str, list[float]] = {"ours": [], "stock": []}
    note = {"path": engine.status().path, "weights": engine.status().weights, "needed": 0.98}
    with Client(engine=engine, policy="only_on_device") as client:
        runs: dict[str, Callable[[], float]] = {"ours": lambda: ours(client), "stock": stock}
        for run in runs.values():
            run()
        for at in range(rounds):
            for name in sorted(runs, reverse=bool(at % 2)):
                figures[name].append(runs[name]())
    asyncio.run(engine.close())
    row("decode.same_weights", ours=figures["ours"], baseline=figures["stock"], unit="tok/s", **note)


def against_stock(folder: Path, rounds: int) -> None:
    """Rows b: alternating child processes, decode and prefill."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in ("ours", *STOCK)}
    for at in range(rounds):
        for name, found in figures.items():
            if name not in FEW or at == 0:
                found.append(run_child(name, folder))
    for name in STOCK:
        for what in ("decode", "prefill"):
            ours = [figure[what] for figure in figures["ours"]]
            theirs = [figure[what] for figure in figures[name]]
            row(f"{what}.stock.{name}", ours=ours, baseline=theirs, unit="tok/s", threads=figures["ours"][0]["threads"])


def run_child(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--model", str(folder), "--child", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def child(name: str, folder: Path) -> dict[str, float]:
    """Measure one setting in this process: prompt tokens to the first token, then tokens after it, per second."""
    prompt, answer = FEW.get(name, (128, 48))
    text = (PROMPT * 20)[: prompt * 5]
    return ours_alone(folder, text, answer) if name == "ours" else stock_alone(name, folder, text, prompt, answer)


def ours_alone(folder: Path, text: str, answer: int) -> dict[str, float]:
    from device import runtime
    from device.engine import MLXEngine

    engine = MLXEngine.open(folder, model_id="smollm2-135m")

    async def ask() -> Any:
        timing = None
        async for chunk in engine.generate(request(text, answer)):
            timing = chunk.timing or timing
        await engine.close()
        return timing

    timing = asyncio.run(ask())
    return {"decode": timing.decode_tps, "prefill": timing.prefill_tps, "threads": runtime.describe().threads}


def stock_alone(name: str, folder: Path, text: str, prompt: int, answer: int) -> dict[str, float]:
    """Do what a user of mlx-lm does, with nothing of ours loaded."""
    import mlx.core as mx
    from mlx_lm import load, stream_generate
    from mlx_lm.utils import dequantize_model

    model, tokenizer = load(str(folder))[:2]
    if name != "packed-f16":
        model.set_dtype(mx.float32)
    if name == "f32":
        dequantize_model(model)
    mx.eval(model.parameters())
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    ids = ids[-prompt:] if name in FEW else ids
    times, prefill = [], 0.0
    for response in stream_generate(model, tokenizer, ids, max_tokens=answer):
        times.append(time.perf_counter())
        prefill = response.prompt_tps
    return {"decode": (len(times) - 1) / (times[-1] - times[0]), "prefill": prefill, "threads": 0}


if __name__ == "__main__":
    main()
