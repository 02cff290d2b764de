"""Who runs, who waits in which order, who is told to come back: on a clock that jumps, so that minutes take no time."""

import asyncio
import contextlib
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hybrid.wire.errors import SealedCode
from pcc_server import places
from pcc_server.admission import LOOK_S, Admission, Bounds
from pcc_server.engines import Load
from pcc_server.errors import Busy, DeadlinePassed, Sealed
from pcc_server.tally import Tally

BOUNDS = Bounds(running=1, queued=32, queue_s=8.0, soft=0.85, hard=0.95)
STEP_S = 0.1


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock moves to the next thing that is due instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits and nothing is due"
        self._loop.now += timeout
        return super().select(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


@dataclass
class Fleet:
    """Requests that answer one token a step, once they may run."""

    admission: Admission
    waited: list[float] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    refused: list[Busy | DeadlinePassed | Sealed] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def _ask(self, name: str, tokens: int, *, tenant: int, prompt: int, most: int, left_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + left_s
        try:
            with self.admission.place(tenant=tenant, prompt=prompt, most=most, deadline=deadline) as place:
                self.waited.append(await place.turn())
                for _ in range(tokens):
                    await asyncio.sleep(STEP_S)
                    place.told(tokens=1)
            self.ended.append(name)
        except (Busy, DeadlinePassed, Sealed) as error:
            self.refused.append(error)

    def ask(
        self, name: str = "", *, tenant: int = 0, prompt: int = 10, tokens: int = 10, most: int = 0, left_s: float = 600
    ) -> asyncio.Task[None]:
        work = self._ask(name, tokens, tenant=tenant, prompt=prompt, most=most or tokens, left_s=left_s)
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    async def all(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def fleet(bounds: Bounds = BOUNDS, load: Callable[[], Load] | None = None, *, taught: bool = True) -> Fleet:
    """Return one whose admission has seen an answer of ten tokens, so that it knows how fast they come."""
    made = Fleet(Admission(bounds, load))
    if taught:
        await made.ask()
        made.ended.clear()
        made.waited.clear()
    return made


# --- order -----------------------------------------------------------------------------------------------


def test_the_shortest_prompt_goes_first() -> None:
    async def main() -> None:
        them = await fleet()
        for name, prompt in (("first", 1_000), ("long", 900), ("middle", 500), ("short", 5)):
            them.ask(name, prompt=prompt)
        await them.all()
        assert them.ended == ["first", "short", "middle", "long"]

    run(main)


@pytest.mark.parametrize("aging", [True, False])
def test_who_waits_grows_older_until_nobody_overtakes(monkeypatch: pytest.MonkeyPatch, aging: bool) -> None:
    """A long prompt among short ones that come faster than they are served. Without aging it is never its turn."""
    if not aging:
        monkeypatch.setattr(places, "AGING_TPS", 0)

    async def main() -> None:
        them = await fleet(replace(BOUNDS, queue_s=60.0, queued=500))
        them.ask("running")
        await asyncio.sleep(0)
        them.ask("long", prompt=8_000)
        for number in range(60):
            them.ask(str(number), prompt=5)
            await asyncio.sleep(0.5)
        assert ("long" in them.ended) is aging

    run(main)


@pytest.mark.parametrize("tenants", [True, False])
def test_one_request_beside_fifty_of_another_tenant_is_next(tenants: bool) -> None:
    """The control: without tenants it waits behind all who came before it, or is refused."""

    async def main() -> None:
        them = await fleet(replace(BOUNDS, queue_s=70.0, queued=60))
        for number in range(50):
            them.ask(str(number), tenant=1)
        await asyncio.sleep(0.05)
        them.ask("only", tenant=2 if tenants else 1)
        await them.all()
        assert len(them.ended) == 51
        assert (them.ended.index("only") == 1) is tenants

    run(main)


def test_one_tenant_alone_may_fill_the_queue_and_yet_keeps_nobody_out() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, queued=8, queue_s=60.0))
        for _ in range(50):
            them.ask("many", tenant=1)
        await asyncio.sleep(0)
        assert len(them.refused) == 41  # one runs, eight wait
        assert all(isinstance(error, Busy) for error in them.refused)
        for _ in range(2):
            them.ask("few", tenant=2)
        await them.all()
        assert len(them.refused) == 41
        assert them.ended[:4] == ["many", "few", "many", "few"]

    run(main)


# --- bounds ----------------------------------------------------------------------------------------------


def test_who_would_wait_too_long_is_refused_with_the_time_to_come_back() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, queue_s=4.0))
        for _ in range(8):  # a second each: four fit in three seconds of waiting
            them.ask()
        await asyncio.sleep(0)
        assert len(them.refused) == 4
        assert all(isinstance(error, Busy) and 3_200 <= error.retry_ms <= 4_900 for error in them.refused)
        await them.all()
        assert len(them.ended) == 4
        assert max(them.waited) <= 3.0

    run(main)


