"""A stateless engine holds nothing of a request that has ended, however it ended, and no cache grows with content."""

import asyncio
import functools
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from device import engine as engine_module
from device import loader
from device.engine import MLXEngine
from device.errors import BadRequest, ContextOverflow, EngineFailed
from device.live import Live
from device.options import EngineOptions
from device.sampling import Guarded
from hybrid.wire.types import GenerateRequest, Sampling

from .support import collect, request

pytestmark = pytest.mark.mlx

PATIENCE_S = 10.0
REFUSED = "what no template takes"


@pytest.fixture
def stateless(tiny: Path) -> Iterator[MLXEngine]:
    opened = MLXEngine.open(tiny, model_id="tiny", options=EngineOptions(stateless=True, signals=False))
    yield opened
    asyncio.run(opened.close())


def held(kind: type) -> list[Any]:
    """Objects of a type that are alive. Cycles are not broken first: there must be none."""
    return [thing for thing in gc.get_objects() if type(thing) is kind]


def count() -> int:
    """Requests that are alive, other tests' constants among them."""
    return len(held(Live)) + len(held(GenerateRequest))


async def none_left(before: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while (now := count()) > before:
        assert time.monotonic() < until, now - before
        await asyncio.sleep(0.01)


async def finish(engine: MLXEngine) -> None:
    await collect(engine, request("quick fox", max_tokens=5, repetition_penalty=1.2, stop=("zzz",)))


async def cut(engine: MLXEngine) -> None:
    stream = engine.generate(request("lazy dog", max_tokens=2000))
    async for chunk in stream:
        if chunk.tokens:
            break
    await stream.aclose()  # type: ignore[attr-defined]


async def cut_while_read(engine: MLXEngine) -> None:
    task = asyncio.create_task(collect(engine, request("seven " * 500, max_tokens=2000)))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def overflow(engine: MLXEngine) -> None:
    with pytest.raises(ContextOverflow):
        await collect(engine, request("seven wizards " * 5000))


async def fail(engine: MLXEngine) -> None:
    with pytest.raises(EngineFailed):
        await collect(engine, request("box of jugs", seed=1))


async def refuse(engine: MLXEngine) -> None:
    with pytest.raises(BadRequest):
        await collect(engine, request(REFUSED))


@pytest.mark.parametrize("end", [finish, cut, cut_while_read, overflow, fail, refuse])
def test_nothing_of_a_request_outlives_it(
    stateless: MLXEngine, end: Callable[[MLXEngine], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(tokens: Any, _scores: Any) -> Any:
        raise ValueError(f"ids {tokens.tolist()}")

    def make(sampling: Sampling) -> list[Guarded]:
        return [Guarded(raising)] if sampling.seed else []

    template = TokenizerWrapper.apply_chat_template

    def refusing(self: Any, messages: Any, **named: Any) -> Any:
        if messages[-1]["content"] == REFUSED:
            raise ValueError(messages)
        return template(self, messages, **named)

    monkeypatch.setattr(engine_module, "processors", make)
    monkeypatch.setattr(TokenizerWrapper, "apply_chat_template", refusing)
    gc.collect()  # what other tests left
    gc.disable()
    try:
        asyncio.run(_ends(stateless, end))
    finally:
        gc.enable()


async def _ends(engine: MLXEngine, end: Callable[[MLXEngine], Any]) -> None:
    before = count()
    await end(engine)
    await none_left(before)


def test_control_a_request_that_is_still_running_is_seen(stateless: MLXEngine) -> None:
    async def run() -> None:
        before = count()
        stream = engine_stream(stateless)
        await anext(stream)
        assert count() == before + 2
        await stream.aclose()

    def engine_stream(engine: MLXEngine) -> Any:
        return engine.generate(request("quick fox", max_tokens=2000))

    asyncio.run(run())


def test_scores_of_the_last_token_do_not_wait_for_the_next_request(stateless: MLXEngine) -> None:
    asyncio.run(collect(stateless, request("quick fox", max_tokens=5)))
    turns = stateless._core._turns
    assert turns is not None
    batches = [steps._generator._generation_batch for steps in turns._generators]
    until = time.monotonic() + PATIENCE_S
    while any(batch._current_logprobs or batch._current_tokens is not None for batch in batches):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert asyncio.run(collect(stateless, request("quick fox", max_tokens=5))).text  # and it goes on


def sizes() -> dict[int, int]:
    caches = [thing for thing in gc.get_objects() if type(thing) is functools._lru_cache_wrapper]
    return {id(cache): cache.cache_info().currsize for cache in caches}


def test_no_cache_of_any_library_grows_with_what_is_asked(stateless: MLXEngine) -> None:
    words = ("quick", "lazy", "seven", "jugs {tool: 1}", "🦊 كلمة")
    asyncio.run(collect(stateless, request("warm", max_tokens=3)))
    before = sizes()
    for word in words:
        asyncio.run(collect(stateless, request(word, max_tokens=3, stop=(word,), temperature=0.5)))
    after = sizes()
    assert {cache: size for cache, size in after.items() if size > before.get(cache, 0)} == {}


def test_control_a_cache_keyed_by_content_is_seen() -> None:
    cached = functools.lru_cache(lambda word: word)
    before = sizes()
    cached("a prompt")
    assert sizes() != before


class _Tokenizer:
    def __init__(self, model: object) -> None:
        self.backend_tokenizer = self
        self.model = model


def test_a_tokenizer_that_cannot_forget_is_refused() -> None:
    with pytest.raises(EngineFailed, match="may keep words of past requests"):
        loader.keep_no_words(_Tokenizer(object()))
    with pytest.raises(EngineFailed):
        loader.keep_no_words(object())


def test_tokenizers_without_a_cache_are_taken() -> None:
    from tokenizers.models import WordLevel, WordPiece

    for model in (WordPiece({"a": 0}, unk_token="a"), WordLevel({"a": 0}, unk_token="a")):
        loader.keep_no_words(_Tokenizer(model))
