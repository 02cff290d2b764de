"""The arithmetic of admission: bytes that contexts can come to, waits, hints when to come back."""

import itertools
import math
import random

import pytest

from pcc_server.engines import Load
from pcc_server.forecast import (
    BANDS,
    FIRST_GUESS,
    Room,
    Running,
    Speeds,
    Work,
    band,
    kv_bytes,
    predicted_wait,
    retry_ms,
)

STARTER = 46_080  # bytes of one token of the starter's context in f32 (node design 3.14)
ONE_ROW = Room(rows=1)
STEADY = Speeds(step_s=0.1, answer=50)


# --- memory ----------------------------------------------------------------------------------------------


def test_bytes_are_those_that_were_measured() -> None:
    """Node design 3.4 and 3.14: 11.8 MB for 256 tokens, 70.8 MB for one stream of 1,500, 566 MB for eight."""
    assert kv_bytes([Work(1, 1)], STARTER) == 11_796_480
    assert kv_bytes([Work(1_000, 500)], STARTER) == 70_778_880
    assert kv_bytes([Work(1_000, 500), *[Work(10, 10)] * 7], STARTER) == 8 * 70_778_880


def test_short_ones_do_not_pay_for_one_that_never_was_as_short() -> None:
    short, long = [Work(100, 100)] * 15, Work(12_000, 1_000)
    assert kv_bytes([long], 1) == 13_056
    assert kv_bytes([*short, long], 1) == 15 * 256 + 13_056


def test_one_that_grows_through_a_band_makes_the_short_ones_pay_for_it() -> None:
    short, growing = [Work(100, 100)] * 15, Work(100, 12_000)
    assert kv_bytes([*short, growing], 1) == 15 * 2_048 + 12_288


def at_a_moment(works: list[Work], widths: list[int]) -> int:
    """Bytes when each is as wide as given, at one byte a token: rows x widest, in whole steps, band by band."""
    limits, total = (0, *BANDS, math.inf), 0
    for low, high in itertools.pairwise(limits):
        inside = [width for width in widths if low < width <= high]
        total += len(inside) * math.ceil(max(inside, default=0) / 256) * 256
    return total


def mixes(count: int) -> list[list[Work]]:
    rng = random.Random(7)  # noqa: S311 - a test's mixes
    lengths = [5, 100, 300, 2_000, 2_049, 5_000, 8_000, 9_000, 16_000]
    return [[Work(rng.choice(lengths), rng.choice(lengths)) for _ in range(rng.randint(1, 16))] for _ in range(count)]


def moments(works: list[Work], count: int = 20) -> list[list[int]]:
    rng = random.Random(len(works))  # noqa: S311 - a test's mixes
    return [[rng.randint(work.prompt, work.width) for work in works] for _ in range(count)]


def test_no_mix_ever_takes_more_than_was_reckoned() -> None:
    for works in mixes(500):
        assert all(at_a_moment(works, widths) <= kv_bytes(works, 1) for widths in moments(works))


def test_control_reckoning_each_in_its_last_band_alone_is_too_little() -> None:
    def naive(works: list[Work]) -> int:
        return at_a_moment(works, [work.width for work in works])

    assert any(at_a_moment(works, widths) > naive(works) for works in mixes(500) for widths in moments(works))


def test_a_room_holds_rows_and_bytes() -> None:
    works = [Work(100, 100)] * 3
    assert Room(rows=4).holds(works, Work(9, 9_999))
    assert not Room(rows=3).holds(works, Work(1, 1))
    tight = Room(rows=9, kv_token_bytes=10, kv_budget_bytes=10 * 1_024)
    assert tight.holds(works, Work(100, 156))
    assert not tight.holds(works, Work(100, 157))
    assert Room.of(Load(rows=2), 8).rows == Room.of(Load(rows=8), 2).rows == 2
    assert Room.of(Load(), 8).rows == 8


