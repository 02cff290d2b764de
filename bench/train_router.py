"""Writes the router's shipped weights from the developers' data: the same bytes every time.

``python bench/train_router.py`` writes; with ``--check`` it trains anew and compares, exit 1 when a byte differs.
Needs ``shared/data`` beside the checkout; it takes about 40 s on one core.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import _sets
from _train_cascade import fit_after
from _train_prompt import fit

WEIGHTS = Path(__file__).resolve().parent.parent / "hybrid" / "routing" / "weights" / "router-1.json"
VERSION = "router-1"
SOURCES = (
    "routing/routellm_mmlu.jsonl",
    "routing/mmlu_pro_multi_model.jsonl",
    "routing/mmlu_pro_after.jsonl",
    "routing/zeroeval_crux.jsonl",
    "routing/llmrouter_dcrouter_train.jsonl",
    "assistant/clinc150.jsonl",
    "assistant/banking77.jsonl",
    "assistant/hwu64_train.jsonl",
    "complex/arena_hard_v2.0.jsonl",
    "complex/gsm8k_train_questions.jsonl",
)


def body() -> dict[str, Any]:
    """Train everything that a weights file holds."""
    sets, assistant = _sets.pairs(), _sets.assistant()
    head = {"version": VERSION, "sources": list(SOURCES)}
    return head | fit(sets, assistant) | {"after": fit_after(sets, assistant)}


def encode(weights: dict[str, Any]) -> bytes:
    """Write one line for each key, numbers as they are."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in weights.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def main() -> None:
    """Train, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the file in place, write nothing")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    trained = encode(body())
    if not arguments.check:
        arguments.out.write_bytes(trained)
        return
    if arguments.out.read_bytes() != trained:
        sys.exit("the weights in place are not what this training gives")


if __name__ == "__main__":
    main()
