"""One opened request, answered in process: what is sealed when engine, clock or frames run out."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from hybrid.wire.envelope import Candidate, ReplyOpener, RequestOpener, RequestSealer
from hybrid.wire.errors import SealedCode
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.receipt import Receipt, SealedError, UsageReport
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Usage
from pcc_server.admission import Admission, Bounds
from pcc_server.answer import Answer, Kitchen
from pcc_server.engines import Load
from pcc_server.engines.fake import FakeEngine
from pcc_server.errors import Busy, DeadlinePassed
from pcc_server.link import Frame, Kind, Link
from pcc_server.outlet import Outlet
from pcc_server.tally import Tally
from tests.pcc_server.node_client import ask

MANIFEST = bytes(range(32))
KEY = EpochKey.generate(1, 300)
IDENTITY = IdentityKey.generate()


BOUNDS = Bounds(running=1, queued=1, queue_s=8.0, soft=0.85, hard=0.95)


class ScriptedEngine(FakeEngine):
    """An engine that does what a test says."""

    def __init__(self, script: Callable[[], AsyncIterator[Chunk]]) -> None:
        super().__init__()
        self._script = script
        self.closed = False

    async def generate(self, request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:
        try:
            async for chunk in self._script():
                yield chunk
        finally:
            self.closed = True


class Exchange:
    """Seals a request, has it answered, opens the reply."""

    def __init__(self, engine: FakeEngine, request: GenerateRequest, admission: Admission | None = None) -> None:
        candidate = Candidate(identity=IDENTITY.public, key=KEY.config, bundle_id=bytes(32), manifest=MANIFEST)
        sealed, self.opener = RequestSealer(
            candidates=[candidate], model_id="fake", directory_id=bytes(32), deadline_ms=15_000
        ).seal(request)
        opened = RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[0], index=0)
        self.plain, self.sealer = opened.open(KEY)
        model = ModelEntry(model_id="fake", manifest=MANIFEST, context_tokens=8192, max_output_tokens=4096)
        self.tally = Tally(group=1)
        self.kitchen = Kitchen(engine=engine, model=model, admission=admission or Admission(BOUNDS), tally=self.tally)
        self.frames: list[Frame] = []
        self.begun, self.complete = asyncio.Event(), asyncio.Event()

    async def run(self, *, seconds: float = 10.0) -> SealedCode | None:
        left, right = socket.socketpair()
        sender = await Link.connect(left.detach(), lambda _: None, lambda: None)
        receiver = await Link.connect(right.detach(), self._take, lambda: None)
        self.outlet = Outlet(sender, 1)
        answer = Answer(self.kitchen, self.sealer, self.outlet, tenant=0)
        try:
            told = await answer.run(self.plain, IDENTITY, asyncio.get_running_loop().time() + seconds)
            await asyncio.wait_for(self.complete.wait(), 5)
        finally:
            sender.close()
            receiver.close()
        return told

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame.kind is Kind.FRAMES:
            self.begun.set()
            self.outlet.acked(len(frame.payload))
        elif frame.kind is Kind.FINAL:
            self.complete.set()

    def opened(self) -> tuple[list[Chunk | UsageReport | SealedError], Receipt]:
        return open_all(self.opener, self.frames)


def open_all(opener: ReplyOpener, frames: list[Frame]) -> tuple[list[Chunk | UsageReport | SealedError], Receipt]:
    events: list[Chunk | UsageReport | SealedError] = []
    receipt: Receipt | None = None
    for frame in frames:
        if frame.kind is Kind.HEAD:
            opener.start(frame.payload)
        elif frame.kind is Kind.FRAMES:
            events += opener.push(frame.payload)
        else:
            receipt = opener.finish(frame.payload)
    assert receipt is not None
    return events, receipt


def answered(
    engine: FakeEngine, *, seconds: float = 10.0, request: GenerateRequest | None = None
) -> tuple[list[Chunk | UsageReport | SealedError], Receipt]:
    async def main() -> Exchange:
        exchange = Exchange(engine, request or ask("hello", max_tokens=4))
        await exchange.run(seconds=seconds)
        return exchange

    return asyncio.run(main()).opened()


def codes(events: list[Chunk | UsageReport | SealedError]) -> list[SealedCode]:
    return [event.code for event in events if isinstance(event, SealedError)]


def test_a_deadline_in_mid_answer_is_told_inside_with_a_receipt() -> None:
    events, receipt = answered(FakeEngine(delay_s=0.05), seconds=0.12, request=ask("x" * 99, max_tokens=99))
    assert codes(events) == [SealedCode.DEADLINE]
    assert [event.text for event in events if isinstance(event, Chunk) and event.text]
    assert (receipt.status, receipt.finish) == (1, None)


def test_an_engine_that_raises_is_told_inside_without_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    async def script() -> AsyncIterator[Chunk]:
        yield Chunk(text="some ", tokens=1)
        raise RuntimeError("secret words of the prompt")

    events, receipt = answered(ScriptedEngine(script))
    assert codes(events) == [SealedCode.ENGINE_FAILED]
    assert receipt.status == 1
    said = capfd.readouterr().err
    assert '"kind":"RuntimeError"' in said
    assert "secret" not in said


def test_an_engine_that_just_stops_is_a_failure_and_no_answer() -> None:
    async def script() -> AsyncIterator[Chunk]:
        yield Chunk(text="some ", tokens=1)

    events, receipt = answered(ScriptedEngine(script))
    assert codes(events) == [SealedCode.ENGINE_FAILED]
    assert receipt.status == 1


def test_an_answer_that_fills_its_frames_ends_with_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.wire.frames.MAX_REPLY_FRAMES", 100)
    events, receipt = answered(FakeEngine(), request=ask("x" * 999, max_tokens=999))
    assert codes(events) == []
    (usage,) = [event for event in events if isinstance(event, UsageReport)]
    assert (usage.finish, receipt.finish) == (FinishReason.LENGTH, FinishReason.LENGTH)
    assert 0 < usage.usage.output < 100


def test_a_request_that_waits_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcc_server.answer.PULSE_S", 0.02)

    async def script() -> AsyncIterator[Chunk]:
        await asyncio.sleep(0.2)
        yield Chunk(text="late", tokens=1)
        yield Chunk(finish_reason=FinishReason.STOP, usage=Usage(input=1, output=1))

    events, _ = answered(ScriptedEngine(script))
    texts = [event.text for event in events if isinstance(event, Chunk)]
    assert texts[-1] == "late"
    assert len(texts) > 3


def test_a_request_that_queues_has_its_head_and_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcc_server.answer.PULSE_S", 0.02)

    async def main() -> Exchange:
        admission = Admission(BOUNDS)
        exchange = Exchange(FakeEngine(), ask("hello"), admission)
        with admission.place(tenant=1, prompt=1, most=1, deadline=math.inf):
            task = asyncio.create_task(exchange.run())
            await asyncio.wait_for(exchange.begun.wait(), 5)
            await asyncio.sleep(0.1)
            assert exchange.frames[0].kind is Kind.HEAD
        await task
        return exchange

    events, receipt = asyncio.run(main()).opened()
    waiting = [event for event in events if isinstance(event, Chunk) and event.progress and not event.text]
    assert len(waiting) > 3
    assert receipt.status == 0


@pytest.mark.parametrize(("seconds", "raised"), [(60.0, Busy), (0.001, DeadlinePassed)])
def test_a_request_without_a_place_is_refused_before_anything_is_sent(seconds: float, raised: type[Exception]) -> None:
    async def main() -> list[Frame]:
        admission = Admission(replace(BOUNDS, queued=0), lambda: Load(prefill_tps=100.0))
        exchange = Exchange(FakeEngine(), ask("hello"), admission)
        with admission.place(tenant=1, prompt=1, most=1, deadline=math.inf), pytest.raises(raised):
            await exchange.run(seconds=seconds)
        return exchange.frames

    assert asyncio.run(main()) == []


def test_a_prompt_that_exceeds_the_context_is_told_inside_and_takes_no_place() -> None:
    events, receipt = answered(FakeEngine(), request=ask("word " * 9_000))
    (error,) = [event for event in events if isinstance(event, SealedError)]
    assert (error.code, error.first) == (SealedCode.CONTEXT_LENGTH, 8192)
    assert receipt.status == 1


class Numbers(Tally):
    """A tally that keeps what it is told, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def request(self, outcome: str, finish: FinishReason | None, prompt: int, generated: int) -> None:
        self.told.append((outcome, finish, prompt, generated))

    def times(  # noqa: PLR0917 - the real signature
        self, queue_s: float, prefill_s: float, first_s: float, decode_s: float, e2e_s: float, gaps: Any
    ) -> None:
        assert 0 <= queue_s <= first_s <= e2e_s
        assert first_s + decode_s <= e2e_s
        assert sum(gaps) == pytest.approx(decode_s)
        self.told.append(("times", len(gaps)))

    def cancelled(self, where: str, seconds: float) -> None:
        self.told.append(("cancelled", where, seconds >= 0))

    def prefix(self, queries: int, hits: int) -> None:
        self.told.append(("prefix", queries, hits))


