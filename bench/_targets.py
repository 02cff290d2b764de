"""The gain between other small and large models, where the data has them: it takes noise out of the target to fit.

One pair says of one row -1, 0 or 1. Several pairs of like strength say how much a larger model helps there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from _sets import CRUX, LLMROUTER, Row, read

OWN = 0.5
"""Weight of the row's own pair in the target; the mean of the others has the rest."""

PRO_SMALL, PRO_LARGE = ("weak_phi3mini", "mistral7b", "llama31_8b"), ("llama31_70b", "gemini15pro", "qwen15_72b")
MIXED_SMALL = (LLMROUTER[0], "qwen2.5-7b-instruct", "gemma-2-9b-it", "llama-3.1-8b-instruct")
MIXED_LARGE = (LLMROUTER[1], "llama-3.3-nemotron-super-49b-v1")
CRUX_SMALL, CRUX_LARGE = slice(0, 15), slice(24, 44)
"""Of the 51 models of crux in the order of their success: those near the pair's small and near its large one."""


def targets(sets: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Return the gain to fit by row id, for the rows of these sets that several pairs of models answered."""
    others = _other_gains() if sets else {}
    return {r.id: OWN * r.gain + (1 - OWN) * others[r.id] for rows in sets.values() for r in rows if r.id in others}


def _other_gains() -> dict[str, float]:
    crux = read("routing/zeroeval_crux.jsonl")
    order = sorted(crux[0]["correct"], key=lambda m: (sum(r["correct"][m] for r in crux), m))
    assert set(CRUX) <= set(order)
    gains = {r["id"]: _gain(r["correct"], order[CRUX_SMALL], order[CRUX_LARGE]) for r in crux}
    gains |= {r["id"]: _gain(r, PRO_SMALL, PRO_LARGE) for r in read("routing/mmlu_pro_multi_model.jsonl")}
    mixed = read("routing/llmrouter_dcrouter_train.jsonl")
    return gains | {r["id"]: _gain(r["scores"], MIXED_SMALL, MIXED_LARGE) for r in mixed}


def _gain(quality: Mapping[str, Any], small: Sequence[str], large: Sequence[str]) -> float:
    return _mean(quality, large) - _mean(quality, small)


def _mean(quality: Mapping[str, Any], models: Sequence[str]) -> float:
    known = [quality[m] for m in models if quality.get(m) is not None]
    return float(sum(known)) / len(known)
