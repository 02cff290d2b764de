"""What the node shows to Prometheus: fixed names, and too coarse to read one user from it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hybrid.wire.errors import ErrorCode
from hybrid.wire.types import FinishReason
from pcc_server.events import Phase
from pcc_server.meters import METERS, OTHER, OUTCOMES, PLACES, PREFIX, Meter, Shape, bucket
from pcc_server.metrics import STALE_S, Metrics
from pcc_server.tally import GROUP, PATIENCE_S, Tally, people, wait
from tests.pcc_server.leaks import leaks

ROOT = Path(__file__).parents[2]
LABELS = {"model", "reason", "phase", "outcome", "where", "finish_reason", "band", "kind", "version", "measurement"}
NAMES = """
    requests_running requests_waiting predicted_wait_seconds batch_rows kv_cache_usage_ratio memory_bytes
    requests_total prompt_tokens_total generation_tokens_total prefix_cache_queries_total prefix_cache_hits_total
    time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds request_queue_time_seconds
    request_prefill_time_seconds request_decode_time_seconds cancel_seconds
    rejected_total cancelled_total decrypt_failures_total replays_rejected_total engine_rebuilds_total
    worker_restarts_total worker_stderr_bytes_total
    key_age_seconds key_not_after_timestamp_seconds evidence_age_seconds assurance_tier audit_failures
    startup_phase draining build_info
"""  # node design 3.10
VLLM = """
    prompt_tokens_total generation_tokens_total prefix_cache_queries_total prefix_cache_hits_total
    time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds request_queue_time_seconds
    request_prefill_time_seconds request_decode_time_seconds
"""  # vllm-project/vllm: the same names behind "vllm:", the same shapes
CANARY = "canary-7f3a91"


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def one(tally: Tally, *, prompt: int = 700, generated: int = 40, first_s: float = 0.3, gaps: int = 39) -> None:
    """Count one request as the worker does."""
    tally.request("ok", FinishReason.STOP, prompt, generated)
    tally.times(0.01, first_s - 0.01, first_s, gaps * 0.05, first_s + gaps * 0.05, [0.05] * gaps)
    tally.prefix(prompt, prompt // 2)


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample of a scrape."""
    families = text_string_to_metric_families(metrics.expose().decode())
    return {f"{s.name}{sorted(s.labels.items())}": s.value for family in families for s in family.samples}


def between_scrapes(tally: Tally, metrics: Metrics, act: Callable[[], None]) -> dict[str, float]:
    """What a reader of two scrapes sees of what happened between them."""
    metrics.absorb(tally.take())
    before = values(metrics)
    act()
    metrics.absorb(tally.take())
    after = values(metrics)
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


# --- names -----------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_design_and_labels_come_from_a_closed_set() -> None:
    assert sorted(METERS) == sorted(NAMES.split())
    assert {label for meter in METERS.values() for label in meter.labels} <= LABELS


def test_what_vllm_has_has_its_name_and_shape() -> None:
    for name in VLLM.split():
        assert METERS[name].shape is (Shape.COUNTER if name.endswith("_total") else Shape.HISTOGRAM)


def test_shapes_follow_from_names_and_buckets_double() -> None:
    for meter in METERS.values():
        assert (meter.shape is Shape.COUNTER) == meter.name.endswith("_total")
        assert bool(meter.bounds) == (meter.shape is Shape.HISTOGRAM)
        assert all(after == 2 * before for before, after in pairwise(meter.bounds))


def filled() -> Metrics:
    """Metrics with something in every family."""
    tally, metrics = Tally(), Metrics()
    for _ in range(GROUP):
        one(tally)
        tally.cancelled("decode", 0.01)
    tally.rebuilt()
    tally.gauges(3, 1, 0.4, 10, 100, 2**30, {"8k": 3})
    metrics.absorb(tally.take())
    metrics.refused(ErrorCode.BUSY)
    metrics.cancelled("gateway")
    metrics.replayed()
    metrics.undecryptable()
    metrics.restarted()
    metrics.startup(Phase.LOAD)
    metrics.draining(True)  # noqa: FBT003 - the one thing it says
    metrics.told({"worker_stderr_bytes": 7, "audit_failures": 2})
    return metrics


