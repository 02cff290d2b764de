"""Prompts being read: one chunk of one prompt at a time, or some layers of it, so that nobody waits longer than that.

A small chunk costs hardly less than a larger one, as all weights are read for either. So a chunk that would take too
long is not made smaller: it passes through some of the layers in each turn. MLX computes what it is asked for, and the
rest stays a plan until the next turn.

Each prompt has a cache of its own until its last token, which the generator takes. So a prompt yields to a shorter one
between any two parts by being left alone, and one that fails here concerns nobody else. Source: node design 3.4.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from . import runtime
from .lane import lanes
from .live import Live
from .loader import Loaded

CHUNK_MIN = 32  # tokens, however slow the machine is
PARTS = 8  # turns that a chunk may take, where it has more tokens than that
LEAST_COST = 16  # tokens: what fewer cost as well, nearly
AIM = 0.25  # of the longest wait allowed: a chunk costs more than those before it, a step beside one more than alone
TURN_OF_THE_FIRST = 4  # each fourth part goes to the prompt that came first, however long it is
WARM_UP_TOKENS = 16
SMOOTHING = 0.3  # weight of the newest measurement in a moving average


@dataclass(slots=True, kw_only=True, eq=False)
class Chunk:
    """Tokens that a cache has taken in and that are not computed in all of its layers yet.

    parts: the layers left, by turns.  took_s: what those before have taken.
    """

    count: int
    parts: deque[list[Any]] = field(repr=False)
    took_s: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """One prompt while it is read. ids: what to read.  done: how many of them its cache holds, a chunk's with them."""

    live: Live = field(repr=False)
    ids: list[int] = field(repr=False)
    cache: list[Any] = field(repr=False)
    done: int
    chunk: Chunk | None = None

    @property
    def left(self) -> int:
        """Tokens to read; the last of a prompt is the generator's."""
        return max(0, len(self.ids) - 1 - self.done)

    @property
    def unread(self) -> int:
        """Tokens that are not computed yet, those of a chunk with them."""
        return self.left + (self.chunk.count if self.chunk else 0)

    @property
    def whole(self) -> bool:
        """Tell whether all of it is read."""
        return not self.unread


class Reader:
    """Reads prompts in pieces that take ``max_stall_s`` at most, as far as the ones before foretell."""

    def __init__(self, loaded: Loaded, *, chunk_tokens: int, max_stall_s: float) -> None:
        self._model = loaded.model
        self._core = runtime.mlx()
        self._stream = runtime.mlx_lm("generate").generation_stream
        self._most = chunk_tokens
        self._aim_s = max(1e-6, AIM * max_stall_s)
        self._picked = 0
        self.prefill_tps = self._warm_up()

    @property
    def chunk(self) -> int:
        """Tokens of the next chunk, at most."""
        return min(self._most, max(CHUNK_MIN, int(PARTS * self.prefill_tps * self._aim_s)))

    def pick(self, readings: Sequence[Reading]) -> Reading:
        """Choose who is read next: the one with least left, and now and then the one that came first.

        readings: in order of arrival.
        """
        self._picked += 1
        if self._picked % TURN_OF_THE_FIRST == 0:
            return readings[0]
        return min(readings, key=lambda reading: reading.unread)

    def wait(self) -> None:
        """Wait for the answers' step in flight: its time, and what it may raise, are not the prompt's."""
        self._core.synchronize(self._stream)

    def read(self, reading: Reading) -> float:
        """Read a chunk, or the next part of one; returns its seconds.

        Raises whatever a model raises; the cache is then lost.
        """
        begun = time.perf_counter()
        chunk = reading.chunk = reading.chunk or self._begun(reading)
        self._compute(chunk.parts.popleft())
        took = time.perf_counter() - begun
        chunk.took_s += took
        if not chunk.parts:
            self._learn(chunk)
            reading.chunk = None
        return took

    def _begun(self, reading: Reading) -> Chunk:
        count = min(self.chunk, reading.left)
        self._plan(reading.ids[reading.done : reading.done + count], reading.cache)
        reading.done += count
        turns = math.ceil(max(count, LEAST_COST) / self.prefill_tps / self._aim_s)
        return Chunk(count=count, parts=deque(in_parts(reading.cache, turns)))

    def _learn(self, chunk: Chunk) -> None:
        if chunk.count >= min(self.chunk, WARM_UP_TOKENS):  # a last, short chunk says little about speed
            self.prefill_tps = smooth(self.prefill_tps, chunk.count / chunk.took_s)

    def _plan(self, ids: list[int], cache: list[Any]) -> None:
        with self._core.stream(self._stream):
            self._model(self._core.array([ids]), cache=cache)

    def _compute(self, layers: Sequence[Any]) -> None:
        with self._core.stream(self._stream):
            self._core.eval([layer.state for layer in layers])
        self._core.clear_cache()

    def _warm_up(self) -> float:
        """Read a short prompt twice: the first time pays for pages and kernels, the second gives a first speed."""
        speed = 0.0
        for _ in range(2):
            begun = time.perf_counter()
            cache = lanes(self._model)
            self._plan([0] * WARM_UP_TOKENS, cache)
            self._compute(cache)
            speed = WARM_UP_TOKENS / max(time.perf_counter() - begun, 1e-6)
        return speed


def in_parts(layers: Sequence[Any], count: int) -> list[list[Any]]:
    """Divide layers, in order, into so many parts of nearly one size, at most into as many as there are layers."""
    count = max(1, min(count, len(layers)))
    bounds = [number * len(layers) // count for number in range(count + 1)]
    return [list(layers[begin:end]) for begin, end in pairwise(bounds)]


def smooth(old: float, new: float) -> float:
    """Move an average towards the newest measurement."""
    return new if old == 0.0 else (1 - SMOOTHING) * old + SMOOTHING * new
