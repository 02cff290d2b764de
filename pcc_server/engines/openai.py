"""Engines of others behind the node's protocol: vLLM, SGLang, llama.cpp, Ollama, over HTTP/1.1 and SSE.

Plaintext crosses loopback here and lives in a program that is not ours: the configuration digest says so
(``openai:KIND``), and the manifest names no weights, because nobody measured them.
"""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybrid.wire.errors import SealedCode
from hybrid.wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, Usage
from pcc_server.dialled import Dial
from pcc_server.errors import Sealed

from .http import OK, Ask, EngineFailure, Patience, Unreachable, events, fetch
from .openai_kinds import Kind
from .openai_reply import MAX_COUNT, Delta, read_delta

DONE = "[DONE]"
CHAT = "/v1/chat/completions"
EVENTS_PER_TOKEN = 4
SPARE_EVENTS = 256  # roles, reasoning, usage
CHARS_PER_TOKEN = 512
FRAME_TOKENS = 64  # what a template may put around one message, at most
SALT_BYTES = 32
_CODES = {
    400: SealedCode.BAD_REQUEST,
    404: SealedCode.MODEL_UNAVAILABLE,
    413: SealedCode.BAD_REQUEST,
    422: SealedCode.BAD_REQUEST,
    429: SealedCode.OVERLOADED,
    503: SealedCode.OVERLOADED,
}


class Served(NamedTuple):
    """What the engine says it serves: a name, and tokens of context."""

    model_id: str
    context: int


