"""``hybrid eval record``: the local model answers rows that can be checked; its signals and marks are written down."""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.render import Progress
from hybrid.cli.rows import rows
from hybrid.cli.terminal import safe, screen_of, talk

if TYPE_CHECKING:
    from hybrid.routing.checkable import Question
    from hybrid.wire.types import Engine

LONGEST = 256
"""Tokens of an answer where nothing else is asked for: enough for a sum written out, short enough for a laptop."""

TOGETHER = 4
"""Rows answered side by side; they share a step of the model."""


@click.command("record")
@click.option("--data", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="ROWS.jsonl",
              help="Rows with an answer that can be checked.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.jsonl",
              help="One line per row: id, prompt, weak, strong, after.")  # fmt: skip
@click.option("-m", "--model", metavar="ID", help="Model on the device; see hybrid list.")
@click.option("--max-tokens", metavar="N", default=LONGEST, type=click.IntRange(min=1), help="Longest answer.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Stop after so many rows.")
def command(*, data: Path, out: Path, model: str | None, max_tokens: int, limit: int | None) -> int:
    """Let the model on this device answer rows whose answer is known, greedily.

    weak is 1 where it was right, strong what the row says of the larger model, else 1. after holds what the router's
    cascade would have seen. OUT holds the prompts: it is yours to keep or delete. Nothing is sent.
    """
    with Progress(screen_of(sys.stderr)) as progress:
        how: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "limit": limit, "progress": progress}
        marks = [done["weak"] for done in _recorded(data, out, **how)]
    talk(f"{len(marks)} rows, {100 * sum(marks) / max(1, len(marks)):.1f} % right, in {safe(str(out))}")
    return 0


def _recorded(
    data: Path, out: Path, *, model: str | None, max_tokens: int, limit: int | None, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Write one line per row as it is done, in the order of the rows."""
    from hybrid import config
    from hybrid.local import DeviceModel
    from hybrid.routing.checkable import question

    settings = config.load({"model": model})
    engine = DeviceModel.find(settings.model, settings.models)
    questions = itertools.islice(rows(data, question), limit)
    with asyncio.Runner() as runner, out.open("w", encoding="utf-8") as file:
        try:
            for number in itertools.count(1):
                batch = list(itertools.islice(questions, TOGETHER))
                if not batch:
                    return
                for line in runner.run(_answered(engine, batch, max_tokens)):
                    file.write(json.dumps(line) + "\n")
                    yield line
                progress.show(f"… {number * TOGETHER} rows answered")
        finally:
            runner.run(engine.close())


async def _answered(engine: "Engine", questions: "Sequence[Question]", max_tokens: int) -> list[dict[str, Any]]:
    return await asyncio.gather(*(_answer(engine, question, max_tokens) for question in questions))


async def _answer(engine: "Engine", question: "Question", max_tokens: int) -> dict[str, Any]:
    from hybrid.routing.cascade import After
    from hybrid.wire.types import FinishReason, GenerateRequest, Message, Role, Sampling

    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    request = GenerateRequest(messages=(Message(role=Role.USER, content=question.prompt),), sampling=sampling)
    text, tokens, last = "", 0, None
    async for chunk in engine.generate(request, partition=""):
        text, tokens, last = text + chunk.text, tokens + chunk.tokens, chunk
    marks = dict(question.mark(text))
    right = marks.pop("right")
    cut = last is not None and last.finish_reason is FinishReason.LENGTH
    after = After.of(last.signals if last else None, text, n_tokens=tokens, hit_limit=cut, validity=marks)
    values = {name: round(value, 4) for name, value in after.to_dict().items()}
    return {
        "id": question.id, "prompt": question.prompt, "weak": float(right), "strong": question.strong, "after": values,
    }  # fmt: skip
