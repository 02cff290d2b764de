"""mlx-lm's BatchGenerator with our limits and our clock: chunks sized by time, memory wired by need, speeds measured.

It belongs to the engine's thread and knows requests by the generator's numbers only.
"""

import time
from collections.abc import Sequence
from typing import Any

from . import runtime
from .lane import lanes
from .live import Live
from .loader import Loaded

CHUNK_S = 0.2  # one prefill chunk should take so long: what a neighbour, or a cancel, waits at most
CHUNK_MIN, CHUNK_MAX, CHUNK_MIN_SLOW = 32, 512, 8
WARM_UP_TOKENS = 16
WIRED_SHARE = 0.9  # of what the device recommends
SMOOTHING = 0.3  # weight of the newest measurement in a moving average


class Steps:
    """Runs up to ``max_rows`` requests side by side, one step at a time."""

    def __init__(self, loaded: Loaded, *, max_rows: int) -> None:
        self._loaded = loaded
        self._max_rows = max_rows
        self._core = runtime.mlx()
        self._stops = [[token] for token in sorted(loaded.tokenizer.eos_token_ids)]
        self._chunk_min = CHUNK_MIN_SLOW if runtime.describe().path == "cpu-slow" else CHUNK_MIN
        self.decode_tps = 0.0
        self.prefill_tps = self._warm_up()
        self._generator = self._new()

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches of running requests."""
        return int(self._generator.prompt_cache_nbytes)

    def insert(self, live: Live, ids: list[int], shared: int, served: Any | None) -> int:
        """Add a request that starts from ``ids``, of which ``served`` holds the first ``shared``; return its number."""
        cache = lanes(self._loaded.model, served)
        numbers = self._generator.insert(
            [ids[shared:]],
            max_tokens=[live.max_tokens - len(live.emitted)],
            caches=[cache] if cache is not None else None,
            all_tokens=[ids[:shared]],
            samplers=[live.chooser],
            logits_processors=[live.processors],
        )
        return int(numbers[0])

    def next(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run one step; returns the library's responses for prompts and for tokens. Raises whatever a model raises."""
        chunk = int(max(self._chunk_min, min(self.prefill_tps * CHUNK_S, CHUNK_MAX)))
        self._generator.prefill_step_size = chunk
        begun = time.perf_counter()
        prompts, tokens = self._generator.next()
        self._measure(prompts, tokens, chunk, time.perf_counter() - begun)
        return prompts, tokens

    def remove(self, number: int, *, with_cache: bool) -> tuple[Any, list[int]] | None:
        """Take a request out; returns its cache and the ids in it where asked for."""
        removed: dict[int, tuple[Any, list[int]]] = self._generator.remove([number], return_prompt_caches=with_cache)
        return removed.get(number)

    def renew(self) -> None:
        """Throw the generator away with all that runs in it."""
        self._generator.close()
        self._generator = self._new()

    def close(self) -> None:
        """Free the generator here: its own destructor would run on whatever thread collects it."""
        self._generator.close()
        del self._generator

    def _new(self) -> Any:
        generator = runtime.mlx_lm("generate").BatchGenerator(
            self._loaded.model,
            stop_tokens=self._stops,
            completion_batch_size=self._max_rows,
            prefill_batch_size=1,
            prefill_step_size=CHUNK_MAX,
        )
        self._limit_wired()
        return generator

    def _limit_wired(self) -> None:
        """Wire weights and caches only: the generator's constructor wires all that the device recommends."""
        most = self._core.device_info().get("max_recommended_working_set_size")
        if most:
            plan = self._loaded.plan
            self._core.set_wired_limit(min(plan.weights_bytes + plan.kv_budget_bytes, int(WIRED_SHARE * int(most))))

    def _warm_up(self) -> float:
        """Read a short prompt twice: the first time pays for pages and kernels, the second gives a first speed."""
        make = runtime.mlx_lm("models.cache").make_prompt_cache
        speed = 0.0
        with self._core.stream(runtime.mlx_lm("generate").generation_stream):
            for _ in range(2):
                begun = time.perf_counter()
                prompt = self._core.array([[0] * WARM_UP_TOKENS])
                self._core.eval(self._loaded.model(prompt, cache=make(self._loaded.model)))
                speed = WARM_UP_TOKENS / max(time.perf_counter() - begun, 1e-6)
        return speed

    def _measure(self, prompts: Sequence[Any], tokens: Sequence[Any], chunk: int, took: float) -> None:
        """Learn from steps that did one thing only; a last, short chunk says little about speed."""
        if tokens and not prompts:
            self.decode_tps = _smooth(self.decode_tps, len(tokens) / took)
        elif prompts and not tokens and not any(prompt.end_of_prompt for prompt in prompts):
            fed = min(chunk, prompts[0].progress[0])
            if fed >= min(chunk, WARM_UP_TOKENS):
                self.prefill_tps = _smooth(self.prefill_tps, fed / took)


def _smooth(old: float, new: float) -> float:
    return new if old == 0.0 else (1 - SMOOTHING) * old + SMOOTHING * new