TRUST = {"key_age_seconds", "key_not_after_timestamp_seconds", "evidence_age_seconds", "assurance_tier"}


def test_what_is_shown_parses_and_is_the_table() -> None:
    text = filled().expose().decode()
    shown = {family.name: family for family in text_string_to_metric_families(text)}
    expected = {meter.name: meter for meter in METERS.values() if meter.name not in TRUST}
    assert {name.removeprefix(PREFIX) for name in shown} == {name.removesuffix("_total") for name in expected}
    for name, meter in expected.items():
        family = shown[PREFIX + name.removesuffix("_total")]
        assert (family.type, family.documentation) == (meter.shape.value, meter.words)
        assert {label for sample in family.samples for label in sample.labels} - {"le"} <= set(meter.labels)
    if promtool := shutil.which("promtool"):  # where it is installed: CI has it
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_values_arrive_where_they_belong() -> None:
    seen = values(filled())
    assert seen["pcc_requests_total[('finish_reason', 'stop'), ('outcome', 'ok')]"] == GROUP
    assert seen["pcc_request_decode_time_seconds_count[]"] == GROUP
    assert seen["pcc_cancel_seconds_count[]"] == GROUP
    assert seen["pcc_cancelled_total[('where', 'decode')]"] == GROUP
    assert seen["pcc_cancelled_total[('where', 'gateway')]"] == 1
    assert seen["pcc_prompt_tokens_total[]"] == 700 * GROUP // 256 * 256
    assert seen["pcc_rejected_total[('reason', 'busy')]"] == 1
    assert seen["pcc_startup_phase[('phase', 'load')]"] == 1
    assert seen["pcc_startup_phase[('phase', 'init')]"] == 0
    assert seen["pcc_worker_stderr_bytes_total[]"] == 7
    assert seen["pcc_audit_failures[]"] == 2
    assert seen["pcc_batch_rows[('band', '8k')]"] == 4
    assert seen["pcc_engine_rebuilds_total[]"] == 1


def test_dashboard_and_alerts_ask_for_nothing_else() -> None:
    files = [path for kind in ("*.json", "*.yml", "*.yaml") for path in (ROOT / "deploy").rglob(kind)]
    asked = {name for path in files for name in re.findall(r"\bpcc_(?!server)[a-z0-9_]+", path.read_text())}
    assert asked, "deploy/ asks for no metric at all"
    known = set(METERS) | {
        f"{meter.name}_{part}"
        for meter in METERS.values()
        for part in ("bucket", "sum", "count")
        if meter.shape is Shape.HISTOGRAM
    }
    assert not {name for name in asked if name.removeprefix(PREFIX) not in known}


# --- nobody alone ----------------------------------------------------------------------------------


def test_one_users_request_cannot_be_read_from_two_scrapes() -> None:
    clock = Clock()
    tally, metrics = Tally(now=clock), Metrics(clock=clock)
    assert not between_scrapes(tally, metrics, lambda: one(tally))
    told = between_scrapes(tally, metrics, lambda: [one(tally) for _ in range(GROUP - 1)] and None)
    assert told["pcc_requests_total[('finish_reason', 'stop'), ('outcome', 'ok')]"] == GROUP


def test_a_build_that_publishes_singly_would_be_noticed() -> None:
    clock = Clock()
    tally, metrics = Tally(now=clock, group=1), Metrics(clock=clock)
    seen = between_scrapes(tally, metrics, lambda: one(tally))
    assert seen["pcc_requests_total[('finish_reason', 'stop'), ('outcome', 'ok')]"] == 1
    assert seen["pcc_inter_token_latency_seconds_count[]"] == 39  # the length of that one answer


def test_who_sends_seven_of_eight_requests_learns_of_the_eighth_no_more_than_a_bucket() -> None:
    def seen(**victim: float) -> dict[str, float]:
        clock = Clock()
        tally, metrics = Tally(now=clock), Metrics(clock=clock)

        def act() -> None:
            for _ in range(GROUP - 1):
                one(tally, prompt=100)
            one(tally, **victim)  # type: ignore[arg-type]

        return between_scrapes(tally, metrics, act)

    assert seen(prompt=330, first_s=1.1) == seen(prompt=560, first_s=1.9)
    assert seen(prompt=330, first_s=1.1) != seen(prompt=330, first_s=2.1)  # another bucket: the comparison can fail