def told(engine: FakeEngine, *, seconds: float = 10.0, cancel: bool = False, secret: bytes = b"") -> Any:
    async def main() -> list[tuple[object, ...]]:
        exchange = Exchange(engine, ask("hello", max_tokens=4))
        numbers = Numbers()
        exchange.kitchen = replace(exchange.kitchen, tally=numbers, cache_secret=secret)
        task = asyncio.create_task(exchange.run(seconds=seconds))
        if cancel:
            await exchange.begun.wait()
            task.cancel()
        await asyncio.wait([task])
        return numbers.told

    return asyncio.run(main())


def test_the_tally_hears_numbers_of_every_end() -> None:
    async def failing() -> AsyncIterator[Chunk]:
        yield Chunk(text="some ", tokens=1)
        raise RuntimeError

    ok = ("ok", FinishReason.LENGTH, 2, 4)
    assert told(FakeEngine()) == [ok, ("times", 3)]
    assert told(ScriptedEngine(failing)) == [("error", None, 2, 1), ("times", 0)]
    slow = FakeEngine(first_delay_s=30)
    assert told(slow, cancel=True) == [("cancelled", None, 2, 0), ("cancelled", "prefill", True)]
    slow = FakeEngine(delay_s=0.05)
    assert told(slow, seconds=0.12)[0][:2] == ("error", None)


