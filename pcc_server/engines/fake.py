"""The fake engine: deterministic words instead of a model, for tests and for measuring everything around a model.

It is called ``fake`` wherever it shows: model id, statement, configuration digest, start-up lines, every answer.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

from hybrid.wire.errors import SealedCode
from hybrid.wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, Usage
from pcc_server.config import FAKE_MODEL, Settings
from pcc_server.errors import Sealed

from . import Loaded

CONTEXT_TOKENS = 8192
BASE_TOKENS = 16  # of an answer to an empty request; each character of the request adds one
SLOW_FIRST_TOKEN_S = 5.0
HANGS_AT = 5  # the token that never comes, with the fault "hang"
NO_FILES = b"[]"  # canonical JSON of the manifest of a model without files


def open_fake(settings: Settings) -> Loaded:
    """Open it; there is nothing to load."""
    first_s = SLOW_FIRST_TOKEN_S if settings.fault == "slow_first_token" else 0.0
    hangs_at = HANGS_AT if settings.fault == "hang" else 0
    engine = FakeEngine(delay_s=settings.fake_delay_ms / 1000, first_delay_s=first_s, hangs_at=hangs_at)
    return Loaded(engine=engine, manifest=hashlib.sha256(NO_FILES).digest(), stalled_s=engine.stalled_s)


class FakeEngine:
    """Answers with ``16 + characters of the request`` numbered words, or ``max_tokens`` of them if that is less.

    delay_s: pause before each token.  first_delay_s: a further one before the first.  hangs_at: the token that never
    comes, 0 for none.
    """

    model_id = FAKE_MODEL
    context_size = CONTEXT_TOKENS

    def __init__(self, *, delay_s: float = 0.0, first_delay_s: float = 0.0, hangs_at: int = 0) -> None:
        self._delay_s = delay_s
        self._first_delay_s = first_delay_s
        self._hangs_at = hangs_at
        self._hung_at: float | None = None
        self.running = 0
        self.started = 0

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Count words and one token per message."""
        return sum(1 + len(message.content.split()) for message in request.messages)

    async def generate(self, request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:  # noqa: ARG002 - it keeps nothing to share
        """Stream the words. Raises Sealed when the request exceeds the context."""
        prompt = await self.count_tokens(request)
        if prompt >= self.context_size:
            raise Sealed(SealedCode.CONTEXT_LENGTH, self.context_size, prompt + 1)
        self.started += 1
        self.running += 1
        try:
            async for chunk in self._words(request, prompt):
                yield chunk
        finally:
            self.running -= 1

    async def _words(self, request: GenerateRequest, prompt: int) -> AsyncIterator[Chunk]:
        begun = time.perf_counter()
        yield Chunk(progress=(0, prompt))
        await asyncio.sleep(self._first_delay_s)
        yield Chunk(progress=(prompt, prompt))
        wanted = BASE_TOKENS + sum(len(message.content) for message in request.messages)
        given = min(wanted, request.sampling.max_tokens, self.context_size - prompt)
        for number in range(1, given + 1):
            await asyncio.sleep(self._delay_s)
            if number == self._hangs_at:
                await self._hang()
            yield Chunk(text=f"token {number} " if number > 1 else "fake engine: token 1 ", tokens=1)
        yield Chunk(
            finish_reason=FinishReason.STOP if given == wanted else FinishReason.LENGTH,
            usage=Usage(input=prompt, output=given),
            timing=EngineTiming(decode_s=time.perf_counter() - begun),
            params={"max_tokens": request.sampling.max_tokens},
        )

    async def _hang(self) -> None:
        self._hung_at = self._hung_at or time.monotonic()
        await asyncio.Event().wait()

    def stalled_s(self) -> float:
        """Return for how long it has hung."""
        return time.monotonic() - self._hung_at if self._hung_at else 0.0

    async def close(self) -> None:
        """Nothing to free."""
