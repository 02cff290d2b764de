"""Nodes and callers that mean harm, and a log that fails: the directory goes on, within its limits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from hybrid.wire import codec
from hybrid.wire.constants import PART_BYTES
from hybrid.wire.errors import ErrorCode, Malformed
from hybrid.wire.evidence import ModelEntry, Statement
from hybrid.wire.note import NoteSigner, NoteVerifier
from pcc_server import calls
from pcc_server.announce import MAX_SEQ
from pcc_server.composer import Composed, Composer, Logged
from pcc_server.entry import Entry, Served
from pcc_server.errors import Refused
from pcc_server.keys import KeyRing
from pcc_server.ledger import LogLedger
from pcc_server.listing import Rules
from pcc_server.roster import MISSES, Roster
from pcc_server.route_config import NodePlace, RouteSettings
from pcc_server.router import GrpcNode
from pcc_server.tlog.errors import LogError
from pcc_server.tlog.log import Log

T = 300
START = 1_800_000_000.0  # the beginning of an epoch
SIGNER = NoteSigner.generate("localhost/directory")


class Clocks:
    def __init__(self) -> None:
        self.wall = START + 1
        self.mono = 0.0


class FakeNode:
    """Serves real publications. says: raises instead of answering."""

    def __init__(self, clocks: Clocks, port: int = 1, note: bytes = b"") -> None:
        self.place = NodePlace(address=f"127.0.0.1:{port}")
        self.asked = 0
        self.says: Callable[[], Exception] | None = None
        model = ModelEntry(model_id="m", manifest=bytes(32), context_tokens=100, max_output_tokens=10)
        self.ring = KeyRing(T, now=lambda: clocks.wall, boot=lambda: clocks.wall)
        served = Served(deployment="localhost", model=model, config_digest=bytes(32))
        self.entry = Entry(served, self.ring, boot=lambda: clocks.wall)
        self.entry.note = note

    async def directory(self) -> bytes:
        self.asked += 1
        if self.says:
            raise self.says()
        self.ring.advance()
        return (await self.entry.publish(T)).reply if not self.entry.is_current else self._reply()

    def _reply(self) -> bytes:
        assert self.entry._newest
        from hybrid.wire.directory import Directory, ListedNode

        bundle = self.entry._newest.bundle
        directory = Directory(
            deployment="localhost",
            epoch=bundle.statement.keys[0].epoch,
            epoch_s=T,
            seq=0,
            checkpoints=(self.entry.note,) if self.entry.note else (),
            nodes=(ListedNode(weight=1, bundle=bundle),),
        )
        return self.entry._reply(directory, self.entry.note)


def roster_of(
    nodes: Sequence[FakeNode], clocks: Clocks, composer: Composer, published: Callable[[Composed], None]
) -> Roster[FakeNode]:
    rules = Rules(deployment="localhost", epoch_s=T)
    return Roster(nodes, rules, composer, published, now=lambda: clocks.wall, clock=lambda: clocks.mono)


def composer_of(ledger: Any = None) -> Composer:
    return Composer(deployment="localhost", epoch_s=T, signer=SIGNER, ledger=ledger)


# --- how often nodes are asked ---------------------------------------------------------------------


def test_no_caller_makes_a_router_ask_its_nodes_faster_than_their_limit_bears() -> None:
    """A request for a node that is not there costs its sender nothing; a node answers once a second and address."""

    async def main() -> None:
        clocks = Clocks()
        node = FakeNode(clocks)
        roster = roster_of([node], clocks, composer_of(), lambda _: None)
        running = asyncio.create_task(roster.run())
        begun = time.monotonic()
        while time.monotonic() - begun < 3:
            roster.poke()
            await asyncio.sleep(0.01)
        running.cancel()
        assert 2 <= node.asked <= 1 + (time.monotonic() - begun)

    asyncio.run(main())


def test_a_node_that_says_not_so_often_is_still_there() -> None:
    async def main() -> None:
        clocks = Clocks()
        node, made = FakeNode(clocks), list[Composed]()
        roster = roster_of([node], clocks, composer_of(), made.append)
        await roster.turn()
        for code in (ErrorCode.LIMIT, ErrorCode.BUSY):  # the second is the control: that node is left out
            node.says = lambda code=code: Refused(code)
            for _ in range(MISSES):
                await roster.turn()
            there = roster._known[0].listing is not None
            assert there is (code is ErrorCode.LIMIT)

    asyncio.run(main())


def test_a_fault_of_ours_over_one_node_s_bytes_ends_nothing() -> None:
    async def main() -> None:
        clocks = Clocks()
        good, bad, made = FakeNode(clocks), FakeNode(clocks, 2), list[Composed]()
        bad.says = ZeroDivisionError
        roster = roster_of([good, bad], clocks, composer_of(), made.append)
        for _ in range(MISSES):
            await roster.turn()
        assert [len(composed.listings) for composed in made] == [1]

    asyncio.run(main())


# --- what a directory may cost ---------------------------------------------------------------------


class FailingLedger:
    """A log whose disk is full: it numbers nothing and proves nothing."""

    failing = True

    def statements(self, _statements: Sequence[Statement], _no: int) -> Logged:
        return Logged(note=b"")

    def holds(self, _note: bytes) -> bool:
        return True

    def append(self, entry: bytes) -> Logged:
        if self.failing:
            raise LogError("no space left on the device")
        raise AssertionError("a seventeenth directory was made")

    def last(self, _deployment: str) -> tuple[int, int] | None:
        return None


def test_a_log_that_fails_and_fails_never_leads_to_a_seventeenth_directory() -> None:
    async def main() -> None:
        clocks, ledger = Clocks(), FailingLedger()
        roster = roster_of([FakeNode(clocks)], clocks, composer_of(ledger), lambda _: None)
        for _ in range(MAX_SEQ + 1):
            await roster.turn()
        ledger.failing = False
        await roster.turn()

    asyncio.run(main())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.init(tmp_path / "log", "localhost/log")


def ledger_of(log: Log) -> LogLedger:
    return LogLedger(log, (), NoteVerifier.parse(SIGNER.vkey))


FOREIGN = NoteSigner.generate("localhost/log")


def forged(log: Log) -> bytes:
    """The log's own words under another key."""
    return FOREIGN.sign(log.note().decode().partition("\n\n")[0] + "\n")


