"""What the node shows to Prometheus: sums of what gateway and worker counted, and what is public about its keys.

The worker's part arrives coarse (``tally``); what is counted here is of the gateway, which sees no content.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.errors import ErrorCode

from .events import Phase
from .meters import METERS, OTHER, PLACES, PREFIX, Meter, Shape, middle
from .publication import Publication, newest_bundle

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # every version of Prometheus reads it
STALE_S = 30.0  # a worker that says nothing for so long has no gauges any more

Series = tuple[str, tuple[str, ...]]
_CODES = tuple(code.value.lower() for code in ErrorCode)
_PLAIN = (
    *("decrypt_failures_total", "replays_rejected_total", "engine_rebuilds_total", "worker_restarts_total"),
    *("worker_stderr_bytes_total", "prompt_tokens_total", "generation_tokens_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total"),
)
_ENDS = (("ok", "stop"), ("ok", "length"), ("error", ""), ("cancelled", ""))


class Metrics:
    """Counts, and shows. now: unix seconds.  clock: seconds on a clock nobody sets."""

    def __init__(self, *, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._clock = clock
        self._version = version("hybrid-pcc")
        self._counts: Counter[Series] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._worker: dict[Series, float] = {}  # gauges
        self._heard = -math.inf
        self._own: dict[Series, float] = {}
        self._zero()

    def _zero(self) -> None:
        """Begin every series whose labels are known with 0, so that a first increase shows as one."""
        for name in _PLAIN:
            self._counts[name, ()] = 0
        for code in _CODES:
            self._counts["rejected_total", (code,)] = 0
        for outcome, finish in _ENDS:
            self._counts["requests_total", (outcome, finish)] = 0
        for place in PLACES:
            self._counts["cancelled_total", (place,)] = 0
        for meter in METERS.values():
            if meter.shape is Shape.HISTOGRAM:
                self._buckets[meter.name] = [0] * (len(meter.bounds) + 1)
        self.startup(Phase.INIT)
        self._own["draining", ()] = 0.0

    # --- what happens in the gateway ---------------------------------------------------------------

    def refused(self, code: ErrorCode) -> None:
        """Count a request that was refused outside the seal."""
        self._counts["rejected_total", (code.value.lower(),)] += 1

    def undecryptable(self) -> None:
        """Count a request that no key opened."""
        self._counts["decrypt_failures_total", ()] += 1

    def replayed(self) -> None:
        """Count a request that came twice."""
        self._counts["replays_rejected_total", ()] += 1

    def cancelled(self, where: str) -> None:
        """Count a reader that left. where: of meters.PLACES."""
        self._counts["cancelled_total", (where if where in PLACES else OTHER,)] += 1

    def restarted(self) -> None:
        """Count a worker that took the place of one that ended."""
        self._counts["worker_restarts_total", ()] += 1

    def startup(self, phase: Phase) -> None:
        """Note the phase the node is in."""
        self._own |= {("startup_phase", (one.value,)): float(one is phase) for one in Phase}

    def draining(self, draining: bool) -> None:
        """Note whether new requests are refused for good."""
        self._own["draining", ()] = float(draining)

    def told(self, counts: Mapping[str, int]) -> None:
        """Take what the launcher counted since the start: ``worker_stderr_bytes``, ``audit_failures``."""
        if "worker_stderr_bytes" in counts:
            self._counts["worker_stderr_bytes_total", ()] = int(counts["worker_stderr_bytes"])
        if "audit_failures" in counts:
            self._own["audit_failures", ()] = float(counts["audit_failures"])

    # --- what the worker counted -------------------------------------------------------------------

    def absorb(self, payload: bytes) -> None:
        """Add what ``Tally.take`` gave."""
        told = json.loads(payload)
        for name, labels, n in told["counts"]:
            self._counts[name, tuple(labels)] += n
        for name, index, n in told["buckets"]:
            self._buckets[name][index] += n
        self._worker = {(name, tuple(labels)): value for name, labels, value in told["gauges"]}
        self._heard = self._clock()

    # --- out ---------------------------------------------------------------------------------------

    def expose(self, publication: Publication | None = None) -> bytes:
        """Return everything in the text format of Prometheus."""
        gauges = self._own | self._public(publication)
        if self._clock() - self._heard < STALE_S:
            gauges |= self._worker
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Shown(self._counts, self._buckets, gauges))
        return bytes(generate_latest(registry))

    def _public(self, publication: Publication | None) -> dict[Series, float]:
        """Return what the newest publication says about keys and evidence."""
        if publication is None:
            return {("build_info", (self._version, "", "")): 1.0}
        statement, now = newest_bundle(publication).statement, self._now()
        from .entry import TIERS  # not before there is something published: it brings the worker's imports

        return {
            ("build_info", (self._version, statement.config_digest.hex(), publication.model_id)): 1.0,
            ("key_age_seconds", ()): max(0.0, now - CLOCK_TOLERANCE_S - min(row.opens for row in publication.accepted)),
            ("key_not_after_timestamp_seconds", ()): float(statement.not_after),
            ("evidence_age_seconds", ()): max(0.0, now - statement.not_before),
            ("assurance_tier", ()): float(max(TIERS[form] for form in statement.formats)),
        }


class _Shown(Collector):
    """One scrape's families, in the order of the table."""

    def __init__(
        self, counts: Mapping[Series, float], buckets: Mapping[str, list[int]], gauges: Mapping[Series, float]
    ) -> None:
        self._counts = counts
        self._buckets = buckets
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have something to show."""
        for meter in METERS.values():
            if meter.shape is Shape.HISTOGRAM:
                yield _histogram(meter, self._buckets[meter.name])
            else:
                yield from self._family(meter)

    def _family(self, meter: Meter) -> Iterator[Metric]:
        counter = meter.shape is Shape.COUNTER
        family = (CounterMetricFamily if counter else GaugeMetricFamily)(
            PREFIX + meter.name, meter.words, labels=meter.labels
        )
        for (name, labels), value in (self._counts if counter else self._gauges).items():
            if name == meter.name:
                family.add_metric(labels, value)
        if family.samples:
            yield family


def _histogram(meter: Meter, counts: list[int]) -> Metric:
    """Cumulate the buckets; the sum is made of their middles."""
    family = HistogramMetricFamily(PREFIX + meter.name, meter.words)
    bounds = [*(str(bound) for bound in meter.bounds), "+Inf"]
    running = [sum(counts[: index + 1]) for index in range(len(counts))]
    total = sum(n * middle(meter.bounds, index) for index, n in enumerate(counts))
    family.add_metric((), list(zip(bounds, running, strict=True)), total)
    return family