class OpenAIEngine:
    """One model of one engine. Every request takes a connection of its own, and closing that is how it is cancelled."""

    def __init__(
        self,
        kind: Kind,
        served: Served,
        dial: Dial,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        rng: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self.model_id, self.context_size = served
        self._kind = kind
        self._dial = dial
        self._patience = patience
        self._rng = rng

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the framed prompt as the engine counts them.

        Where it counts none, an upper bound: a token has at least one byte. Raises Sealed.
        """
        messages = _messages(request)
        with _in_our_words():
            if self._kind.counts == "vllm":
                body = {
                    "model": self.model_id,
                    "messages": messages,
                    "chat_template_kwargs": {"enable_thinking": False},
                }
                return _number(await self._ask("/tokenize", body), "count")
            if self._kind.counts == "llama.cpp":
                framed = await self._ask("/apply-template", {"messages": messages, **self._kind.fixed})
                tokens = await self._ask("/tokenize", {"content": framed.get("prompt"), "add_special": True})
                return _length(tokens, "tokens")
            if self._kind.counts == "llama-cpp-python":
                text = "".join(message["content"] for message in messages)
                words = _number(await self._ask("/extras/tokenize/count", {"input": text}), "count")
                return words + FRAME_TOKENS * len(messages)
        return sum(len(message["content"].encode()) + FRAME_TOKENS for message in messages)

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, value = await fetch(self._dial, Ask(path=path, body=body), self._patience)
        if status != OK or not isinstance(value, dict):
            raise EngineFailure(status)
        return value

    async def generate(self, request: GenerateRequest, *, partition: str = "") -> AsyncIterator[Chunk]:
        """Stream the answer. Raises Sealed.

        partition: whose kept context may be used, 64 hex digits; "" keeps nothing.
        """
        prompt = await self.count_tokens(request)
        if prompt >= self.context_size:
            raise Sealed(SealedCode.CONTEXT_LENGTH, self.context_size, prompt + 1)
        most = min(request.sampling.max_tokens, self.context_size - prompt)
        reading = Reading(self._kind, most, prompt, own=bool(partition))
        yield Chunk(progress=(0, prompt))
        with _in_our_words():
            body = self.body(request, most, partition)
            async with contextlib.aclosing(self._deltas(body, most)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    for chunk in reading.take(delta):
                        yield chunk
            yield reading.end(_params(request, most))

    async def _deltas(self, body: dict[str, Any], most: int) -> AsyncIterator[Delta]:
        """Yield what the engine says until it says that it is done. Raises EngineFailure when it never does."""
        left = EVENTS_PER_TOKEN * most + SPARE_EVENTS
        said = events(self._dial, Ask(path=CHAT, body=body), self._patience)
        async with contextlib.aclosing(said) as running:  # type: ignore[type-var]
            async for event in running:
                if event == DONE:
                    return
                left -= 1
                if not left:
                    break
                yield read_delta(event)
        raise EngineFailure

    def body(self, request: GenerateRequest, most: int, partition: str) -> dict[str, Any]:
        """Return the JSON of a chat request. Raises Sealed for what no field of this engine says.

        most: tokens of the answer, at most.
        """
        sampling, kind = request.sampling, self._kind
        body: dict[str, Any] = {
            "model": self.model_id,
            "messages": _messages(request),
            "max_tokens": most,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
            **kind.fixed,
        }
        if kind.penalty:
            body[kind.penalty] = sampling.repetition_penalty
        elif sampling.repetition_penalty != 1.0:
            raise Sealed(SealedCode.BAD_REQUEST)
        if sampling.seed is not None:
            body["seed"] = sampling.seed % kind.seeds
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if kind.salted:  # without a partition a salt that nobody else has: nothing to share
            body["cache_salt"] = partition or self._rng(SALT_BYTES)
        return body

    async def usage(self, body: dict[str, Any], most: int) -> Usage:
        """Run a request for its counts alone. Raises EngineFailure."""
        told = Usage()
        async with contextlib.aclosing(self._deltas(body, most)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                told = delta.usage or told
        return told

    async def close(self) -> None:
        """Nothing to free: the engine is not ours."""


@dataclass(slots=True)
class Reading:
    """What has come of one answer. own: whether kept context was the caller's own, so that its use may be told."""

    kind: Kind
    most: int
    prompt: int
    own: bool = field(kw_only=True)
    now: Callable[[], float] = field(default=time.perf_counter, kw_only=True)
    tokens: int = 0
    chars: int = 0
    begun: float = 0.0
    first: float = 0.0
    finish: FinishReason | None = None
    usage: Usage | None = None

    def __post_init__(self) -> None:
        """Start the clock."""
        self.begun = self.now()

    def take(self, delta: Delta) -> Iterator[Chunk]:
        """Yield what to show of an event. Raises EngineFailure for more than was asked for."""
        self.usage = delta.usage or self.usage
        if delta.text:
            self.chars += len(delta.text)
            if self.finish or self.chars > CHARS_PER_TOKEN * self.most:
                raise EngineFailure
            if not self.first:
                self.first = self.now()
                yield Chunk(progress=(self.prompt, self.prompt))
            counted = 1 if self.tokens < self.most else 0
            self.tokens += counted
            yield Chunk(text=delta.text, tokens=counted)
        self.finish = delta.finish or self.finish

    def end(self, params: dict[str, str | int]) -> Chunk:
        """Return the last chunk. Raises EngineFailure when the engine ended without saying why, or counts wrongly."""
        if self.finish is None or (self.usage is None and self.kind.tells_usage):
            raise EngineFailure
        usage = self.usage or Usage(input=self.prompt, output=self.tokens)
        if usage.output > self.most:
            raise EngineFailure
        return Chunk(
            tokens=max(0, usage.output - self.tokens),
            finish_reason=self.finish,
            usage=usage if self.own else Usage(input=usage.input, output=usage.output),
            timing=self._timing(usage),
            params=params,
        )

    def _timing(self, usage: Usage) -> EngineTiming:
        end = self.now()
        prefill_s, decode_s = (self.first or end) - self.begun, end - (self.first or end)
        return EngineTiming(
            prefill_s=prefill_s,
            decode_s=decode_s,
            prefill_tps=(usage.input - usage.cached_input) / prefill_s if prefill_s > 0 else 0.0,
            decode_tps=max(0, usage.output - 1) / decode_s if decode_s > 0 else 0.0,
        )


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except Unreachable:
        raise Sealed(SealedCode.MODEL_UNAVAILABLE) from None
    except EngineFailure as failure:
        raise Sealed(_CODES.get(failure.status, SealedCode.ENGINE_FAILED)) from None


def _messages(request: GenerateRequest) -> list[dict[str, str]]:
    return [{"role": str(message.role), "content": message.content} for message in request.messages]


def _params(request: GenerateRequest, most: int) -> dict[str, str | int]:
    """Return the sampling parameters as sent, decimals as strings (SPEC 9)."""
    sampling = request.sampling
    params: dict[str, str | int] = {
        "max_tokens": most,
        "temperature": repr(float(sampling.temperature)),
        "top_p": repr(float(sampling.top_p)),
        "repetition_penalty": repr(float(sampling.repetition_penalty)),
    }
    if sampling.seed is not None:
        params["seed"] = sampling.seed
    if sampling.stop:
        params["stop"] = json.dumps(sampling.stop)
    return params


def _number(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    if type(number) is not int or not 0 <= number <= MAX_COUNT:
        raise EngineFailure
    return number


def _length(value: dict[str, Any], key: str) -> int:
    items = value.get(key)
    if not isinstance(items, list):
        raise EngineFailure
    return len(items)
