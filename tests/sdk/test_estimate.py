"""What each route would take: arithmetic over what was measured, unknown where nothing was; kept without content."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.actions import Outcome
from hybrid.aio import AsyncClient
from hybrid.compose import Ask, LabelledMessage, compose
from hybrid.driver import Driver
from hybrid.estimate import NOT_SEEN, Load, Speed, cost, estimate, waits
from hybrid.local import DeviceModel
from hybrid.preview import Preview, would_send
from hybrid.routing.labels import Source
from hybrid.routing.signals import prices
from hybrid.settings import Settings
from hybrid.speeds import MOST, SpeedBook, Stopwatch
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.wire.types import Chunk, EngineTiming, Route, Usage
from tests.support import Bench

HERE, THERE = Route.ON_DEVICE, Route.PRIVATE_CLOUD
LOAD = Load(prompt_tokens=1000, most_tokens=512, wire_bytes=5000)
FAST = Speed(prefill_tps=1000.0, decode_tps=50.0, answer_tokens=100.0, start_s=2.0, link_s=0.5)


def test_seconds_are_reading_writing_and_what_comes_before() -> None:
    here = estimate(HERE, LOAD, FAST)
    assert (here.seconds_low, here.seconds_high) == (1000 / 1000 + 50 / 50, 1000 / 1000 + 200 / 50)
    assert estimate(HERE, LOAD, FAST, ready=False).seconds_low == 4.0
    assert estimate(THERE, LOAD, FAST).seconds_low == 2.5
    assert (here.bytes, here.money, estimate(THERE, LOAD, FAST).bytes) == (0, 0.0, 5000)


def test_the_answer_is_never_expected_to_be_longer_than_its_limit() -> None:
    short = estimate(HERE, replace(LOAD, most_tokens=10), FAST)
    assert short.seconds_low == short.seconds_high == 1.2


@pytest.mark.parametrize("missing", ["prefill_tps", "decode_tps", "start_s", "link_s"])
def test_what_was_never_measured_is_unknown(missing: str) -> None:
    found = estimate(THERE, LOAD, replace(FAST, **{missing: None}), ready=False)
    assert (found.seconds, found.unknown) == (None, ("seconds", "money"))
    assert found.to_dict()["seconds"] is None


def test_money_is_unknown_without_a_price_and_the_price_of_all_tokens_with_one() -> None:
    assert estimate(THERE, LOAD, FAST, price=0.02).money == pytest.approx(0.022)
    assert estimate(THERE, LOAD, FAST).money is None
    assert cost(Usage(input=1500, output=500), 0.02) == pytest.approx(0.04)
    assert cost(Usage(input=1500, output=500), None) is None


def test_waits_are_known_for_both_routes_or_for_neither() -> None:
    here, there = estimate(HERE, LOAD, FAST), estimate(THERE, LOAD, FAST)
    assert waits((here, there)) == (3.5, 4.0)
    assert waits((here, estimate(THERE, LOAD))) == waits((here,)) == waits(()) == (None, None)


@given(st.floats(0.5, 5000), st.floats(0.5, 5000), st.floats(0.5, 500), st.floats(0.5, 500))
def test_a_slower_machine_never_waits_less(read: float, reads: float, write: float, writes: float) -> None:
    slow = Speed(prefill_tps=min(read, reads), decode_tps=min(write, writes))
    fast = Speed(prefill_tps=max(read, reads), decode_tps=max(write, writes))
    assert (estimate(HERE, LOAD, slow).seconds or 0) >= (estimate(HERE, LOAD, fast).seconds or 0)


def test_a_mean_forgets_and_is_kept_to_two_digits() -> None:
    speed = NOT_SEEN
    for _ in range(40):
        speed = speed.seen(Speed(decode_tps=10.123))
    assert speed == Speed(decode_tps=10.0)
    assert speed.seen(Speed(decode_tps=20.0)).decode_tps == 13.0
    assert speed.seen(NOT_SEEN) == speed


@pytest.mark.parametrize("nonsense", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reading_that_means_nothing_changes_nothing(nonsense: float) -> None:
    assert FAST.seen(Speed(decode_tps=nonsense)) == FAST


def watched(route: Route, *chunks: Chunk, ready: bool = True, **outcome: Any) -> Speed:
    """Let a stopwatch see an answer; each look at the clock is a second later."""
    ticks = iter(range(100))
    watch = Stopwatch(route, ready=ready, now=lambda: float(next(ticks)))
    for chunk in chunks:
        watch.saw(chunk)
    return watch.speed(Outcome(model="m", **outcome))


LAST = Chunk(
    usage=Usage(input=100, output=37),
    timing=EngineTiming(queue_s=0.25, prefill_tps=800.0, decode_tps=40.0),
)


def test_a_stopwatch_reads_the_engines_own_figures() -> None:
    assert watched(HERE, Chunk(text="a"), LAST) == Speed(prefill_tps=800.0, decode_tps=40.0, answer_tokens=32.0)
    assert watched(HERE, Chunk(text="a"), LAST, ready=False).start_s == 1.0
    there = watched(THERE, Chunk(text="a"), LAST, ready=False, attest_s=0.7, network_s=0.1)
    assert (there.start_s, there.link_s) == (0.7, 0.35)


def test_a_few_tokens_say_nothing_about_speed() -> None:
    short = replace(LAST, usage=Usage(input=100, cached_input=90, output=3))
    assert watched(HERE, short) == Speed(answer_tokens=4.0)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_speeds_are_kept_for_the_next_program(tmp_path: Path) -> None:
    SpeedBook(tmp_path).note(HERE, "m", FAST)
    SpeedBook(tmp_path).note(THERE, "host:1", replace(FAST, decode_tps=9.0))
    again = SpeedBook(tmp_path)
    assert (again.of(HERE, "m"), again.of(THERE, "host:1").decode_tps, again.of(HERE, "other")) == (FAST, 9.0, NOT_SEEN)
    assert (tmp_path / "speeds.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"on_device m": {"decode_tps": "x", "prefill_tps": true}}', b"\xff"]
)
def test_a_damaged_file_costs_no_answer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "speeds.json").write_bytes(content)
    book = SpeedBook(tmp_path)
    assert book.of(HERE, "m") == NOT_SEEN
    book.note(HERE, "m", FAST)
    assert book.of(HERE, "m") == FAST


def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    book = SpeedBook(tmp_path / "file")
    book.note(HERE, "m", FAST)
    assert book.of(HERE, "m") == FAST


def test_no_more_than_so_many_answerers_are_kept(tmp_path: Path) -> None:
    book = SpeedBook(tmp_path)
    for i in range(MOST + 5):
        book.note(HERE, f"m{i}", FAST)
    kept = json.loads((tmp_path / "speeds.json").read_text())
    assert len(kept) == MOST
    assert f"on_device m{MOST + 4}" in kept


def test_answers_leave_coarse_numbers_and_no_content(tmp_path: Path) -> None:
    bench = Bench(
        device=FakeEngine(["word " * 37 + "canary-answer"]), node=MemoryTransport(FakeEngine(["there " * 20]))
    )

    async def talk() -> None:
        async with AsyncClient(**bench.options(state=tmp_path)) as client:
            question = "canary-question " * 20
            await client.ask(question, policy="only_on_device")
            await client.ask(question, policy="only_private_cloud")

    asyncio.run(talk())
    kept = (tmp_path / "speeds.json").read_text()
    assert "canary" not in kept
    values = json.loads(kept)
    assert set(values) == {"on_device fake-device", f"private_cloud {bench.node.address}"}
    assert values["on_device fake-device"]["answer_tokens"] == 32.0
    assert values[f"private_cloud {bench.node.address}"]["start_s"] > 0


# --- the way into a decision -----------------------------------------------------------------------------------------


class Loaded(FakeEngine):
    """A model of this machine that is in memory."""

    loaded = True


def found_here(*_: object) -> FakeEngine:
    return Loaded()


@pytest.mark.parametrize(("here_s", "there_s"), [(20.0, None), (None, 2.0), (20.0, 2.0)])
def test_known_waits_of_both_routes_are_priced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here_s: float | None, there_s: float | None
) -> None:
    monkeypatch.setattr(DeviceModel, "find", found_here)
    node = MemoryTransport()
    driver = Driver(Settings(transport=node, trust=node.policy, state=tmp_path))
    for route, name, seconds in ((HERE, "fake-device", here_s), (THERE, node.address, there_s)):
        if seconds is not None:
            speed = Speed(prefill_tps=1e9, decode_tps=64 / seconds, answer_tokens=64.0, start_s=0.01, link_s=0.01)
            driver.speeds.note(route, name, speed)
    signals = asyncio.run(driver.signals(Ask(turn=compose("hello there", ()))))
    known = here_s is not None and there_s is not None
    assert (signals.device_wait_s is None) == (signals.cloud_wait_s is None) == (not known)
    need = prices(signals, size_bytes=10, context_tokens=10).need
    assert need < 0.02 if known else need == 0.02


def test_a_given_engine_is_timed_and_not_priced(tmp_path: Path) -> None:
    bench = Bench(device=FakeEngine(["word " * 20]), node=MemoryTransport(FakeEngine(["word " * 20])))

    async def talk() -> tuple[Preview, Preview]:
        async with AsyncClient(**bench.options(state=tmp_path, price=0.5)) as client:
            before = await client.preview("hello", max_tokens=50)
            for policy in ("only_on_device", "only_private_cloud"):
                await client.ask("a question of some length " * 8, policy=policy, max_tokens=50)
            return before, await client.preview("hello", max_tokens=50)

    before, after = asyncio.run(talk())
    assert after.would_send.bytes_wire < before.would_send.bytes_wire  # one node, as is known by now
    assert [e.unknown for e in before.estimates] == [("seconds",), ("seconds",)]
    assert [e.unknown for e in after.estimates] == [(), ("seconds",)]  # this node does not say how long it took
    here, there = after.estimates
    assert (here.route, here.bytes, here.money, there.route) == (HERE, 0, 0.0, THERE)
    assert there.bytes > 0
    assert 0 < (there.money or 0) < 0.1
    assert before.decision.signals["price"] == after.decision.signals["price"]


# --- what would be sent ----------------------------------------------------------------------------------------------


def asked(*sources: Source, history: tuple[LabelledMessage, ...] = ()) -> Ask:
    return Ask(turn=compose("Which is better?", sources), history=tuple(compose((*history, LAST_WORDS), ()))[:-1])


LAST_WORDS = LabelledMessage(role="user", content="x", max_route="private_cloud")


def test_what_would_be_sent_is_named_with_its_kind_and_size() -> None:
    send = would_send(
        asked(Source(label="offers.txt", text="One. Two, ü.", kind="file")), leaves=True, node="n:1", candidates=1
    )
    assert [(p.source, p.kind, p.bytes) for p in send.segments] == [("offers.txt", "file", 13), ("prompt", "typed", 16)]
    assert send.bytes_wire > send.bytes_plain > 29
    assert "Which" not in str(send.to_dict())


def test_what_may_not_leave_is_held_and_nothing_else_is_listed() -> None:
    send = would_send(asked(Source(label="a.eml", text="Secret.", kind="mail")), leaves=True, node="n:1", candidates=1)
    assert (send.leaves, send.held_by, send.segments, send.bytes_wire) == (False, "a.eml", (), 0)


def test_without_a_node_nothing_would_be_sent() -> None:
    assert would_send(asked(), leaves=False, node="", candidates=1).segments == ()


def test_earlier_turns_that_stay_are_listed_as_kept_back() -> None:
    turns = (
        LabelledMessage(role="user", content="What does the mail say?", max_route="on_device", source="a.eml"),
        LabelledMessage(role="assistant", content="It is about money.", max_route="on_device", source="a.eml"),
    )
    send = would_send(asked(history=turns), leaves=True, node="n:1", candidates=1)
    assert [p.source for p in send.segments] == ["prompt"]
    assert send.withheld
    assert all(p.max_route == "on_device" for p in send.withheld)
    assert "money" not in str(send.to_dict())