def partitions(salt: bytes, secret: bytes) -> set[str]:
    async def main() -> set[str]:
        engine = FakeEngine()
        seen: set[str] = set()
        real = engine.generate

        def generate(request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:
            seen.add(partition)
            return real(request, partition=partition)

        engine.generate = generate  # type: ignore[method-assign]
        exchange = Exchange(engine, replace(ask("hello"), cache_salt=salt))
        exchange.kitchen = replace(exchange.kitchen, cache_secret=secret)
        await exchange.run()
        return seen

    return asyncio.run(main())


def test_nothing_is_kept_without_both_a_salt_and_a_node_that_keeps_prefixes() -> None:
    salt, secret = b"s" * 16, b"p" * 32
    assert partitions(b"", b"") == partitions(salt, b"") == partitions(b"", secret) == {""}
    (named,) = partitions(salt, secret)
    assert len(named) == 64
    assert partitions(salt, secret) == {named}
    assert partitions(b"t" * 16, secret) != {named} != partitions(salt, b"q" * 32)


def test_a_cancelled_answer_closes_the_engine_s_stream_and_frees_its_place() -> None:
    async def script() -> AsyncIterator[Chunk]:
        yield Chunk(text="some ", tokens=1)
        await asyncio.sleep(60)

    async def main() -> tuple[bool, bool]:
        engine, admission = ScriptedEngine(script), Admission(replace(BOUNDS, queued=0))
        exchange = Exchange(engine, ask("hello"), admission)
        task = asyncio.create_task(exchange.run())
        await exchange.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with admission.place(tenant=0, prompt=1, most=1, deadline=math.inf) as place:
            await asyncio.wait_for(place.turn(), 1)
            return engine.closed, any(frame.kind is Kind.FINAL for frame in exchange.frames)

    assert asyncio.run(main()) == (True, False)


def test_sealed_bytes_that_are_no_request_are_told_inside() -> None:
    async def main() -> Exchange:
        exchange = Exchange(FakeEngine(), ask("hello"))
        exchange.plain = b"\xff\xff"
        await exchange.run()
        return exchange

    events, receipt = asyncio.run(main()).opened()
    assert codes(events) == [SealedCode.BAD_REQUEST]
    assert receipt.status == 1


@pytest.mark.parametrize("full", [True, False])
def test_a_reader_that_holds_an_answer_up_is_marked(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> AsyncIterator[Chunk]:
        for _ in range(5):
            await asyncio.sleep(0.001)
            yield Chunk(text="x", tokens=1)
        yield Chunk(finish_reason=FinishReason.STOP, usage=Usage(input=1, output=5))

    monkeypatch.setattr(Outlet, "full", property(lambda _: full))

    async def main() -> None:
        exchange = Exchange(ScriptedEngine(script), ask("x"))
        await exchange.run()
        assert (exchange.kitchen.admission._speeds.step_s == 0.0) is full

    asyncio.run(main())
