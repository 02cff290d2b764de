"""Fits the prompt part of a weights file: the heads, and the tables that make a gain, a rank and a probability of them.

The same rows give the same bytes: fixed seeds, one thread, numbers rounded. Definitions: routing design C4 and C11.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _gate_rows import EASY as EVERYDAY
from _gate_rows import HARD, OPEN_WORK, gate_rows
from _heads import (
    DRESSED,
    OPEN,
    TASK_FROM,
    TASK_TO,
    TASK_WORTH,
    UNLABELLED,
    UTTERANCE,
    Grown,
    Heads,
    Line,
    Rows,
    Words,
    fit_adequate,
    fit_heads,
    mix_weights,
    rows_of,
)
from _sets import FOLDS, Row
from _targets import targets
from _trees import Tree

from hybrid.routing.features import STRUCTURAL, extract
from hybrid.routing.linear import buckets
from hybrid.routing.personal import BUCKETS

EASY = 1.5
"""Total weight of the assistant utterances, where every labelled set has 1."""

EASY_EVERY = 3
"""Of so many assistant utterances one is fitted; the words of all count as known."""

GATE_KINDS = {HARD: UNLABELLED, EVERYDAY: DRESSED, OPEN_WORK: OPEN}
TREES = ("gain trees", "wrong trees")
MIX_EASY = 0.75
"""Share of assistant utterances in the reference mix: the neutral threshold lies near its edge."""

AROUND = {"turn": 0.0, "reask": 0.08, "rejected": 0.10, "tools": 0.01, "schema_depth": 0.01, "context": 0.10}
"""Gain per unit of what is around the text. Set by hand: no file has conversations. None may be negative."""

DOUBT = ((0.30, 0.0), (0.70, 0.6))
"""From the share of unknown words to how much the fallback by length counts."""


def fit(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row], *, seed: int = 0) -> dict[str, Any]:
    """Fit everything but the cascade and return the body of a weights file, numbers rounded."""
    held = held_out(sets, assistant, seed=seed)
    rows, z, p = held.rows, held.z, held.p
    heads, ok = fit_heads(rows, seed=seed), fit_adequate(rows, seed=seed)
    gains, own = gain_table(z, rows), heads.z(rows)
    used = rows.kind >= UTTERANCE
    rank = rank_table(np.interp(own, *gains)[used], mix_weights(rows, MIX_EASY)[used])
    return {
        "linear": _packed_words(*_sum_of_words(heads)) | {"seen": _seen(sets, assistant)},
        "line": _packed_line(heads, rows),
        "trees": {
            "names": list(STRUCTURAL),
            "gain": [_packed_trees(_trees_of(heads, name), heads.scale(name)) for name in TREES],
            "usual": _usual(heads, rows),
            "ok": _packed_trees(ok, 1.0, ok.start),
        },
        "task": {
            "linear": _packed_words(0.5 * heads.task_words.weights, 0.5 * heads.task_words.bias),
            "trees": _packed_trees(heads.task_trees, 0.5, 0.5 * heads.task_trees.start),
            "worth": _table([TASK_FROM, TASK_TO], [-TASK_WORTH, 0.0]),
        },
        "rank": {"gain": _table(*gains), "rank": _table(*rank)},
        "p_ok": _table(*ok_table(p, rows)),
        "novelty": {"length": _table(*fallback_table(own, rows)), "doubt": _table(*zip(*DOUBT, strict=True))},
        "conversation": AROUND,
    }


@dataclass(frozen=True, slots=True)
class Held:
    """Rows, and what models that never saw a row's group say of it: the heads' sum and P(adequate)."""

    named: Sequence[tuple[int, Row, float]]
    rows: Rows
    z: np.ndarray
    p: np.ndarray

    def gains(self) -> list[tuple[Row, float]]:
        """Return each row with the gain expected of it."""
        expected = np.interp(self.z, *gain_table(self.z, self.rows))
        return [(row, float(gain)) for (_, row, _), gain in zip(self.named, expected, strict=True)]


_LAST: dict[tuple[str, ...], Held] = {}
"""The last one made, which the prompt part and the cascade's part of one file share: it is most of the work."""


