"""Fits the cascade's model: what the signals of a local answer add to the gain expected from the prompt alone.

A logistic model of (gain + 1) / 2 whose start is the log-odds of the prompt's gain, from models that never saw the
row's group. Signals are in standard scores of the answers they were fitted on, so a usual answer changes nothing.
Three sources, each for the signals it has: the published answers of mmlu_pro (readable, agreement), recordings of the
starter model (token statistics), and `PRIOR` where there is neither. Routing design C5.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _sets import Row
from _train_prompt import held_out

from hybrid.routing.cascade import After, prior, shapes

RECORDED = Path(__file__).resolve().parent / "after_starter.jsonl"
PUBLISHED = ("parse_ok", "agree")
TOKENS = ("lp_first", "margin_first", "entropy_first", "lp_q10", "lp_q50", "lp_min")
PRIOR: Mapping[str, tuple[float, float, float, float]] = {
    # weight per standard score, centre, scale, weight when absent
    "schema_ok": (-0.50, 0.95, 0.22, 0.0),
    "tool_ok": (-0.50, 0.95, 0.22, 0.0),
    "refusal": (0.40, 0.03, 0.17, 0.0),
    "hedge": (0.20, 0.03, 0.17, 0.0),
    "repeat": (0.25, 0.05, 0.15, 0.0),
    "hit_limit": (0.05, 0.10, 0.30, 0.0),
}
"""Signals that no file has. A broken call, a refusal or going round in circles makes a wrong answer likely, as an
unreadable one does in mmlu_pro; a hedge half as much. Length has no weight: it adds nothing once combined (C5)."""

PULL_PUBLISHED, PULL_TOKENS = 2.0, 20.0
"""Ridge, in rows: towards no effect, and for token statistics towards one effect shared by all of them."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One answer. start: what the prompt's gain starts with.  gain: as it turned out, -1..1.  kind: of a base rate."""

    after: After
    start: float
    gain: float
    kind: str


def fit_after(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row], *, seed: int = 0) -> dict[str, Any]:
    """Fit the ``after`` part of a weights file, numbers rounded."""
    return fit_lessons(published(sets, assistant, seed=seed), recorded())


def fit_lessons(answers: Sequence[Lesson], recordings: Sequence[Lesson]) -> dict[str, Any]:
    """Fit the model to published answers and to recordings; either may be empty."""
    terms: dict[str, tuple[float, float, float, float]] = dict(PRIOR)
    terms |= _fitted(PUBLISHED, answers, PULL_PUBLISHED, shared=False)
    terms |= _fitted(TOKENS, recordings, PULL_TOKENS, shared=True)
    rounded = {name: [round(value, 5) for value in terms[name]] for name in sorted(terms)}
    return {"bias": 0.0, "prompt": 1.0, "terms": rounded}


def published(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row], *, seed: int = 0) -> list[Lesson]:
    """Return the rows with signals of their answers, each with the gain that models without its group expect."""
    return [
        Lesson(After.from_dict(row.after), prior(gain), row.gain, row.group)
        for row, gain in held_out(sets, assistant, seed=seed).gains()
        if row.after
    ]


def recorded(file: Path = RECORDED) -> list[Lesson]:
    """Return the recordings of the starter model: numbers and marks, no text; the larger model counts as right."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Lesson(After.from_dict(r["after"]), 0.0, 1.0 - r["weak"], str(r["id"]).split("/")[0]) for r in rows]


def _fitted(
    names: Sequence[str], lessons: Sequence[Lesson], pull: float, *, shared: bool
) -> dict[str, tuple[float, float, float, float]]:
    """Fit some signals. shared: recordings, whose kinds have base rates of their own that must not become weights."""
    if not lessons:
        return {}
    shaped = [shapes(lesson.after) for lesson in lessons]
    table = np.array([[np.nan if s[n] is None else s[n] for n in names] for s in shaped], float)
    centre, scale = np.nanmean(table, axis=0), np.maximum(0.05, np.nanstd(table, axis=0))
    scores = np.nan_to_num(np.clip((table - centre) / scale, -3, 3))
    start = np.array([lesson.start for lesson in lessons])
    target = np.array([(lesson.gain + 1) / 2 for lesson in lessons])
    if shared:
        start = start + _levels(target, [lesson.kind for lesson in lessons])
    usual = np.array([SIGNS.get(n, 0.0) for n in names])
    weight = _logistic(scores * np.where(usual, usual, 1.0), start, target, pull, level=not shared, common=shared)
    weight = weight * np.where(usual, usual, 1.0)
    return {n: (float(w), float(c), float(s), 0.0) for n, w, c, s in zip(names, weight, centre, scale, strict=True)}


SIGNS = {"lp_first": 1.0, "lp_q10": 1.0, "lp_q50": 1.0, "lp_min": 1.0, "entropy_first": 1.0, "margin_first": -1.0}
"""Which way a token statistic, as `shapes` has it, speaks for the larger model: surprise does, a clear lead not."""


def _levels(target: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Return the log-odds of each kind's mean, half a row of each outcome added."""
    names = np.array(kinds)
    means = {k: (target[names == k].sum() + 0.75) / ((names == k).sum() + 1) for k in sorted(set(kinds))}
    mean = np.array([min(0.99, max(0.01, means[k])) for k in kinds])
    return np.log(mean / (1 - mean))


def _logistic(
    x: np.ndarray, start: np.ndarray, y: np.ndarray, pull: float, *, level: bool, common: bool, rounds: int = 30
) -> np.ndarray:
    """Newton's method for logistic regression with soft targets. level: with an intercept, which is left out again.

    common: the pull is towards the mean of all weights, which may not fall below 0; else towards 0.
    """
    n, k = x.shape
    design = np.hstack([x, np.ones((n, 1))]) if level else x
    inside = np.eye(k) - (np.ones((k, k)) / k if common else 0)
    ridge = np.zeros((design.shape[1],) * 2)
    ridge[:k, :k] = pull * (inside + (0.05 * np.eye(k) if common else 0))
    w = np.zeros(design.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-(start + design @ w)))
        slope = design.T @ (p - y) + ridge @ w
        curve = (design * (p * (1 - p))[:, None]).T @ design + ridge + 1e-6 * np.eye(len(w))
        w = w - np.linalg.solve(curve, slope)
    return np.maximum(0.0, w[:k]) if common else w[:k]