def stripped(log: Log) -> bytes:
    """The published checkpoint under one more line, which no witness wrote."""
    return log.note() + FOREIGN.sign("x\n").partition(b"\n\n")[2]


@pytest.mark.parametrize("spoil", [forged, stripped])
def test_a_node_that_names_a_checkpoint_the_log_did_not_publish_is_left_out_alone(
    log: Log, spoil: Callable[[Log], bytes]
) -> None:
    """A client refuses a directory for one bad checkpoint in it; so a node could take all others with it."""

    async def main() -> None:
        clocks = Clocks()
        good, bad = FakeNode(clocks, 1, log.note()), FakeNode(clocks, 2, spoil(log))
        made: list[Composed] = []
        roster = roster_of([good, bad], clocks, composer_of(ledger_of(log)), made.append)
        for _ in range(4):  # nothing changes, so nothing more is published
            await roster.turn()
        assert [composed.seq for composed in made] == [0]
        assert [listing.place.address for listing in made[0].listings] == [good.place.address]

    asyncio.run(main())


def test_a_node_with_an_older_checkpoint_of_the_log_is_listed(log: Log) -> None:
    async def main() -> None:
        clocks, older = Clocks(), log.note()
        ledger = ledger_of(log)
        first, made = FakeNode(clocks, 1, older), list[Composed]()
        roster = roster_of([first], clocks, composer_of(ledger), made.append)
        await roster.turn()
        clocks.wall += T
        await roster.turn()
        assert log.note() != older
        assert [(composed.seq, len(composed.listings)) for composed in made] == [(0, 1), (0, 1)]

    asyncio.run(main())


def test_an_entry_nobody_can_read_stops_no_router(log: Log) -> None:
    for words in ('{"é":1}', "[]", "x", '{"model_id":1}'):
        log.append([SIGNER.sign(f"hpcc/1 model\n{words}\n")])
    assert ledger_of(log).last("localhost") is None


# --- a node that sends without end -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(handler: Callable[[], AsyncIterator[bytes]]) -> AsyncIterator[GrpcNode]:
    class Methods(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            async def answer(_request: bytes, context: Any) -> None:
                async for part in handler():
                    await context.write(part)

            return grpc.unary_stream_rpc_method_handler(answer)

    server = aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    place = NodePlace(address=f"127.0.0.1:{port}")
    node = GrpcNode(place, RouteSettings(nodes=(place,)))
    try:
        yield node
    finally:
        await node.close()
        await server.stop(0)


@pytest.mark.parametrize("size", [0, PART_BYTES, 1_000_000])
def test_a_node_that_sends_a_directory_without_end_is_cut_off(size: int) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        part = codec.split_parts(bytes(size))[0] if 0 < size <= PART_BYTES else bytes(size)
        while True:
            sent += 1
            yield part

    async def main() -> None:
        async with serving(endless) as node:
            with pytest.raises(Malformed):
                await asyncio.wait_for(node.directory(), 4)

    asyncio.run(main())
    assert sent < 2_000  # what was on its way; without a bound: as many as five seconds bear


# --- time ------------------------------------------------------------------------------------------


def test_time_that_has_passed_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of fifteen seconds went to a silent candidate: five are left for the next one, not none."""
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    assert calls.left_ms_of(15_000, 5.0, 100.0) == 5_000
    assert calls.left_ms_of(15_000, None, 100.0) == 5_000
    assert calls.left_ms_of(60_000, 5.0, 100.0) == 5_000
    assert calls.left_ms_of(15_000, 100.0, 100.0) == 5_000
    assert calls.left_ms_of(5_000, 100.0, 100.0) == 0
    assert calls.left_ms_of(5_000, -1.0, 109.0) == 0
