"""The developers' data as rows to train and judge a router on: prompts, quality of both models, group, fold.

Files, licences and pairs are described in ``shared/data/ORIGINS.md``; folds and the mixed set in the routing design.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = next((d for d in (ROOT / "shared/data", ROOT.parent / "shared/data") if d.is_dir()), ROOT / "shared/data")
FOLDS = 5
PAIRS = ("mmlu", "mmlu_pro", "crux", "llmrouter")
CRUX = ("Qwen2.5-3B-Instruct", "Qwen2.5-72B-Instruct")
LLMROUTER = ("mistral-7b-instruct-v0.3", "llama-3.1-nemotron-51b-instruct")
OUTSIDE = "oos"  # clinc150's word for "outside every intent": no assistant request


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt with the quality of the local and of the larger model, 0..1.

    group: what a fold keeps together (subject, category, intent, or the row itself).  after: signals of the local
    answer where the set has them.
    """

    id: str
    prompt: str
    weak: float
    strong: float
    group: str
    after: Mapping[str, Any] | None = None

    @property
    def gain(self) -> float:
        """Quality of the larger model less that of the local one."""
        return self.strong - self.weak


def pairs() -> dict[str, list[Row]]:
    """Return the four labelled pairs of models, `PAIRS` in order. Raises FileNotFoundError without the data."""
    return {"mmlu": _mmlu(), "mmlu_pro": _mmlu_pro(), "crux": _crux(), "llmrouter": _llmrouter()}


def assistant() -> list[Row]:
    """Return the assistant utterances, right for both models. Raises FileNotFoundError without the data."""
    return [
        Row(id=f"{stem}/{n}", prompt=r["text"], weak=1.0, strong=1.0, group=f"{stem}/{r['intent']}")
        for stem in ("clinc150", "banking77", "hwu64_train")
        for n, r in enumerate(read(f"assistant/{stem}.jsonl"))
        if r["intent"] != OUTSIDE
    ]


def fold(group: str) -> int:
    """Return the fold of a group, 0 to 4: the same on every machine."""
    return int(hashlib.sha256(f"cv|{group}".encode()).hexdigest()[:8], 16) % FOLDS


def mixed(hard: Mapping[str, Sequence[Row]], easy: Sequence[Row], *, seed: int = 0) -> list[Row]:
    """Draw mixed traffic: equal numbers of easy and hard rows, the hard sets in equal parts, without repeats."""
    rng = random.Random(seed)  # noqa: S311 - a draw of rows
    part = min(*(len(rows) for rows in hard.values()), len(easy) // len(hard))
    drawn = [row for name in sorted(hard) for row in rng.sample(list(hard[name]), part)]
    return drawn + rng.sample(list(easy), len(drawn))


def read(name: str) -> list[dict[str, Any]]:
    """Return the rows of one JSONL file of the data. Raises FileNotFoundError with what to do."""
    file = DATA / name
    if not file.is_file():
        message = f"{name} is not there: put the developers' data beside the checkout, at ../shared/data (ORIGINS.md)"
        raise FileNotFoundError(message)
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _mmlu() -> list[Row]:
    return [
        Row(id=r["id"], prompt=r["prompt"], weak=r["weak"], strong=r["strong"], group=r["domain"])
        for r in read("routing/routellm_mmlu.jsonl")
        if not r["contaminated"]
    ]


def _mmlu_pro() -> list[Row]:
    after = {r["id"]: r["after"] for r in read("routing/mmlu_pro_after.jsonl")}
    return [
        Row(
            id=str(r["id"]), prompt=_with_options(r), group=r["category"], after=after.get(r["id"]),
            weak=r["weak_phi3mini"], strong=r["llama31_70b"],
        )
        for r in read("routing/mmlu_pro_multi_model.jsonl")
    ]  # fmt: skip


def _crux() -> list[Row]:
    weak, strong = CRUX
    return [
        Row(
            id=str(r["id"]), prompt=r["prompt"], group=f"crux/{r['id']}",
            weak=r["correct"][weak], strong=r["correct"][strong],
        )
        for r in read("routing/zeroeval_crux.jsonl")
    ]  # fmt: skip


def _llmrouter() -> list[Row]:
    weak, strong = LLMROUTER
    return [
        Row(
            id=str(r["id"]), prompt=r["prompt"], group=f"llmrouter/{r['id']}",
            weak=r["scores"][weak], strong=r["scores"][strong],
        )
        for r in read("routing/llmrouter_dcrouter_train.jsonl")
    ]  # fmt: skip


def _with_options(r: Mapping[str, Any]) -> str:
    return "\n".join([r["prompt"], *(f"{chr(ord('A') + n)}. {option}" for n, option in enumerate(r["options"]))])