def test_a_lone_request_waits_five_minutes_and_is_still_coarse() -> None:
    def seen(prompt: int, first_s: float) -> dict[str, float]:
        clock = Clock()
        tally, metrics = Tally(now=clock), Metrics(clock=clock)

        def wait_for(seconds: float) -> None:
            clock.s += seconds

        one(tally, prompt=prompt, first_s=first_s)
        assert not between_scrapes(tally, metrics, lambda: wait_for(PATIENCE_S - 1))
        return between_scrapes(tally, metrics, lambda: wait_for(1))

    told = seen(520, 1.1)
    assert told == seen(700, 1.9)
    assert told["pcc_request_queue_time_seconds_count[]"] == 1
    assert told["pcc_prompt_tokens_total[]"] == 512  # the rest waits for the next one


def test_tokens_that_wait_are_not_lost() -> None:
    tally, metrics = Tally(), Metrics()
    for _ in range(100):
        for _ in range(GROUP):
            one(tally, prompt=77)
        metrics.absorb(tally.take())
    assert 77 * GROUP * 100 - values(metrics)["pcc_prompt_tokens_total[]"] in range(256)


@pytest.mark.parametrize(("number", "shown"), [(0, 0), (1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (1000, 1024)])
def test_few_people_look_alike(number: int, shown: int) -> None:
    assert people(number) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0, 0), (0.01, 0.25), (0.25, 0.25), (0.3, 0.5), (3, 4), (8, 8)])
def test_a_wait_is_rounded_up_by_doubling(seconds: float, shown: float) -> None:
    assert wait(seconds) == shown


def test_gauges_of_two_lone_users_look_alike() -> None:
    def seen(running: int, kv: int, memory: int) -> dict[str, float]:
        tally, metrics = Tally(), Metrics()
        tally.gauges(running, 0, 0.0, kv, 2**30, memory, {"2k": running})
        metrics.absorb(tally.take())
        return values(metrics)

    assert seen(1, 3_000_000, 500_000_000) == seen(3, 60_000_000, 530_000_000)
    assert seen(1, 3_000_000, 500_000_000) != seen(5, 3_000_000, 500_000_000)


def test_a_worker_that_is_gone_has_no_gauges_and_keeps_its_counts() -> None:
    clock = Clock()
    tally, metrics = Tally(now=clock), Metrics(clock=clock)
    tally.gauges(1, 0, 0.0, 0, 0, 0, {})
    for _ in range(GROUP):
        one(tally)
    metrics.absorb(tally.take())
    clock.s += STALE_S
    seen = values(metrics)
    assert "pcc_requests_running[]" not in seen
    assert seen["pcc_requests_total[('finish_reason', 'stop'), ('outcome', 'ok')]"] == GROUP


# --- no text ---------------------------------------------------------------------------------------


def test_a_label_has_no_room_for_what_somebody_says() -> None:
    tally, metrics = Tally(group=1), Metrics()
    tally.request(CANARY, None, 1, 1)
    tally.cancelled(CANARY, 0.1)
    metrics.cancelled(CANARY)
    payload = tally.take()
    metrics.absorb(payload)
    assert not leaks(CANARY, payload, metrics.expose())
    assert f'where="{OTHER}"' in metrics.expose().decode()


def test_a_label_that_holds_words_would_be_noticed() -> None:
    metrics = Metrics()
    planted = {"counts": [["requests_total", [CANARY, ""], 1]], "buckets": [], "gauges": []}
    metrics.absorb(json.dumps(planted).encode())
    assert leaks(CANARY, metrics.expose())


def test_sets_are_closed() -> None:
    assert OUTCOMES == ("ok", "error", "cancelled")
    assert PLACES == ("queue", "prefill", "decode", "gateway")


def test_a_value_falls_into_the_first_bucket_that_holds_it() -> None:
    bounds = METERS["cancel_seconds"].bounds
    assert isinstance(METERS["cancel_seconds"], Meter)
    assert [bucket(bounds, value) for value in (0, bounds[0], bounds[0] * 1.01, bounds[-1], 1e9)] == [0, 0, 1, 12, 13]
