"""The numbers of a weights file: heads and tables, read from bytes and checked. Nothing here reads a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from .features import CONVERSATION, STRUCTURAL
from .linear import Linear
from .personal import BUCKETS, unpack
from .ranks import Table
from .trees import Forest, forest

MOST_BYTES = 3_000_000
"""Weights larger than this are refused."""


class WeightsError(ValueError):
    """Bytes that are no weights of this router. Reinstall the package, or write them anew with its training command."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line over clipped counts: sum of weight * (clipped value - its mean in the reference mix)."""

    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]

    def parts(self, row: Sequence[float]) -> list[float]:
        """Return what each column adds; exact."""
        return [
            w * ((a if v < a else b if v > b else v) - m)  # noqa: FURB136 - half the time of min and max
            for v, w, a, b, m in zip(row, self.weights, self.low, self.high, self.mean, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Task:
    """Whether a request is work for a larger model at all: about 1 for work, about 0 for everyday requests.

    worth: from that to what it adds to the heads' sum, 0 at most.
    """

    linear: Linear
    trees: Forest
    worth: Table

    def part(self, row: Sequence[float], words: frozenset[int], pairs: frozenset[int]) -> float:
        """Return what it adds to the sum."""
        return self.worth(self.linear.value(words, pairs) + self.trees.value(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Heads and tables; the heads' values are already weighted and in standard scores of the even mix.

    usual: mean path parts of the trees in that mix.  gain: from the heads' sum to expected gain.  rank: from gain to
    rank in the reference mix.  back: from rank to gain.  ok: from the other trees to P(device adequate).
    fallback: from the length to a sum.  novel: from the share of unknown words to how much the fallback counts.
    around: gain per unit of each count in CONVERSATION, none negative.
    """

    linear: Linear
    trees: tuple[Forest, ...]
    usual: tuple[float, ...] = field(repr=False)
    line: Line
    task: Task
    gain: Table
    rank: Table
    back: Table
    ok_trees: Forest
    ok: Table
    fallback: Table
    novel: Table
    around: tuple[float, ...]

    def parts(self, row: Sequence[float], words: frozenset[int], pairs: frozenset[int]) -> dict[str, float]:
        """Return what each name adds to the sum of the heads; exact for lines, along the paths for trees."""
        parts = [part - usual for part, usual in zip(self.line.parts(row), self.usual, strict=True)]
        for trees in self.trees:
            trees.add_parts(row, parts)
        named = dict(zip(STRUCTURAL, parts, strict=True))
        named["words"] = self.linear.value(words, pairs)
        named["task"] = self.task.part(row, words, pairs)
        return named


def read(weights: bytes) -> tuple[Model, str]:
    """Read a weights file: the model and the version it names. Raises WeightsError."""
    if len(weights) > MOST_BYTES:
        raise WeightsError(f"the router's weights hold more than {MOST_BYTES} bytes")
    try:
        body = json.loads(weights, parse_constant=_refuse_constant, parse_float=_finite)
        return _model(body), str(body["version"])
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        raise WeightsError("these bytes are no weights of this router: install the package again") from None


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _refuse_constant(text)


def _refuse_constant(word: str) -> float:
    raise WeightsError(f"the router's weights hold {word}, which is no finite number")


def _model(body: Mapping[str, Any]) -> Model:
    around = body["conversation"]
    if body["trees"]["names"] != list(STRUCTURAL) or set(around) != set(CONVERSATION):
        raise WeightsError("these weights are for another list of features")
    if min(around.values()) < 0:
        raise WeightsError("nothing around a text may lower its score")
    rank = Table.of(*body["rank"]["rank"])
    return Model(
        linear=_linear(body["linear"], _seen(body["linear"]["seen"])),
        trees=tuple(map(_forest, body["trees"]["gain"])),
        usual=_numbers(body["trees"]["usual"]),
        line=Line(*(_numbers(body["line"][key]) for key in ("weights", "low", "high", "mean"))),
        task=_task(body["task"]),
        gain=Table.of(*body["rank"]["gain"]),
        rank=rank,
        back=rank.inverse(),
        ok_trees=_forest(body["trees"]["ok"]),
        ok=Table.of(*body["p_ok"]),
        fallback=Table.of(*body["novelty"]["length"]),
        novel=Table.of(*body["novelty"]["doubt"]),
        around=tuple(float(around[name]) for name in CONVERSATION),
    )


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(STRUCTURAL):
        raise WeightsError("a list of weights has another length than the list of features")
    return tuple(map(float, values))


def _linear(body: Mapping[str, Any], seen: bytes = b"") -> Linear:
    weights = unpack("b", body["weights"])
    if len(weights) != BUCKETS:
        raise WeightsError("the linear head has another number of buckets")
    return Linear(weights, float(body["unit"]), float(body["bias"]), seen)


def _seen(text: str) -> bytes:
    seen = unpack("B", text).tobytes()
    if len(seen) * 8 != BUCKETS:
        raise WeightsError("the words of training have another number of buckets")
    return seen


def _task(body: Mapping[str, Any]) -> Task:
    return Task(_linear(body["linear"]), _forest(body["trees"]), Table.of(*body["worth"]))


def _forest(body: Mapping[str, Any]) -> Forest:
    built = forest(body["columns"], body["thresholds"], body["values"], body["depth"], body["start"])
    if any(not 0 <= c < len(STRUCTURAL) for c in body["columns"]):
        raise WeightsError("a tree asks for a feature that does not exist")
    return built
