"""What leaves at once and what waits, and how long a caller may keep a message waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from pcc_server.errors import Limit
from pcc_server.outlet import Cut
from pcc_server.pace import GAP_S, LONGEST_GAP_S, MESSAGES_PER_S, Pace, gap_s
from pcc_server.patience import Patience


class Clock:
    """A loop's clock and its timers, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    def _call_at(self, when: float, call: Callable[[], None]) -> "Timer":
        self.due.append((when, call))
        return Timer(self, (when, call))

    def move(self, seconds: float) -> None:
        self.now += seconds
        for when, call in [one for one in self.due if one[0] <= self.now]:
            self.due.remove((when, call))
            call()


class Timer:
    def __init__(self, clock: Clock, what: tuple[float, Callable[[], None]]) -> None:
        self._clock, self._what = clock, what

    def cancel(self) -> None:
        if self._what in self._clock.due:
            self._clock.due.remove(self._what)


def run(monkeypatch: pytest.MonkeyPatch, test: Callable[[Clock], Awaitable[None]]) -> None:
    async def main() -> None:
        with monkeypatch.context() as patch:
            await test(Clock(patch))

    asyncio.run(main())


def test_what_comes_slowly_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(clock: Clock) -> None:
        sent: list[float] = []
        pace = Pace(lambda: sent.append(clock.now))
        for _ in range(5):
            pace.added()
            clock.move(GAP_S)
        assert len(sent) == 5
        assert not clock.due

    run(monkeypatch, test)


def test_the_more_streams_there_are_the_longer_frames_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tokens a second: one stream sends each by itself, each of a thousand sends them in fours."""

    async def test(clock: Clock) -> None:
        for streams, messages in ((1, 20), (1_000, 5)):
            sent: list[float] = []
            pace = Pace(partial(sent.append, 0.0), streams=partial(int, streams))
            for _ in range(20):
                pace.added()
                clock.move(0.05)
            pace.flush()
            assert len(sent) in {messages, messages + 1}

    run(monkeypatch, test)


def test_the_gap_keeps_messages_within_what_the_gateway_passes_on_and_words_flowing() -> None:
    assert gap_s(1) == gap_s(16) == GAP_S
    assert all(streams / gap_s(streams) <= MESSAGES_PER_S * 1.001 for streams in (100, 500, 1_000))
    assert gap_s(4_096) == LONGEST_GAP_S


def test_what_pours_leaves_sixteen_at_a_time_and_the_rest_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(clock: Clock) -> None:
        sent: list[float] = []
        pace = Pace(lambda: sent.append(clock.now))
        for _ in range(1 + 16 + 16 + 3):  # the first at once, two messages, and three that wait
            pace.added()
        assert sent == [100.0] * 3
        assert len(clock.due) == 1
        clock.move(GAP_S)
        assert sent[3:] == [100.0 + GAP_S]
        clock.move(10 * GAP_S)
        assert len(sent) == 4

    run(monkeypatch, test)


def test_first_words_and_the_end_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(clock: Clock) -> None:
        sent: list[float] = []
        pace = Pace(lambda: sent.append(clock.now))
        pace.added()
        pace.added()
        assert len(sent) == 1
        pace.added(urgent=True)
        assert len(sent) == 2
        pace.added()
        pace.flush()
        pace.flush()
        assert len(sent) == 3
        assert not clock.due

    run(monkeypatch, test)


def test_one_at_a_time_where_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(clock: Clock) -> None:
        sent: list[float] = []
        pace = Pace(lambda: sent.append(clock.now), 1)
        for _ in range(4):
            pace.added()
        assert len(sent) == 4

    run(monkeypatch, test)


def test_a_closed_pace_sends_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(clock: Clock) -> None:
        sent: list[float] = []
        pace = Pace(lambda: sent.append(clock.now))
        pace.added()
        pace.added()
        pace.close()
        clock.move(1.0)
        assert len(sent) == 1

    run(monkeypatch, test)


@pytest.mark.parametrize("then", ["added", "flush"])
def test_what_the_timer_met_its_owner_hears(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    async def test(clock: Clock) -> None:
        broken = False

        def send() -> None:
            if broken:
                raise Cut

        pace = Pace(send)
        pace.added()
        pace.added()
        broken = True
        clock.move(GAP_S)
        with pytest.raises(Cut):
            getattr(pace, then)()

    run(monkeypatch, test)


# --- patience --------------------------------------------------------------------------------------------


async def _write(patience: Patience, waits: Awaitable[object]) -> None:
    patience.begin()
    await waits
    patience.end()


def test_a_write_that_takes_too_long_ends_the_reply() -> None:
    async def main() -> None:
        with Patience(0.01) as patience:
            await _write(patience, asyncio.sleep(0))
            await _write(patience, asyncio.get_running_loop().create_future())

    with pytest.raises(Limit):
        asyncio.run(asyncio.wait_for(main(), 5))


def test_many_short_writes_and_long_pauses_between_them_do_not() -> None:
    async def main() -> None:
        with Patience(0.02) as patience:
            for _ in range(20):
                await _write(patience, asyncio.sleep(0))
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)  # the engine thinks; nobody waits to write

    asyncio.run(main())


def test_cancelling_from_outside_stays_cancelling() -> None:
    async def main() -> None:
        async def reply() -> None:
            with Patience(5.0) as patience:
                await _write(patience, asyncio.get_running_loop().create_future())

        task = asyncio.create_task(reply())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