def test_nobody_waits_longer_than_the_bound_even_where_the_forecast_was_wrong() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, queue_s=3.0))
        them.ask(tokens=400)  # far longer than any before
        them.ask()
        await them.all()
        (error,) = them.refused
        assert isinstance(error, Sealed)
        assert error.code is SealedCode.OVERLOADED
        assert len(them.ended) == 1

    run(main)


def test_a_node_without_a_queue_refuses_at_once_and_still_says_when() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, queued=0), taught=False)
        them.ask()
        them.ask()
        await them.all()
        (error,) = them.refused
        assert isinstance(error, Busy)
        assert error.retry_ms > 0

    run(main)


def test_a_request_is_refused_before_it_is_opened_where_even_the_shortest_cannot_be_served() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, queue_s=2.5))
        with them.admission.enter(0):
            pass
        for _ in range(3):
            them.ask(prompt=0)
        await asyncio.sleep(0)
        with pytest.raises(Busy), them.admission.enter(0):
            pass
        with them.admission.enter(1):
            pass  # another tenant is next
        await them.all()
        with contextlib.ExitStack() as inside:
            for _ in range(1 + 2 * 32):
                inside.enter_context(them.admission.enter(0))
            with pytest.raises(Busy):
                inside.enter_context(them.admission.enter(0))

    run(main)


# --- deadlines -------------------------------------------------------------------------------------------


def test_a_deadline_that_cannot_be_met_is_refused_before_anything_begins() -> None:
    async def main() -> None:
        them = await fleet()
        them.ask(tokens=10)
        await asyncio.sleep(0)
        them.ask(left_s=0.5)  # a second, whenever it begins
        them.ask(left_s=1.5)  # a second, after another of waiting
        them.ask("met", left_s=2.5)
        await them.all()
        assert [type(error) for error in them.refused] == [DeadlinePassed, Busy]
        assert them.ended == ["", "met"]

    run(main)


def test_a_prompt_that_cannot_even_be_read_in_time_is_refused_on_an_idle_node() -> None:
    async def main() -> None:
        them = await fleet(load=lambda: Load(prefill_tps=100.0), taught=False)
        them.ask(prompt=2_000, left_s=15.0)
        them.ask("read", prompt=1_000, left_s=15.0)
        await them.all()
        assert [type(error) for error in them.refused] == [DeadlinePassed]
        assert them.ended == ["read"]

    run(main)


def test_what_can_begin_at_once_gets_its_chance() -> None:
    async def main() -> None:
        them = await fleet()
        them.ask("short", left_s=0.5, tokens=3, most=100)  # it usually takes a second, but need not
        await them.all()
        assert them.ended == ["short"]

    run(main)


# --- leaving ---------------------------------------------------------------------------------------------


def test_who_is_cancelled_while_waiting_leaves_at_once_and_who_runs_makes_room() -> None:
    async def main() -> None:
        them = await fleet()
        first = them.ask("first", tokens=50)
        second = them.ask("second")
        them.ask("third")
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        assert second.cancelled()
        first.cancel()
        await them.all()
        assert them.ended == ["third"]
        assert them.waited[-1] == pytest.approx(0.05)
        assert not them.admission._queue
        assert not them.admission._running

    run(main)


def test_a_place_that_comes_free_in_the_turn_of_a_cancel_is_not_lost() -> None:
    async def main() -> None:
        them = await fleet()
        first, second = them.ask("first", tokens=50), them.ask("second")
        await asyncio.sleep(0.05)
        first.cancel()
        second.cancel()
        await them.all()
        await them.ask("third")
        assert them.ended == ["third"]

    run(main)


# --- memory ----------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """An engine's numbers. memory: percent of its room."""

    memory: int = 10
    budget_tokens: int = 0

    def __call__(self) -> Load:
        kv = 1 if self.budget_tokens else 0
        return Load(memory_bytes=self.memory, room_bytes=100, kv_token_bytes=kv, kv_budget_bytes=self.budget_tokens)


def test_nothing_new_starts_above_the_soft_mark() -> None:
    async def main() -> None:
        machine = Machine()
        them = await fleet(replace(BOUNDS, running=4), machine)
        them.ask("first", tokens=30)
        await asyncio.sleep(0.3)
        machine.memory = 86
        await asyncio.sleep(0.1)
        with pytest.raises(Busy), them.admission.enter(0):
            pass
        them.ask("second")  # it was opened a moment before, and waits
        await asyncio.sleep(1.0)
        machine.memory = 84
        await them.all()
        assert them.ended == ["second", "first"]
        assert 1.0 < them.waited[-1] < 1.0 + 2 * LOOK_S
        machine.memory = 90
        await asyncio.sleep(0.1)
        with them.admission.enter(0):
            pass
        await them.ask("alone")  # somebody must always be let in, or nothing would ever change
        assert them.ended[-1] == "alone"

    run(main)


