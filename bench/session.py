"""Second turn of a session with 1,000 tokens of history: time to the first token, warm against cold, same ids."""

import argparse
import asyncio
import time
from pathlib import Path

from _rows import row
from decode import starter

from device.engine import MLXEngine
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling

HISTORY_TOKENS = 1000
SENTENCE = "The keeper wrote into the log that the wind had turned to the north and that no ship had passed. "


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="model folder; the starter in the store if left out")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    engine = MLXEngine.open(options.model or starter(), model_id="smollm2-135m")
    asyncio.run(measure(engine, options.rounds))


async def measure(engine: MLXEngine, rounds: int) -> None:
    """Alternate warm and cold runs, each in partitions of its own."""
    history = await first_turn(engine)
    warm, cold, reused, total = [], [], 0, 0
    for at in range(rounds):
        name = f"warm{at}"
        answer, _, _, _ = await ask(engine, [(Role.USER, history)], name, tokens=8)
        turns = [(Role.USER, history), (Role.ASSISTANT, answer), (Role.USER, f"And what came on day {at}?")]
        _, seconds, reused, total = await ask(engine, turns, name, tokens=2)
        warm.append(seconds)
        _, seconds, none, _ = await ask(engine, turns, f"cold{at}", tokens=2)
        assert none == 0
        cold.append(seconds)
        engine.release(name)
        engine.release(f"cold{at}")
    status = engine.status()
    await engine.close()
    row(
        "session.second_turn_first_token",
        ours=warm,
        baseline=cold,
        unit="s",
        smaller_is_better=True,
        needed=0.10,
        input_tokens=total,
        cached_tokens=reused,
        path=status.path,
    )


async def first_turn(engine: MLXEngine) -> str:
    """Return a text that frames to about the wanted number of tokens."""
    text = SENTENCE
    while await engine.count_tokens(request([(Role.USER, text)], 1)) < HISTORY_TOKENS:
        text += SENTENCE
    return text


def request(turns: list[tuple[Role, str]], tokens: int) -> GenerateRequest:
    messages = tuple(Message(role=role, content=text) for role, text in turns)
    return GenerateRequest(messages=messages, sampling=Sampling(max_tokens=tokens))


async def ask(
    engine: MLXEngine, turns: list[tuple[Role, str]], partition: str, *, tokens: int
) -> tuple[str, float, int, int]:
    """Return the text, seconds to its first token, tokens served from kept context, and prompt tokens."""
    begun, first, text, cached, total = time.perf_counter(), 0.0, "", 0, 0
    async for chunk in engine.generate(request(turns, tokens), partition=partition):
        first = first or (time.perf_counter() - begun if chunk.tokens else 0.0)
        text += chunk.text
        if chunk.usage:
            cached, total = chunk.usage.cached_input, chunk.usage.input
    return text, first, cached, total


if __name__ == "__main__":
    main()
