"""What several engine tests need: requests in one line, answers as a whole, and the 15-line reference loop."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device import engine as engine_module
from device import runtime
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling

PROMPTS = [f"{start} {end}" for start in ("quick fox", "lazy dog", "seven", "box of jugs") for end in "abcde"]


@dataclass(frozen=True)
class Answer:
    """All chunks of one reply."""

    chunks: list[Chunk]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def last(self) -> Chunk:
        return self.chunks[-1]


def request(*turns: str, **sampling: Any) -> GenerateRequest:
    """Build a conversation of alternating user and assistant turns."""
    roles = (Role.USER, Role.ASSISTANT)
    messages = tuple(Message(role=roles[at % 2], content=text) for at, text in enumerate(turns))
    return GenerateRequest(messages=messages, sampling=Sampling(**{"max_tokens": 24, **sampling}))


async def collect(engine: Any, wanted: GenerateRequest, partition: str = "default") -> Answer:
    """Read one answer to its end."""
    return Answer([chunk async for chunk in engine.generate(wanted, partition=partition)])


def ask(engine: Any, *turns: str, partition: str = "default", **sampling: Any) -> Answer:
    """Ask and wait."""
    return asyncio.run(collect(engine, request(*turns, **sampling), partition))


def ask_all(engine: Any, wanted: Iterable[GenerateRequest]) -> list[Any]:
    """Ask all at once, each in a partition of its own; failures are returned in their place."""

    async def run() -> list[Any]:
        asked = [collect(engine, one, f"p{at}") for at, one in enumerate(wanted)]
        async with asyncio.timeout(60):  # who is never told would wait for ever
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


class Reference:
    """The model alone, greedy, without cache or batch: what the engine's text is measured against.

    wide: packed weights become f32 first, as on the engine's CPU path.
    """

    def __init__(self, folder: Path, *, wide: bool = False) -> None:
        utils = runtime.mlx_lm("utils")
        self.core = runtime.mlx()
        self.model, config = utils.load_model(folder)
        if wide:
            self.model.set_dtype(self.core.float32)
            utils.dequantize_model(self.model)
        self.tokenizer = utils.load_tokenizer(folder, eos_token_ids=config["eos_token_id"])

    def tokens(self, ids: list[int], count: int) -> list[int]:
        """Choose ``count`` tokens, or fewer if the end token comes."""
        out: list[int] = []
        while len(out) < count:
            scores = self.model(self.core.array([ids + out]))[0, -1]
            token = int(self.core.argmax(scores).item())
            if token in self.tokenizer.eos_token_ids:
                break
            out.append(token)
        return out

    def text(self, tokens: list[int]) -> str:
        """Decode an answer as mlx-lm streams it."""
        stream = self.tokenizer.detokenizer
        for token in tokens:
            stream.add_token(token)
        stream.finalize()
        return str(stream.text).rstrip("\ufffd")


class RaisingDetokenizer:
    """Fails at its third token, as a parser of tool calls might."""

    last_segment = ""

    def __init__(self) -> None:
        self.seen = 0

    def add_token(self, token: int) -> None:
        self.seen += 1
        if self.seen == 3:
            raise ValueError("planted in the detokeniser")

    def finalize(self) -> None:
        pass


def plant_detokenizer(patch: pytest.MonkeyPatch) -> None:
    """Give the requests with stop strings a detokeniser that raises."""
    real = engine_module.TextStream

    def stream(detokenizer: Any, stops: tuple[str, ...]) -> Any:
        return real(RaisingDetokenizer() if stops else detokenizer, stops)

    patch.setattr(engine_module, "TextStream", stream)