def test_the_youngest_are_shed_one_by_one_above_the_hard_mark() -> None:
    async def main() -> None:
        machine = Machine()
        them = await fleet(replace(BOUNDS, running=4), machine)
        for name in ("oldest", "older", "young", "youngest"):
            them.ask(name, tokens=40)
            await asyncio.sleep(0.1)
        machine.memory = 96
        await asyncio.sleep(2 * LOOK_S)
        machine.memory = 80
        await them.all()
        assert sorted(them.ended) == ["older", "oldest"]
        assert [type(error) for error in them.refused] == [Busy, Busy]
        assert all(isinstance(error, Busy) and error.retry_ms > 0 for error in them.refused)

    run(main)


def test_a_cancel_from_outside_is_never_taken_for_shedding() -> None:
    async def main() -> None:
        machine = Machine(memory=10)
        them = await fleet(replace(BOUNDS, running=4), machine)
        both = them.ask(tokens=40)
        await asyncio.sleep(0.1)
        machine.memory = 96
        next(iter(them.admission._running)).give_up()
        both.cancel()
        await them.all()
        assert both.cancelled()
        assert not them.refused

    run(main)


def test_contexts_start_only_where_they_fit_and_one_that_never_will_is_told_inside() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, running=8), Machine(budget_tokens=2_048))
        for name in ("one", "two", "three"):
            them.ask(name, prompt=1_000, tokens=10)
        await asyncio.sleep(0)
        assert len(them.admission._running) == 2  # 1,024 each
        them.ask(prompt=2_000, tokens=10, most=100)
        await them.all()
        assert len(them.ended) == 3
        (error,) = them.refused
        assert isinstance(error, Sealed)
        assert (error.code, error.first, error.second) == (SealedCode.CONTEXT_LENGTH, 2_048, 2_100)

    run(main)


# --- overload --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    p99_wait_s: float
    served_per_s: float
    overloaded: int
    refused: int


async def offered(per_s: float, seconds: float, bounds: Bounds, *, rows_tokens: Callable[[], int]) -> Result:
    """Offer requests at random moments; returns what came of them."""
    them = await fleet(bounds)
    rng = random.Random(5)  # noqa: S311 - a test's arrivals
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() - begun < seconds:
        them.ask(tokens=rows_tokens(), most=200, prompt=rng.randint(5, 2_000))
        await asyncio.sleep(rng.expovariate(per_s))
    served = len(them.ended)
    await them.all()
    inside = sum(isinstance(error, Sealed) for error in them.refused)
    waits = sorted(them.waited)
    return Result(waits[int(0.99 * len(waits))], served / seconds, inside, len(them.refused) - inside)


def lengths() -> Callable[[], int]:
    """Answers of 5 to 100 tokens, 30 on the average: the long ones are few."""
    rng = random.Random(6)  # noqa: S311 - a test's answers
    return lambda: min(100, 5 + int(rng.expovariate(1 / 25)))


def test_four_times_what_can_be_served_for_a_minute_keeps_waits_bounded_and_the_engine_busy() -> None:
    """Four rows of about three seconds each: 1.3 a second. No row is ever empty."""

    async def main() -> None:
        bounds = replace(BOUNDS, running=4)
        peak = await offered(1.2, 60, replace(bounds, queue_s=math.inf, queued=10_000), rows_tokens=lengths())
        crowd = await offered(5.2, 60, bounds, rows_tokens=lengths())
        assert crowd.p99_wait_s <= bounds.queue_s
        assert crowd.served_per_s >= 0.9 * peak.served_per_s
        assert crowd.overloaded <= 0.2 * 60 * crowd.served_per_s  # the rest is refused outside, before it waits
        assert crowd.refused > 100

    run(main)


def test_control_without_a_bound_on_time_the_waits_grow_without_end() -> None:
    async def main() -> None:
        endless = replace(BOUNDS, running=4, queue_s=math.inf, queued=10_000)
        crowd = await offered(5.2, 60, endless, rows_tokens=lengths())
        assert crowd.p99_wait_s > 10 * BOUNDS.queue_s

    run(main)


# --- what is told ----------------------------------------------------------------------------------------


def test_the_tally_hears_how_full_it_is() -> None:
    async def main() -> None:
        them = await fleet(replace(BOUNDS, running=8), Machine(budget_tokens=4_096))
        for _ in range(5):
            them.ask(prompt=1_000, tokens=10)
        await asyncio.sleep(0)
        tally = Tally()
        them.admission.tell(tally)
        told = tally.take()
        assert b'["requests_running",[],4' in told
        assert b'["requests_waiting",[],4' in told  # rounded up: one waits
        assert b'["kv_cache_usage_ratio",[],1.0]' in told
        assert b'["batch_rows",["2k"],4' in told
        await them.all()

    run(main)


@pytest.mark.parametrize("held_up", [True, False])
def test_a_slow_reader_teaches_nothing_of_the_engine(held_up: bool) -> None:
    async def main() -> None:
        them = await fleet()
        before = them.admission._speeds
        with them.admission.place(tenant=0, prompt=10, most=10, deadline=math.inf) as place:
            await place.turn()
            for _ in range(10):
                place.told(tokens=1)
                place.held_up = held_up
                await asyncio.sleep(60)
        assert (them.admission._speeds == before) is held_up  # the control: without the mark it would

    run(main)
