"""The starter model through the engine: needs it in the store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.engine import MLXEngine

from .support import Reference, ask, ask_all, request

pytestmark = [pytest.mark.mlx, pytest.mark.model]


@pytest.fixture(scope="module")
def opened(starter: Path) -> Iterator[MLXEngine]:
    engine = MLXEngine.open(starter, model_id="smollm2-135m")
    yield engine
    asyncio.run(engine.close())


def test_the_starter_knows_paris_and_the_second_turn_reuses_the_first(opened: MLXEngine) -> None:
    question = "What is the capital of France?"
    first = ask(opened, question)
    assert "Paris" in first.text
    second = ask(opened, question, first.text, "And of Italy?")
    assert "Rome" in second.text
    assert first.last.usage is not None
    assert second.last.usage is not None
    assert second.last.usage.cached_input >= first.last.usage.input


def test_the_starter_answers_like_a_plain_loop_alone_and_in_a_batch(opened: MLXEngine, starter: Path) -> None:
    questions = ["What is the capital of France?", "Write one sentence about the sea."]
    together = ask_all(opened, [request(question, max_tokens=12) for question in questions])
    reference = Reference(starter, wide=opened.status().weights == "f32")
    for question, answer in zip(questions, together, strict=True):
        ids = opened._framer.ids(request(question))
        assert answer.text == reference.text(reference.tokens(ids, 12))
