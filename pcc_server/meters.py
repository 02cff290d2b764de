"""What is measured, by name: the one table of worker, gateway, dashboard and documents (node design 3.10).

Shapes follow vLLM where it has the same, so that dashboards port. A label's values come from closed sets of ours:
never a user, a key, a token or an address.
"""

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "pcc_"


class Shape(StrEnum):
    """How a meter moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One family. name: without prefix, as it is shown.  bounds: upper bounds of a histogram's buckets, seconds."""

    name: str
    shape: Shape
    words: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def doubling(first: float, count: int) -> tuple[float, ...]:
    """Return bounds that grow by 2x: what falls between two of them is not told apart."""
    return tuple(first * 2**step for step in range(count))


def _counter(name: str, words: str, *labels: str) -> Meter:
    return Meter(name=name, shape=Shape.COUNTER, words=words, labels=labels)


def _gauge(name: str, words: str, *labels: str) -> Meter:
    return Meter(name=name, shape=Shape.GAUGE, words=words, labels=labels)


def _times(name: str, words: str, bounds: tuple[float, ...]) -> Meter:
    return Meter(name=name, shape=Shape.HISTOGRAM, words=words, bounds=bounds)


_LONG = doubling(1 / 16, 15)  # 62.5 ms to 1024 s: a request may take 600
_SHORT = doubling(1 / 1024, 13)  # 1 ms to 4 s

METERS: dict[str, Meter] = {
    meter.name: meter
    for meter in (
        _gauge("requests_running", "Requests being answered, rounded up to 4, 8, 16 and so on."),
        _gauge("requests_waiting", "Requests that wait, rounded up to 4, 8, 16 and so on."),
        _gauge("predicted_wait_seconds", "What a request that came now would wait, rounded up by doubling."),
        _gauge("batch_rows", "Rows of the batch in each band of lengths, rounded up as requests are.", "band"),
        _gauge("kv_cache_usage_ratio", "Share of the room for keys and values in use, rounded up to sixteenths."),
        _gauge("memory_bytes", "Memory of the worker, rounded up to 64 MiB.", "kind"),
        _counter("requests_total", "Requests that were opened, by how they ended.", "outcome", "finish_reason"),
        _counter("prompt_tokens_total", "Tokens read, in steps of 256."),
        _counter("generation_tokens_total", "Tokens written, in steps of 256."),
        _counter("prefix_cache_queries_total", "Tokens looked up in the prefix cache, in steps of 256."),
        _counter("prefix_cache_hits_total", "Tokens found there, in steps of 256."),
        _times("time_to_first_token_seconds", "From admission into the node to the first token.", _LONG),
        _times("inter_token_latency_seconds", "Between two tokens of one answer.", _SHORT),
        _times("e2e_request_latency_seconds", "From admission into the node to the end.", _LONG),
        _times("request_queue_time_seconds", "Waiting for a place in the batch.", _LONG),
        _times("request_prefill_time_seconds", "Reading the prompt.", _LONG),
        _times("request_decode_time_seconds", "Writing the answer.", _LONG),
        _times("cancel_seconds", "From a cancel to the place being free.", _SHORT),
        _counter("rejected_total", "Requests refused before an answer began, by code.", "reason"),
        _counter("cancelled_total", "Answers whose reader left before their end.", "where"),
        _counter("decrypt_failures_total", "Requests that no key here opens."),
        _counter("replays_rejected_total", "Requests that came a second time."),
        _counter("engine_rebuilds_total", "Batches rebuilt after a fault of the engine."),
        _counter("worker_restarts_total", "Workers started after one that ended."),
        _counter("worker_stderr_bytes_total", "What libraries printed in the worker; it was dropped unseen."),
        _gauge("key_age_seconds", "Since the epoch of the oldest key that still opens requests began."),
        _gauge("key_not_after_timestamp_seconds", "Unix time at which the last published key ends."),
        _gauge("evidence_age_seconds", "Since the epoch that the newest evidence is for began."),
        _gauge("assurance_tier", "The tier that this node's evidence can reach."),
        _gauge("audit_failures", "Guarantees that the last audit found broken."),
        _gauge("startup_phase", "1 for the phase the node is in.", "phase"),
        _gauge("draining", "1 while no new request is taken."),
        _gauge("build_info", "1; measurement: the digest of the configuration.", "version", "measurement", "model"),
    )
}
OUTCOMES = ("ok", "error", "cancelled")
PLACES = ("queue", "prefill", "decode", "gateway")
OTHER = "other"  # a label's value outside its set


def bucket(bounds: tuple[float, ...], value: float) -> int:
    """Return the index of the bucket that a value falls into; the last one has no bound."""
    return next((index for index, bound in enumerate(bounds) if value <= bound), len(bounds))


def middle(bounds: tuple[float, ...], index: int) -> float:
    """Return what stands for every value of a bucket: its geometric middle. A sum then tells no more."""
    return float(bounds[min(index, len(bounds) - 1)] * (2**0.5 if index == len(bounds) else 2**-0.5))
