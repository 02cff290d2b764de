"""One of mlx-lm's BatchGenerators with the answers that run in it, one decode step at a time.

It belongs to the engine's thread. What it relies on in mlx-lm is held by tests/device/test_scheduler_contract.py.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from . import runtime
from .lane import plain
from .live import Live
from .loader import Loaded

WIRED_SHARE = 0.9  # of what the device recommends


class Steps:
    """Up to ``max_rows`` answers side by side. Prompts come here read but for their last token."""

    def __init__(self, loaded: Loaded, *, max_rows: int) -> None:
        self._loaded = loaded
        self._max_rows = max_rows
        self._core = runtime.mlx()
        self._stops = [[token] for token in sorted(loaded.tokenizer.eos_token_ids)]
        self._rows: dict[int, Live] = {}
        self._generator = self._new()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, live: Live) -> bool:
        return any(row is live for row in self.lives)

    @property
    def lives(self) -> list[Live]:
        """What runs here; callable from any thread."""
        return list(self._rows.values())

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches as they are."""
        return int(self._generator.prompt_cache_nbytes)

    def insert(self, live: Live, ids: list[int], cache: list[Any]) -> None:
        """Add a request whose cache holds all of ``ids`` but the last. Raises ValueError and leaves all as it was."""
        (number,) = self._generator.insert(
            [ids[-1:]],
            max_tokens=[live.max_tokens - len(live.emitted)],
            caches=[cache],
            all_tokens=[ids[:-1]],
            samplers=[live.chooser],
            logits_processors=[live.processors],
        )
        self._rows[number] = live

    def next(self) -> Iterator[tuple[Live, Any]]:
        """Run one step; yields each request with the library's response, while it runs here.

        Raises whatever a model raises: then nothing of this generator can be trusted, see :meth:`renew`.
        """
        _, responses = self._generator.next()
        return self._running(responses)

    def _running(self, responses: list[Any]) -> Iterator[tuple[Live, Any]]:
        responses.reverse()
        while responses:
            response = responses.pop()  # a finished one carries a copy of its cache: it must not stay in a list
            live = self._rows.get(response.uid)
            if live is not None:
                if response.finish_reason is not None:
                    del self._rows[response.uid]
                yield live, response

    def remove(self, live: Live, *, with_cache: bool) -> tuple[list[Any], list[int]] | None:
        """Take a request out before its next step; returns its plain cache and the ids in it where asked for.

        Raises whatever a kernel raises; the request is then still in the table.
        """
        number = self._number(live)
        removed = self._generator.remove([number], return_prompt_caches=with_cache)
        cache, ids = removed[number] if with_cache else ([], [])
        taken = plain(cache), list(ids)
        del self._rows[number]
        return taken if with_cache else None

    def drop(self, live: Live) -> None:
        """Forget a request; only before :meth:`renew`, since the generator still runs it."""
        del self._rows[self._number(live)]

    def _number(self, live: Live) -> int:
        return next(number for number, row in self._rows.items() if row is live)

    def forget(self) -> None:
        """Drop what mlx-lm holds of the last step when nobody runs any more: scores and tokens of ended answers."""
        if not self._rows:
            batch = self._generator._generation_batch  # noqa: SLF001 - it offers no other way
            batch._current_tokens, batch._current_logprobs = None, []  # noqa: SLF001 - as above

    def renew(self) -> list[Live]:
        """Throw the generator away and return what ran in it."""
        self._end()
        self._generator = self._new()
        lives = self.lives  # until here they stay in the table: whoever is in none would never be told
        self._rows.clear()
        return lives

    def close(self) -> None:
        """Free the generator here: its own destructor would run on whatever thread collects it."""
        self._rows.clear()
        self._end()
        del self._generator

    def _end(self) -> None:
        with contextlib.suppress(Exception):  # on a device that failed, waiting for it fails again
            self._generator.close()

    def _new(self) -> Any:
        generator = runtime.mlx_lm("generate").BatchGenerator(
            self._loaded.model,
            stop_tokens=self._stops,
            completion_batch_size=self._max_rows,
            prefill_batch_size=1,  # a lone row is handed over without a copy (lane.py)
        )
        self._limit_wired()
        return generator

    def _limit_wired(self) -> None:
        """Wire weights and caches only: the generator's constructor wires all that the device recommends."""
        most = self._core.device_info().get("max_recommended_working_set_size")
        if most:
            plan = self._loaded.plan
            self._core.set_wired_limit(min(plan.weights_bytes + plan.kv_budget_bytes, int(WIRED_SHARE * int(most))))
