"""Prompts being read: one chunk of one prompt at a time, so that nobody waits longer than one chunk.

Each prompt has a cache of its own until its last token, which the generator takes. So a prompt yields to a shorter one
at any chunk border by being left alone, and one that fails here concerns nobody else. Source: node design 3.4.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import runtime
from .lane import lanes
from .live import Live
from .loader import Loaded

CHUNK_MIN = 4  # tokens; less costs more in overhead than it saves in waiting
AIM = 0.5  # of the longest wait allowed: a chunk costs more than those before it, a step beside one more than alone
TURN_OF_THE_FIRST = 4  # each fourth chunk goes to the prompt that came first, however long it is
WARM_UP_TOKENS = 16
SMOOTHING = 0.3  # weight of the newest measurement in a moving average


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """One prompt while it is read. ids: what to read.  done: how many of them the cache holds."""

    live: Live = field(repr=False)
    ids: list[int] = field(repr=False)
    cache: list[Any] = field(repr=False)
    done: int

    @property
    def left(self) -> int:
        """Tokens to read; the last of a prompt is the generator's."""
        return max(0, len(self.ids) - 1 - self.done)


class Reader:
    """Reads prompts in chunks that take ``max_stall_s`` at most, as far as the ones before foretell."""

    def __init__(self, loaded: Loaded, *, chunk_tokens: int, max_stall_s: float) -> None:
        self._model = loaded.model
        self._core = runtime.mlx()
        self._stream = runtime.mlx_lm("generate").generation_stream
        self._most = chunk_tokens
        self._max_stall_s = max_stall_s
        self._chunks = 0
        self.prefill_tps = self._warm_up()

    @property
    def chunk(self) -> int:
        """Tokens of the next chunk, at most."""
        return min(self._most, max(CHUNK_MIN, int(self.prefill_tps * AIM * self._max_stall_s)))

    def pick(self, readings: Sequence[Reading]) -> Reading:
        """Choose whose chunk is next: the one with least left, and now and then the one that came first.

        readings: in order of arrival.
        """
        self._chunks += 1
        if self._chunks % TURN_OF_THE_FIRST == 0:
            return readings[0]
        return min(readings, key=lambda reading: reading.left)

    def wait(self) -> None:
        """Wait for the answers' step in flight: its time, and what it may raise, are not the prompt's."""
        self._core.synchronize(self._stream)

    def read(self, reading: Reading) -> float:
        """Read one chunk of one prompt; returns its seconds. Raises whatever a model raises; the cache is then lost."""
        begun = time.perf_counter()
        count = min(self.chunk, reading.left)
        self._feed(reading.ids[reading.done : reading.done + count], reading.cache)
        reading.done += count
        took = time.perf_counter() - begun
        if count >= min(self.chunk, WARM_UP_TOKENS):  # a last, short chunk says little about speed
            self.prefill_tps = smooth(self.prefill_tps, count / took)
        return took

    def _feed(self, ids: list[int], cache: list[Any]) -> None:
        with self._core.stream(self._stream):
            self._model(self._core.array([ids]), cache=cache)
            self._core.eval([layer.state for layer in cache])
        self._core.clear_cache()

    def _warm_up(self) -> float:
        """Read a short prompt twice: the first time pays for pages and kernels, the second gives a first speed."""
        speed = 0.0
        for _ in range(2):
            begun = time.perf_counter()
            self._feed([0] * WARM_UP_TOKENS, lanes(self._model))
            speed = WARM_UP_TOKENS / max(time.perf_counter() - begun, 1e-6)
        return speed


def smooth(old: float, new: float) -> float:
    """Move an average towards the newest measurement."""
    return new if old == 0.0 else (1 - SMOOTHING) * old + SMOOTHING * new
