"""Scores of prompts by routers that never saw them: trained anew for every split, with the recipe that ships.

Two ways of splitting: a whole set left out, together with one file of assistant utterances; and five folds by group.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import _sets
import numpy as np
from _sets import FOLDS, PAIRS, Row, fold
from _train_cascade import Lesson, fit_after, fit_lessons, recorded
from _train_prompt import fit
from train_router import encode

from hybrid.routing.cascade import After, after_model_of, log_odds
from hybrid.routing.complexity import LearnedScorer
from hybrid.routing.features import extract
from hybrid.routing.signals import LEAVING

Sets = Mapping[str, Sequence[Row]]
EASY_OUT = {"mmlu": "clinc150", "mmlu_pro": "banking77", "crux": "hwu64_train", "llmrouter": "clinc150"}
"""The file of assistant utterances that is left out together with a set, so that neither side was seen."""

CONDITIONAL = "llmrouter"
"""The set whose rows have no stated licence each; the model card gives figures without it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What routers said of some rows that they had not seen. after: scores with signals of the answer, else nan."""

    rows: tuple[Row, ...] = field(repr=False)
    score: np.ndarray
    p_ok: np.ndarray
    after: np.ndarray

    @property
    def weak(self) -> np.ndarray:
        """Quality of the local model."""
        return np.array([row.weak for row in self.rows], dtype=float)

    @property
    def strong(self) -> np.ndarray:
        """Quality of the larger model."""
        return np.array([row.strong for row in self.rows], dtype=float)


@dataclass(frozen=True, slots=True)
class Part:
    """One split: what was said of held-out rows by set and of held-out utterances. floor: the neutral threshold."""

    sets: Mapping[str, Said]
    easy: Said
    floor: float


def parts(workers: int = 2) -> tuple[dict[str, Part], list[Part], dict[str, Part]]:
    """Return the splits by left-out set, by fold, and by left-out set without the conditional one."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the workers, before they load numpy
    others = [name for name in PAIRS if name != CONDITIONAL]
    tasks = [*PAIRS, *range(FOLDS), *(f"{name} {CONDITIONAL}" for name in others)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = dict(zip(tasks, pool.map(part, tasks), strict=True))
    without = {name: done[f"{name} {CONDITIONAL}"] for name in others}
    return {name: done[name] for name in PAIRS}, [done[n] for n in range(FOLDS)], without


def part(task: str | int) -> Part:
    """Train without what a task holds out, and score that. task: sets that are left out, or the number of a fold."""
    sets, easy = _sets.pairs(), _sets.assistant()
    return _without_fold(sets, easy, task) if isinstance(task, int) else _without_sets(sets, easy, task.split())


def _without_sets(sets: Sets, easy: Sequence[Row], out: Sequence[str]) -> Part:
    shown = out[0]
    held = [row for row in easy if row.group.startswith(f"{EASY_OUT[shown]}/")]
    rest = [row for row in easy if not row.group.startswith(f"{EASY_OUT[shown]}/")]
    body = _prompt_only({name: rows for name, rows in sets.items() if name not in out}, rest)
    found = _scored(encode(body), {shown: sets[shown]}, held)
    if not any(row.after for row in sets[shown]):
        return found
    return Part({shown: _cascade_by_fold(body, sets[shown])}, found.easy, found.floor)


def _cascade_by_fold(body: dict[str, Any], rows: Sequence[Row]) -> Said:
    """Score an unseen set with signals of its answers: what they mean is learned from its other groups alone."""
    scorer = LearnedScorer.from_bytes(encode(body))
    parts_ = []
    for n in range(FOLDS):
        held = [row for row in rows if fold(row.group) == n]
        lessons = [
            Lesson(After.from_dict(row.after or {}), _start(scorer, row), row.gain, row.group)
            for row in rows
            if fold(row.group) != n
        ]
        parts_.append(ask(encode(body | {"after": fit_lessons(lessons, recorded())}), held))
    return joined(parts_)


def _start(scorer: LearnedScorer, row: Row) -> float:
    return log_odds(scorer.score(extract(row.prompt)).gain or 0.0)


def _without_fold(sets: Sets, easy: Sequence[Row], n: int) -> Part:
    seen = {name: [row for row in rows if fold(row.group) != n] for name, rows in sets.items()}
    held = {name: [row for row in rows if fold(row.group) == n] for name, rows in sets.items()}
    known = [row for row in easy if fold(row.group) != n]
    weights = encode(_prompt_only(seen, known) | {"after": fit_after(seen, known)})
    return _scored(weights, held, [row for row in easy if fold(row.group) == n])


def _prompt_only(sets: Sets, easy: Sequence[Row]) -> dict[str, Any]:
    """Return the body of a weights file fitted to these rows alone; of the cascade it knows nothing."""
    return {"version": "bench", "sources": []} | fit(sets, easy) | {"after": fit_lessons([], [])}


def _scored(weights: bytes, sets: Sets, easy: Sequence[Row]) -> Part:
    scorer = LearnedScorer.from_bytes(weights)
    said = {name: ask(weights, rows) for name, rows in sets.items() if rows}
    return Part(said, ask(weights, easy), scorer.threshold(LEAVING))


def ask(weights: bytes, rows: Sequence[Row]) -> Said:
    """Score rows as ``hybrid eval router`` does."""
    scorer, model = LearnedScorer.from_bytes(weights), after_model_of(weights)
    scores = [scorer.score(extract(row.prompt)) for row in rows]
    after = [
        scorer.rank(model.gain(score, After.from_dict(row.after))) if row.after else np.nan
        for score, row in zip(scores, rows, strict=True)
    ]
    return Said(
        tuple(rows),
        np.array([s.value for s in scores]),
        np.array([s.p_ok for s in scores]),
        np.array(after, dtype=float),
    )


def joined(said: Sequence[Said]) -> Said:
    """Put rows of several splits together."""
    columns = (np.concatenate([getattr(s, name) for s in said]) for name in ("score", "p_ok", "after"))
    return Said(tuple(row for s in said for row in s.rows), *columns)


def by_set(folds: Sequence[Part]) -> tuple[dict[str, Said], Said]:
    """Return what was said of each set over all folds, and of the utterances."""
    sets = {name: joined([part.sets[name] for part in folds if name in part.sets]) for name in PAIRS}
    return sets, joined([part.easy for part in folds])