def test_bands_have_names() -> None:
    assert [band(Work(0, width)) for width in (1, 2_048, 2_049, 8_192, 8_193)] == ["2k", "2k", "8k", "8k", "above"]


# --- time ------------------------------------------------------------------------------------------------


def wait(running: list[Running], ahead: list[Work], own: Work, room: Room = ONE_ROW, speeds: Speeds = STEADY) -> float:
    return predicted_wait(running, ahead, own, room=room, speeds=speeds)


def test_a_free_place_is_no_wait_and_a_taken_one_is_what_it_still_needs() -> None:
    usual = Work(10, 100)
    assert wait([], [], usual) == 0
    assert wait([Running(usual)], [], usual) == pytest.approx(5.0)
    assert wait([Running(usual, generated=30)], [], usual) == pytest.approx(2.0)
    assert wait([Running(usual)], [usual, usual], usual) == pytest.approx(15.0)
    assert wait([Running(usual)] * 2, [usual] * 2, usual, Room(rows=2)) == pytest.approx(10.0)


def test_an_answer_that_may_not_be_long_is_not_taken_for_long_nor_an_overdue_one_for_over() -> None:
    assert wait([Running(Work(10, 20))], [], Work(1, 1)) == pytest.approx(2.0)
    assert wait([Running(Work(10, 1_000), generated=400)], [], Work(1, 1)) == pytest.approx(50 / 4 * 0.1)
    assert wait([Running(Work(10, 402), generated=400)], [], Work(1, 1)) == pytest.approx(0.2)


def test_prompts_are_read_one_after_the_other() -> None:
    speeds = Speeds(prefill_tps=100, step_s=0.1, answer=10)
    room = Room(rows=8)
    assert wait([], [], Work(1_000, 9), room, speeds) == 0
    assert wait([Running(Work(1_000, 9), read=400)], [Work(200, 9)], Work(5, 9), room, speeds) == pytest.approx(8.0)


def test_a_long_context_waits_for_room_that_a_short_one_has() -> None:
    room = Room(rows=8, kv_token_bytes=1, kv_budget_bytes=8_192)
    running = [Running(Work(1_000, 1_000)), Running(Work(10, 10), generated=8)]
    assert wait(running, [], Work(10, 10), room) == 0
    assert wait(running, [], Work(5_000, 500), room) == pytest.approx(0.2)


def test_speeds_are_learned_from_answers_and_told_by_the_engine() -> None:
    assert Speeds().run_s(Work(500, 500)) == 0  # nothing is known
    assert Speeds().answer == FIRST_GUESS
    told = Speeds().told(Load(prefill_tps=100, decode_tps=20))
    assert told.run_s(Work(500, 10)) == pytest.approx(5.0 + 0.5)
    learned = Speeds().learned(first_s=1.0, step_s=0.2, answer=40)
    assert learned.run_s(Work(500, 100)) == pytest.approx(1.0 + 39 * 0.2)
    assert learned.told(Load(decode_tps=1_000)).step_s == 0.2  # what answers have shown counts more
    for _ in range(60):
        learned = learned.learned(first_s=0.0, step_s=0.1, answer=10)
    assert learned.run_s(Work(500, 100)) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("wait_s", "drawn", "expected"),
    [
        (0.01, 200, 100),
        (0.1, 200, 100),
        (0.101, 200, 200),
        (2.0, 0, 1_600),
        (2.0, 400, 2_400),
        (29.0, 400, 30_000),
        (900.0, 0, 30_000),
        (0.0, 0, 80),
    ],
)
def test_a_hint_is_the_wait_rounded_up_give_or_take_a_fifth(wait_s: float, drawn: int, expected: int) -> None:
    assert retry_ms(wait_s, lambda below: min(drawn, below - 1)) == expected


def test_hints_differ() -> None:
    assert len({retry_ms(5.0) for _ in range(40)}) > 10
