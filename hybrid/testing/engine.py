"""A scripted engine: the real ``Engine`` protocol, words instead of weights."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from hybrid.compose import overflow
from hybrid.wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, TokenSignals, Usage

PIECES = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause in a script, in seconds."""

    seconds: float


Step = str | Wait | TokenSignals | Exception
Line = Step | Sequence[Step] | Callable[[GenerateRequest], str]


class FakeEngine:
    """Answers with what its script says, a word a token, in the order it is asked; the last line repeats.

    A line is a text, an exception to raise, a function of the request, or a list of texts, pauses, exceptions and
    token signals, which say how sure the model was of the words so far.
    running: requests under way now.  requests, partitions: what it was asked, in order.  One word is one token here.
    """

    def __init__(
        self, script: Sequence[Line] = ("ok",), *, model_id: str = "fake-device", context_size: int = 8192
    ) -> None:
        self._script = list(script) or ["ok"]
        self._model_id = model_id
        self._context_size = context_size
        self.running = 0
        self.requests: list[GenerateRequest] = []
        self.partitions: list[str] = []
        self.closed = False

    @property
    def model_id(self) -> str:
        """The id it answers under."""
        return self._model_id

    @property
    def context_size(self) -> int:
        """Its context, in words."""
        return self._context_size

    async def generate(self, request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:
        """Play the next line of the script. Raises ContextOverflowError when there are more words than context."""
        line = self._script[min(len(self.requests), len(self._script) - 1)]
        self.requests.append(request)
        self.partitions.append(partition)
        self.running += 1
        try:
            async for chunk in self._play(request, line):
                yield chunk
        finally:
            self.running -= 1

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Count words."""
        return sum(len(message.content.split()) + 1 for message in request.messages)

    async def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    async def _play(self, request: GenerateRequest, line: Line) -> AsyncIterator[Chunk]:
        needed = await self.count_tokens(request)
        if needed > self._context_size:
            raise overflow(needed=needed, limit=self._context_size)
        yield Chunk(progress=(needed, needed))
        left = request.sampling.max_tokens
        for step in _steps(request, line):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            if isinstance(step, TokenSignals):
                yield Chunk(signals=step)
                continue
            for piece in PIECES.findall(step):
                if not left:
                    yield _last(FinishReason.LENGTH, needed, request.sampling.max_tokens)
                    return
                left -= 1
                yield Chunk(text=piece, tokens=1)
                await asyncio.sleep(0)  # as a real engine: others run between two tokens
        yield _last(FinishReason.STOP, needed, request.sampling.max_tokens - left)


def _steps(request: GenerateRequest, line: Line) -> Sequence[Step]:
    if callable(line):
        return (line(request),)
    return (line,) if isinstance(line, str | Wait | TokenSignals | Exception) else line


def _last(finish: FinishReason, read: int, written: int) -> Chunk:
    timing = EngineTiming(prefill_s=0.01, decode_s=0.01, prefill_tps=read / 0.01, decode_tps=written / 0.01)
    return Chunk(finish_reason=finish, usage=Usage(input=read, output=written), timing=timing)
