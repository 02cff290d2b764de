"""Rows of numbers that a router is fitted and judged on: named counts and hashed buckets, with labels and without text.

The shipped reservoir holds rows of public data beside the weights, so that what is learned from one user forgets
nothing. A bucket is shared by many words and tells none of them; the rows are public, no user's are among them.
"""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from .features import CONVERSATION, STRUCTURAL, Features
from .linear import buckets
from .personal import pack, unpack

FORMAT = 1
MOST_ROWS = 2000
STEPS = 255
ASSISTANT = "assistant"
"""The set of everyday requests: right for both models, half of the traffic that the reservoir stands for."""


class ReservoirError(ValueError):
    """Bytes that are no reservoir of this router. Install the package again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """One request as a scorer sees it. values: the named counts.  words, pairs: buckets of the linear head."""

    values: Mapping[str, float] = field(repr=False)
    words: frozenset[int] = field(repr=False)
    pairs: frozenset[int] = field(repr=False)

    @classmethod
    def of(cls, features: Features) -> "FeatureRow":
        """Hash the words of some features."""
        words, pairs = buckets(features.words)
        return cls(values=features.values, words=words, pairs=pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A row with what both models made of it. weak, strong: quality of the local and the larger model, 0..1.

    after: signals of the local answer, where the set has them.
    """

    set: str
    row: FeatureRow
    weak: float
    strong: float
    after: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Reservoir:
    """The rows, in the order of the file. sources: the data they were drawn from, as in the model card."""

    rows: tuple[Labelled, ...] = field(repr=False)
    sources: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Write it as JSON with packed numbers; counts are rounded to 255 steps of their column."""
        rows = self.rows
        sets = sorted({r.set for r in rows})
        units = [_unit([r.row.values[name] for r in rows]) for name in STRUCTURAL]
        steps = [
            min(STEPS, round(r.row.values[name] / unit)) if unit else 0
            for r in rows
            for name, unit in zip(STRUCTURAL, units, strict=True)
        ]
        body = {
            "format": FORMAT,
            "sources": list(self.sources),
            "sets": sets,
            "columns": list(STRUCTURAL),
            "units": units,
            "set": pack(array("B", [sets.index(r.set) for r in rows])),
            "weak": pack(array("B", [round(STEPS * r.weak) for r in rows])),
            "strong": pack(array("B", [round(STEPS * r.strong) for r in rows])),
            "values": pack(array("B", steps)),
            "words": _packed_sets([r.row.words for r in rows]),
            "pairs": _packed_sets([r.row.pairs for r in rows]),
            "after": {str(n): dict(sorted(r.after.items())) for n, r in enumerate(rows) if r.after},
        }
        return (json.dumps(body, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reservoir":
        """Read what `to_bytes` wrote. Raises ReservoirError for anything else, and for another list of features."""
        try:
            body = json.loads(data)
            _check_columns(body)
            return cls(tuple(_rows(body)), tuple(map(str, body["sources"])))
        except ReservoirError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ReservoirError("these bytes are no reservoir of the router: install the package again") from None


def _check_columns(body: Mapping[str, Any]) -> None:
    if body["format"] != FORMAT or body["columns"] != list(STRUCTURAL):
        raise ReservoirError("the reservoir is for another list of features: install the package again")


def _rows(body: Mapping[str, Any]) -> list[Labelled]:
    sets, units = body["sets"], [float(u) for u in body["units"]]
    values, width = unpack("B", body["values"]), len(STRUCTURAL)
    words, pairs = _unpacked_sets(body["words"]), _unpacked_sets(body["pairs"])
    columns = zip(*(unpack("B", body[name]) for name in ("set", "weak", "strong")), words, pairs, strict=True)
    around = dict.fromkeys(CONVERSATION, 0.0)
    found = [
        Labelled(
            set=str(sets[which]),
            row=FeatureRow(
                values=around | _named(values[n * width : (n + 1) * width], units), words=own_words, pairs=own_pairs
            ),
            weak=weak / STEPS,
            strong=strong / STEPS,
            after=body["after"].get(str(n)),
        )
        for n, (which, weak, strong, own_words, own_pairs) in enumerate(columns)
    ]
    if not 0 < len(found) <= MOST_ROWS:
        raise ReservoirError(f"a reservoir holds 1 to {MOST_ROWS} rows")
    return found


def _named(steps: Sequence[int], units: Sequence[float]) -> dict[str, float]:
    return {name: step * unit for name, step, unit in zip(STRUCTURAL, steps, units, strict=True)}


def _unit(values: Sequence[float]) -> float:
    """Return what one step of a column is worth, in six digits."""
    return float(f"{max(values, default=0.0) / STEPS:.6g}")


def _packed_sets(sets: Sequence[frozenset[int]]) -> dict[str, str]:
    flat = [bucket for each in sets for bucket in sorted(each)]
    return {"sizes": pack(array("H", [len(each) for each in sets])), "buckets": pack(array("H", flat))}


def _unpacked_sets(packed: Mapping[str, str]) -> list[frozenset[int]]:
    flat = unpack("H", packed["buckets"])
    ends = list(accumulate(unpack("H", packed["sizes"]), initial=0))
    if ends[-1] != len(flat):
        raise ReservoirError("the reservoir's buckets do not fit its rows: install the package again")
    return [frozenset(flat[start:end]) for start, end in pairwise(ends)]