def held_out(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row], *, seed: int = 0) -> Held:
    """Train without each fold in turn and let what came of it judge that fold."""
    named = _named(sets, assistant)
    key = (str(seed), *(row.id for _, row, _ in named))
    if key not in _LAST:
        _LAST.clear()
        rows = rows_of(named, targets(sets))
        _LAST[key] = Held(named, rows, *_unseen(rows, seed=seed))
    return _LAST[key]


def _named(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row]) -> list[tuple[int, Row, float]]:
    named = [(k, row, 1 / len(sets[name])) for k, name in enumerate(sorted(sets)) for row in sets[name]]
    easy = assistant[::EASY_EVERY]
    named += [(UTTERANCE, row, EASY / len(easy)) for row in easy]
    return named + [(GATE_KINDS[kind], row, 0.0) for kind, row in gate_rows(sets, assistant)]


def _unseen(rows: Rows, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for every row the sum and P(adequate) of models that never saw its group."""
    z, p = np.zeros(len(rows.y)), np.zeros(len(rows.y))
    for n in range(FOLDS):
        seen, held = rows.only(rows.fold != n), rows.only(rows.fold == n)
        z[rows.fold == n] = fit_heads(seen, seed=seed).z(held)
        p[rows.fold == n] = fit_adequate(seen, seed=seed).value(held)
    return z, p


def gain_table(z: np.ndarray, rows: Rows, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Fit an increasing table from the sum to the gain; strictly increasing, so that no two sums tie."""
    used = rows.weight > 0
    xs, ys = _isotonic(z[used], rows.gain[used], rows.weight[used], points)
    ys = ys + 1e-3 * np.arange(len(ys)) / len(ys)
    return np.concatenate([[xs[0] - 4], xs, [xs[-1] + 4]]), np.concatenate([[ys[0] - 0.05], ys, [ys[-1] + 0.05]])


def rank_table(gain: np.ndarray, weight: np.ndarray, points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles of the gain in a mix, from (-1, 0) to (1, 1)."""
    order = np.argsort(gain, kind="stable")
    below = np.cumsum(weight[order])
    ranks = (np.arange(points) + 0.5) / points
    xs, first = np.unique(np.round(gain[order][np.searchsorted(below, ranks * below[-1])], 5), return_index=True)
    return np.concatenate([[-1.0], xs, [1.0]]), np.concatenate([[0.0], ranks[first], [1.0]])


def ok_table(p: np.ndarray, rows: Rows, points: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Fit an increasing table from the trees' value to P(adequate), over the labelled sets."""
    used = rows.kind >= 0
    xs, ys = _isotonic(p[used], rows.ok[used], np.ones(int(used.sum())), points)
    return np.concatenate([xs, [max(1.0, xs[-1] + 0.01)]]), np.concatenate([ys, [max(ys[-1], 0.98)]])


def fallback_table(z: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the usual sum at each length, increasing: all that is known of a text of unknown words."""
    used = rows.weight > 0
    return _isotonic(rows.x[used, STRUCTURAL.index("length")], z[used], rows.weight[used], 12)


def _isotonic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Means in bins of equal weight, pooled until they increase. Source: pool adjacent violators, Ayer et al. 1955."""
    order = np.argsort(x, kind="stable")
    part = np.minimum(points - 1, (np.cumsum(weight[order]) / np.sum(weight) * points).astype(int))
    blocks: list[list[float]] = []
    for n in range(points):
        at = order[part == n]
        if not len(at):
            continue
        w = float(np.sum(weight[at]))
        blocks.append([float(np.sum(weight[at] * x[at])) / w, float(np.sum(weight[at] * y[at])) / w, w])
    merged: list[list[Any]] = []
    for centre, mean, w in blocks:
        merged.append([[centre], mean, w])
        while len(merged) > 1 and merged[-2][1] > merged[-1][1]:
            (c2, m2, w2), (c1, m1, w1) = merged.pop(), merged.pop()
            merged.append([c1 + c2, (m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2])
    xs = np.round([c for cs, _, _ in merged for c in cs], 5)
    ys = np.array([m for cs, m, _ in merged for _ in cs])
    xs, first = np.unique(xs, return_index=True)
    return xs, ys[first]


def _table(xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray) -> list[list[float]]:
    return [[round(float(x), 5) for x in xs], [round(float(y), 5) for y in ys]]


def _sum_of_words(heads: Heads) -> tuple[np.ndarray, float]:
    """Return one linear head for all, in the scale of the sum; it also carries the other heads' constants."""
    weights, bias = np.zeros(BUCKETS), 0.0
    for name, head in heads.of.items():
        if isinstance(head, Words):
            weights = weights + heads.scale(name) * head.weights
            bias += heads.scale(name) * (head.bias - heads.means[name])
    return weights, bias


def _packed_words(weights: np.ndarray, bias: float) -> dict[str, Any]:
    unit = float(f"{np.max(np.abs(weights)) / 127:.4g}") or 1.0
    return {
        "unit": unit,
        "bias": round(bias, 5),
        "weights": _base64(np.clip(np.round(weights / unit), -127, 127).astype(np.int8)),
    }


def _seen(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row]) -> str:
    """Return one bit for each bucket that a word of any row falls into."""
    known = np.zeros(BUCKETS, dtype=np.uint8)
    for row in (*(row for rows in sets.values() for row in rows), *assistant):
        known[list(buckets(extract(row.prompt).words)[0])] = 1
    return _base64(np.packbits(known, bitorder="little"))


def _trees_of(heads: Heads, name: str) -> Grown:
    head = heads.of[name]
    assert isinstance(head, Grown)
    return head


def _packed_trees(grown: Grown, scale: float, start: float = 0.0) -> dict[str, Any]:
    return {
        "depth": _depth(grown.trees[0]),
        "start": round(start, 5),
        "columns": [int(c) for t in grown.trees for c in t.feature],
        "thresholds": [round(float(min(v, 1e9)), 4) for t in grown.trees for v in t.threshold],
        "values": [round(float(v * scale), 5) for t in grown.trees for v in t.value],
    }


def _depth(tree: Tree) -> int:
    return int(np.log2(len(tree.value) + 1)) - 1


def _usual(heads: Heads, rows: Rows) -> list[float]:
    """Return each column's mean path part in the even mix, in the scale of the sum."""
    weight, each, total = mix_weights(rows), np.arange(len(rows.y)), np.zeros(len(STRUCTURAL))
    for name in TREES:
        for tree in _trees_of(heads, name).trees:
            at = np.zeros(len(rows.y), dtype=np.int64)
            for _ in range(_depth(tree)):
                column = tree.feature[at]
                after = 2 * at + 1 + (rows.x[each, column] > tree.threshold[at])
                step = heads.scale(name) * weight * (tree.value[after] - tree.value[at])
                total += np.bincount(column, step, len(STRUCTURAL))
                at = after
    return [round(float(v), 5) for v in total]


def _packed_line(heads: Heads, rows: Rows) -> dict[str, list[float]]:
    line = heads.of["wrong line"]
    assert isinstance(line, Line)
    mean = np.sum(mix_weights(rows)[:, None] * np.clip(rows.x, line.low, line.high), axis=0)
    parts = {"weights": line.weights * heads.scale("wrong line"), "low": line.low, "high": line.high, "mean": mean}
    return {name: [round(float(v), 5) for v in values] for name, values in parts.items()}


def _base64(packed: np.ndarray) -> str:
    return base64.b64encode(packed.tobytes()).decode("ascii")
