"""Time of ``decide()`` from text to finished decision, and how the score ranks the developers' data.

One JSON line. Latency: 400 prompts cut to 2,000 characters, 50 warm-up calls, 5 rounds, garbage collection on, one
thread. Quality needs ``shared/data``; without it the prompts are made up and ``quality`` is null. APGR and the rows of
each set are defined in the routing design, C11; nothing in the scorer was fitted to them.
"""

import json
import statistics
import time
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from _rows import row

from hybrid.routing.complexity import StructuralScorer
from hybrid.routing.decide import decide
from hybrid.routing.features import extract
from hybrid.routing.labels import Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import LEAVING, Signals
from hybrid.wire.types import GenerateRequest, Message, Role

ROOT = Path(__file__).resolve().parent.parent
DATA = next((d for d in (ROOT / "shared/data", ROOT.parent / "shared/data") if d.is_dir()), None)
SCORER = StructuralScorer()
LIMIT_MS = 1.0
MADE_UP = "Compare plan 3 with plan 4 step by step: costs (in $), risks, and what must be done by Friday?\n"


def read(name: str) -> list[dict[str, Any]]:
    assert DATA is not None
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").split("\n") if line]


def length(text: str) -> float:
    return float(len(text))


def score(text: str) -> float:
    return SCORER.score(extract(text)).value


def pairs() -> dict[str, tuple[list[str], list[float], list[float]]]:
    """Prompts, quality of the weak and of the strong model, for each labelled set (ORIGINS.md)."""
    mmlu = [r for r in read("routing/routellm_mmlu.jsonl") if not r["contaminated"]]
    pro, crux = read("routing/mmlu_pro_multi_model.jsonl"), read("routing/zeroeval_crux.jsonl")
    mixed = read("routing/llmrouter_dcrouter_train.jsonl")
    weak, strong = "Qwen2.5-3B-Instruct", "Qwen2.5-72B-Instruct"
    return {
        "mmlu": columns(mmlu, "prompt", lambda r: (r["weak"], r["strong"])),
        "mmlu_pro": columns(pro, with_options, lambda r: (r["weak_phi3mini"], r["llama31_70b"])),
        "crux": columns(crux, "prompt", lambda r: (r["correct"][weak], r["correct"][strong])),
        "llmrouter": columns(
            mixed,
            "prompt",
            lambda r: (r["scores"]["mistral-7b-instruct-v0.3"], r["scores"]["llama-3.1-nemotron-51b-instruct"]),
        ),
    }


def with_options(r: dict[str, Any]) -> str:
    return "\n".join([r["prompt"], *(f"{chr(65 + i)}. {option}" for i, option in enumerate(r["options"]))])


def columns(rows: list[dict[str, Any]], prompt: Any, labels: Any) -> tuple[list[str], list[float], list[float]]:
    texts = [r[prompt] if isinstance(prompt, str) else prompt(r) for r in rows]
    both = [labels(r) for r in rows]
    return texts, [w for w, _ in both], [s for _, s in both]


def apgr(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> float:
    """Area under the performance gap recovered; inside a tie the expectation over random order (C11)."""
    low, high = sum(weak), sum(strong)
    rows = sorted(zip(scores, weak, strong, strict=True), key=lambda r: -r[0])
    curve, total = [0.0], float(low)
    for _, tied in groupby(rows, key=lambda r: r[0]):
        gains = [s - w for _, w, s in tied]
        for _ in gains:
            total += sum(gains) / len(gains)
            curve.append((total - low) / (high - low))
    return sum((a + b) / 2 for a, b in pairwise(curve)) / len(rows)


def share_up(texts: Sequence[str]) -> float:
    threshold = SCORER.threshold(LEAVING)
    return round(sum(score(t) >= threshold for t in texts) / len(texts), 4)


def quality() -> dict[str, Any] | None:
    if DATA is None:
        return None
    sets = pairs()
    ours = {
        name: round(apgr([score(t) for t in texts], weak, strong), 3) for name, (texts, weak, strong) in sets.items()
    }
    plain = {
        name: round(apgr([length(t) for t in texts], weak, strong), 3) for name, (texts, weak, strong) in sets.items()
    }
    assistant = {
        f.stem: [r["text"] for r in read(f"assistant/{f.name}") if r["intent"] != "oos"] for f in folder("assistant")
    }
    hard = {f.stem: [r["prompt"] for r in read(f"complex/{f.name}")] for f in folder("complex")}
    return {
        "apgr": ours,
        "apgr_mean": round(statistics.mean(ours.values()), 3),
        "apgr_prompt_length": plain,
        "apgr_prompt_length_mean": round(statistics.mean(plain.values()), 3),
        "share_above_threshold": {
            **{name: share_up(texts) for name, texts in (assistant | hard).items()},
            **{name: share_up(texts) for name, (texts, _, _) in sets.items()},
        },
    }


def folder(name: str) -> list[Path]:
    assert DATA is not None
    return sorted((DATA / name).glob("*.jsonl"))


def prompts() -> list[str]:
    texts = [MADE_UP * 30] * 400
    if DATA is not None:
        texts = [
            t for name in ("complex", "routing") for f in folder(name) if "after" not in f.stem for t in long_ones(f)
        ]
    step = max(1, len(texts) // 400)
    return [(t * (1 + 2000 // len(t)))[:2000] for t in texts[::step][:400]]


def long_ones(file: Path) -> list[str]:
    return [r["prompt"] for r in read(f"{file.parent.name}/{file.name}") if r["prompt"].strip()]


def call(text: str) -> int:
    request = GenerateRequest(messages=(Message(role=Role.USER, content=text),))
    start = time.perf_counter_ns()
    decide(request, Labels((typed(text),)), Signals(), Mode.AUTO, SCORER)
    return time.perf_counter_ns() - start


def main() -> None:
    texts = prompts()
    for text in texts[:50]:
        call(text)
    rounds = [sorted(call(text) / 1e6 for text in texts) for _ in range(5)]
    at = {p: [r[int(len(r) * p / 100)] for r in rounds] for p in (50, 95, 99)}
    row(
        "decide(), 2,000 characters, p95",
        ours=at[95],
        baseline=[LIMIT_MS] * len(rounds),
        baseline_name="the limit of the routing design, Q7",
        unit="ms",
        smaller_is_better=True,
        p50_ms=round(statistics.median(at[50]), 4),
        p95_ms=round(statistics.median(at[95]), 4),
        p99_ms=round(statistics.median(at[99]), 4),
        scorer=SCORER.name,
        prompts="developers' data" if DATA else "made up",
        quality=quality(),
    )


if __name__ == "__main__":
    main()
