"""What the recognisers find, what they flag for nothing, and what they cost; no text is ever printed.

One JSON line. Recall: share of gold spans covered to at least 80 % of their characters that are no space, over
``pii/presidio_generated_large`` (routing design, C11), and over documents of our own, which fill the same templates
with the formats of other countries. False alarms: texts with a structured span, or that would stay on the device.
Names and addresses, which only ``detect="strict"`` looks for, are reported as they are: light cues, not a tagger.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from _rows import row
from _sets import DATA, read

from hybrid.routing.recognisers.recognise import RECOGNISERS, private, recognise

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' generator of documents

from tests.routing.documents import Document, covered, documents

TYPES = ("CREDIT_CARD", "PHONE_NUMBER", "EMAIL_ADDRESS", "IBAN_CODE", "US_SSN", "IP_ADDRESS")
LIGHT = ("PERSON", "ADDRESS")
OTHERS = "Presidio's patterns alone on this file, as stated in the routing design (Q8); not measured here"
PRESIDIO = 0.81
OWN = 5000
LENGTH = 2000
ROUNDS = 5


def strict(text: str) -> Any:
    return recognise(text, strict=True)


def theirs(types: Sequence[str]) -> list[Document]:
    return [_document(r, types) for r in read("pii/presidio_generated_large.jsonl")]


def _document(r: dict[str, Any], types: Sequence[str]) -> Document:
    gold = ((s["start_position"], s["end_position"], s["entity_type"]) for s in r["spans"])
    return Document(r["full_text"], tuple(g for g in gold if g[2] in types))


def recall(docs: Iterable[Document], find: Callable[[str], Any]) -> dict[str, float]:
    there: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for doc in docs:
        spans = [(s.start, s.end) for s in find(doc.text)]
        for start, end, name in doc.gold:
            there.update((name, "all"))
            hit.update((name, "all") if covered(doc.text, spans, start, end) else ())
    return {name: round(hit[name] / there[name], 4) for name in sorted(there)}


def flagged(texts: Sequence[str], find: Callable[[str], Any] = recognise) -> dict[str, Any]:
    found = [find(text) for text in texts]
    return {
        "texts": len(texts),
        "with_a_span": sum(map(bool, found)),
        "private": sum(map(private, found)),
        "private_share": round(sum(map(private, found)) / len(texts), 5),
    }


def utterances() -> dict[str, list[str]]:
    return {n: [r["text"] for r in read(f"assistant/{n}.jsonl")] for n in ("clinc150", "banking77", "hwu64_train")}


def prompts() -> dict[str, list[str]]:
    names = (
        "complex/arena_hard_v2.0",
        "complex/gsm8k_train_questions",
        "routing/routellm_mmlu",
        "routing/zeroeval_crux",
    )
    plain = {name: [r["prompt"] for r in read(f"{name}.jsonl")] for name in names}
    mixed = [r["prompt"] for r in read("routing/llmrouter_dcrouter_train.jsonl")]
    return {**plain, "routing/llmrouter": mixed, "rag/xquad_en": [r["context"] for r in read("rag/xquad_en.jsonl")]}


def cut(texts: Sequence[str]) -> list[str]:
    """400 texts of 2,000 characters, as in bench/routing.py."""
    some = [t for t in texts if t.strip()]
    return [(t * (1 + LENGTH // len(t)))[:LENGTH] for t in some[:: max(1, len(some) // 400)][:400]]


def microseconds(texts: Sequence[str]) -> dict[str, Any]:
    for text in texts[:50]:
        recognise(text)
    rounds = [sorted(_timed(text) for text in texts) for _ in range(ROUNDS)]
    return {f"p{p}": round(statistics.median(r[int(len(r) * p / 100)] for r in rounds), 1) for p in (50, 95, 99)} | {
        "texts": len(texts),
        "rounds": ROUNDS,
    }


def _timed(text: str) -> float:
    start = time.perf_counter_ns()
    recognise(text)
    return (time.perf_counter_ns() - start) / 1e3


def main() -> None:
    if not DATA.is_dir():
        sys.exit("the data of others are not beside this checkout: ../shared/data")
    asked, hard = utterances(), prompts()
    everything = [text for texts in asked.values() for text in texts]
    long = cut([text for texts in hard.values() for text in texts])
    found = recall(theirs(TYPES), recognise)
    row(
        "identifiers found, Presidio's generated documents",
        ours=[found["all"]],
        baseline=[PRESIDIO],
        baseline_name=OTHERS,
        unit="recall",
        recall=found,
        recall_other_countries=recall(documents(OWN, seed=1), recognise),
        recall_strict=recall(theirs(LIGHT), strict),
        false_alarms={name: flagged(texts) for name, texts in (asked | hard).items()},
        false_alarms_strict={"assistant": flagged(everything, strict)},
        microseconds={
            "assistant": microseconds(everything[::95]),
            "2000 characters": microseconds(long),
            "2000 characters with digits": microseconds([t for t in long if any(map(str.isdigit, t))]),
        },
        recognisers=[r.__name__ for r in RECOGNISERS],
    )


if __name__ == "__main__":
    main()
