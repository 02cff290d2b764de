"""What the worker counts, made coarse before it leaves: no observation goes out alone (node design 3.10).

On an idle node a histogram describes one person. What requests add is therefore published in groups of eight requests,
or after five minutes; a histogram knows buckets that grow by 2x and nothing within; tokens go out in steps of 256 and
the rest waits for the next; gauges are rounded up. Pure: no clock of its own, no file, no socket.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.wire.types import FinishReason

from .meters import METERS, OTHER, OUTCOMES, PLACES, bucket

GROUP = 8  # requests
PATIENCE_S = 300.0
TOKEN_STEP = 256
MEMORY_STEP = 64 * 2**20
RATIO_STEP = 1 / 16
FEWEST = 4  # below it requests are not told apart
SHORTEST_WAIT_S = 0.25
MAX_BANDS = 8
_TIMES = (
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "time_to_first_token_seconds",
    "request_decode_time_seconds",
    "e2e_request_latency_seconds",
)

Series = tuple[str, tuple[str, ...]]  # a meter's name and its labels' values
Place = tuple[str, int]  # a histogram's name and one of its buckets


@dataclass(slots=True)
class _Pile:
    """What requests have added since it was last taken. since: when the first of them did."""

    requests: int = 0
    since: float = 0.0
    counts: Counter[Series] = field(default_factory=Counter)
    buckets: Counter[Place] = field(default_factory=Counter)


class Tally:
    """Counts. now: seconds on a clock nobody sets.  group: requests that are published together, at least."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic, group: int = GROUP) -> None:
        self._now = now
        self._group = group
        self._piles: dict[str, _Pile] = {}
        self._rest: Counter[Series] = Counter()  # tokens that make no whole step yet
        self._plain: Counter[Series] = Counter()
        self._gauges: dict[Series, float] = {}

    # --- what a request adds -----------------------------------------------------------------------

    def request(self, outcome: str, finish: FinishReason | None, prompt: int, generated: int) -> None:
        """Count a request that was opened. outcome: of meters.OUTCOMES.  prompt, generated: tokens."""
        pile = self._pile("request")
        told = (outcome if outcome in OUTCOMES else OTHER, finish.value if finish else "")
        pile.counts["requests_total", told] += 1
        pile.counts["prompt_tokens_total", ()] += prompt
        pile.counts["generation_tokens_total", ()] += generated

    def times(  # noqa: PLR0917 - five times in the order in which they pass
        self, queue_s: float, prefill_s: float, first_s: float, decode_s: float, e2e_s: float, gaps: Sequence[float]
    ) -> None:
        """Count what one request took, and the seconds between its tokens."""
        pile = self._pile("times")
        for name, seconds in zip(_TIMES, (queue_s, prefill_s, first_s, decode_s, e2e_s), strict=True):
            pile.buckets[name, bucket(METERS[name].bounds, seconds)] += 1
        bounds = METERS["inter_token_latency_seconds"].bounds
        pile.buckets.update(("inter_token_latency_seconds", bucket(bounds, gap)) for gap in gaps)

    def cancelled(self, where: str, seconds: float) -> None:
        """Count a request that was left. where: of meters.PLACES.  seconds: until its place was free."""
        pile = self._pile("cancelled")
        pile.counts["cancelled_total", (where if where in PLACES else OTHER,)] += 1
        pile.buckets["cancel_seconds", bucket(METERS["cancel_seconds"].bounds, seconds)] += 1

    def prefix(self, queries: int, hits: int) -> None:
        """Count tokens of one request that were looked up in the prefix cache, and that were there."""
        pile = self._pile("prefix")
        pile.counts["prefix_cache_queries_total", ()] += queries
        pile.counts["prefix_cache_hits_total", ()] += hits

    def _pile(self, name: str) -> _Pile:
        pile = self._piles.setdefault(name, _Pile(since=self._now()))
        pile.requests += 1
        return pile

    # --- what is about the engine ------------------------------------------------------------------

    def rebuilt(self, n: int = 1) -> None:
        """Count batches that were rebuilt."""
        self._plain["engine_rebuilds_total", ()] += n

    def gauges(  # noqa: PLR0917 - by name at its one call
        self,
        running: int,
        waiting: int,
        predicted_wait_s: float,
        kv_used_bytes: int,
        kv_room_bytes: int,
        memory_bytes: int,
        rows: Mapping[str, int],
    ) -> None:
        """Note how things are; what is 0 is not known, where that means bytes. rows: band -> rows of its batch."""
        found: dict[Series, float] = {
            ("requests_running", ()): people(running),
            ("requests_waiting", ()): people(waiting),
            ("predicted_wait_seconds", ()): wait(predicted_wait_s),
        }
        if kv_room_bytes:
            found["kv_cache_usage_ratio", ()] = stepped(kv_used_bytes / kv_room_bytes, RATIO_STEP)
            found["memory_bytes", ("kv_room",)] = stepped(kv_room_bytes, MEMORY_STEP)
        if memory_bytes:
            found["memory_bytes", ("worker",)] = stepped(memory_bytes, MEMORY_STEP)
        bands = list(rows.items())[:MAX_BANDS]
        self._gauges = found | {("batch_rows", (band,)): float(people(number)) for band, number in bands}

    # --- out ---------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Return what may be told and was not yet, for ``Metrics.absorb``: JSON of sums, buckets and gauges."""
        counts, buckets = self._plain, Counter[Place]()
        self._plain = Counter()
        for name, pile in list(self._piles.items()):
            if pile.requests >= self._group or self._now() - pile.since >= PATIENCE_S:
                del self._piles[name]
                counts.update(pile.counts)
                buckets.update(pile.buckets)
        told: dict[str, list[Any]] = {
            "counts": [[name, labels, n] for (name, labels), n in self._steps(counts).items() if n],
            "buckets": [[name, index, n] for (name, index), n in buckets.items()],
            "gauges": [[name, labels, value] for (name, labels), value in self._gauges.items()],
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def _steps(self, counts: Counter[Series]) -> Counter[Series]:
        """Keep back what makes no whole step of tokens."""
        for series in [series for series in counts if METERS[series[0]].words.endswith(f"steps of {TOKEN_STEP}.")]:
            steps, self._rest[series] = divmod(self._rest[series] + counts[series], TOKEN_STEP)
            counts[series] = steps * TOKEN_STEP
        return counts


def people(number: int) -> int:
    """Round a number of requests up: none, 4, 8, 16 and so on."""
    return max(FEWEST, 1 << (number - 1).bit_length()) if number > 0 else 0


def wait(seconds: float) -> float:
    """Round a wait up by doubling, from a quarter of a second."""
    rounded = 0.0 if seconds <= 0 else SHORTEST_WAIT_S
    while rounded < seconds:
        rounded *= 2
    return rounded


def stepped(value: float, step: float) -> float:
    """Round up to whole steps."""
    return -(-value // step) * step
