"""The client and the transparency log: what it fetches, remembers and refuses; a real log, files served from memory."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hybrid.directory import DirectoryCache
from hybrid.errors import APIConnectionError, AttestationError, ConfigurationError, RemoteError
from hybrid.freshness import needs_nonces, nonce_proofs
from hybrid.inspection import inspect
from hybrid.log_client import LogClient
from hybrid.seen import LogMemory
from hybrid.trust.log_view import LogContradiction, Seen
from hybrid.trust.policy import Policy
from hybrid.trust.verify import Verifier
from hybrid.wire.attest import AttestReply
from hybrid.wire.codec import decode_directory_reply, encode_directory_reply
from hybrid.wire.directory import Directory
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.evidence import EvidenceItem
from hybrid.wire.log_policy import LogPolicy
from pcc_server.tlog.log import Log
from tests.trust.maker import EPOCH, NOW, DirectTransport, FakeWorker, Maker

ORIGIN = "example.com/log"
MAKER = Maker()


@dataclass
class LoggedTransport(DirectTransport):
    """A deployment whose directories are in a real log; files can be withheld or bent."""

    log: Log = None  # type: ignore[assignment]
    folder: Path = Path()
    seq: int = 0
    withheld: tuple[str, ...] = ()
    fetched: list[str] = field(default_factory=list)
    attested: list[bytes] = field(default_factory=list)

    async def directory(self) -> bytes:
        self.seq += 1
        return self.published(self.worker.maker.directory(seq=self.seq))

    def published(self, directory: Directory) -> bytes:
        (index,) = self.log.append([sign(directory.entry(), self.worker.maker.signer)])
        note = self.log.checkpoint(now=lambda: NOW)
        leaf = self.log.leaf(index).encode()
        return encode_directory_reply(directory=directory.encode(), leaf=leaf, checkpoint=note)

    async def log_file(self, path: str) -> bytes:
        self.fetched.append(path)
        if any(path.startswith(part) for part in self.withheld):
            raise APIConnectionError("withheld")
        return (self.folder / path).read_bytes()

    async def attest(self, node_id: bytes, nonce: bytes) -> bytes:
        self.attested.append(node_id)
        return AttestReply(nonces=(nonce,), items=(EvidenceItem(format="tpm2", item=b"x"),)).encode()


@pytest.fixture
def transport(tmp_path: Path) -> LoggedTransport:
    folder = tmp_path / "log"
    return LoggedTransport(FakeWorker(MAKER), log=Log.init(folder, ORIGIN), folder=folder)


def policy_for(transport: LoggedTransport) -> Policy:
    return MAKER.policy(log_policy=LogPolicy.parse(f"log {transport.log.vkey}\nquorum none\n"))


def cache_of(transport: LoggedTransport, memory: LogMemory, clock: Any = lambda: NOW) -> DirectoryCache:
    verifier = Verifier(policy_for(transport))
    log = LogClient(transport, verifier, memory, now=clock)
    return DirectoryCache(transport, verifier, log=log, now=clock)


async def used(cache: DirectoryCache, times: int = 1) -> Any:
    """Refresh so many times and let the background reading finish."""
    directory = None
    for _ in range(times):
        directory = await cache.current(fresh=True)
        if cache._tail is not None:
            await asyncio.wait({cache._tail})
    await cache.close()
    return directory


def test_a_directory_in_the_log_is_verified_and_its_checkpoint_remembered(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    memory = LogMemory(tmp_path / "state")
    directory = asyncio.run(used(cache_of(transport, memory), 3))
    passed = {check.name for check in directory.checks if check.status == "pass"}
    assert {"log.note", "log.rollback", "log.consistency", "directory.logged"} <= passed
    known = LogMemory(tmp_path / "state").load(ORIGIN)
    assert known.seen is not None
    assert known.tail is not None
    assert known.seen.size == known.tail.size == transport.log.size == 3
    assert set(known.tail.directories) == {(EPOCH, seq) for seq in (1, 2, 3)}


def test_the_next_run_demands_consistency_with_what_the_last_one_saw(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    memory = LogMemory(tmp_path / "state")
    asyncio.run(used(cache_of(transport, memory), 2))
    transport.log.append([sign(entry(seq=40 + n), MAKER.signer) for n in range(14)])
    transport.fetched.clear()
    asyncio.run(used(cache_of(transport, memory)))
    assert any(path.startswith("tile/0/") for path in transport.fetched)  # proofs came from tiles
    transport.withheld = ("tile/0/",)
    with pytest.raises(AttestationError) as caught:
        asyncio.run(used(cache_of(transport, memory)))
    assert caught.value.check == "log.consistency"


def entry(seq: int, **changes: Any) -> DirectoryEntry:
    usual = {"deployment": "localhost", "epoch": EPOCH - 1, "seq": seq, "directory_id": bytes([seq]) * 32, "nodes": 1}
    return DirectoryEntry(**{**usual, **changes})


def test_a_log_that_was_started_anew_is_refused_and_both_notes_are_kept(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    memory = LogMemory(tmp_path / "state")
    asyncio.run(used(cache_of(transport, memory)))
    forked = LoggedTransport(FakeWorker(MAKER), log=transport.log, folder=transport.folder, seq=5)
    signer = transport.log._signer
    other = tmp_path / "other"
    forked.log, forked.folder = Log.init(other, ORIGIN), other
    forked.log._signer, forked.log._verifier = signer, transport.log._verifier  # the operator keeps two logs
    (other / "checkpoint").unlink()
    forked.log.checkpoint(now=lambda: NOW)
    with pytest.raises(LogContradiction) as caught:
        asyncio.run(used(cache_of(forked, memory)))
    assert caught.value.check == "log.consistency"
    (kept,) = memory.contradictions()
    assert len(set(json.loads(kept.read_text())["notes"])) == 2


def test_a_second_directory_for_one_client_is_found_through_the_log(transport: LoggedTransport, tmp_path: Path) -> None:
    """Two clients are shown two directories of one number: both are logged, so the tail shows both to either."""
    memory = LogMemory(tmp_path / "state")
    cache = cache_of(transport, memory)
    asyncio.run(used(cache))
    special = MAKER.directory(Maker().bundle(), seq=1)  # for somebody else, under the number this client has seen
    transport.published(special)
    with pytest.raises(LogContradiction) as caught:
        asyncio.run(found(cache_of(transport, memory)))
    assert caught.value.check == "directory.unique"
    assert len(memory.contradictions()) == 1


def test_a_contradiction_ends_the_use_of_the_held_directory_too_and_of_the_next_run(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    """A router that showed a fork once must not be believed again because it shows the old branch next."""
    memory = LogMemory(tmp_path / "state")
    cache = cache_of(transport, memory)

    async def run() -> None:
        await used(cache)
        honest = transport.directory
        transport.directory = bent(transport)  # type: ignore[method-assign]
        with pytest.raises(LogContradiction):
            await cache.current(fresh=True)
        transport.directory = honest  # type: ignore[method-assign]
        assert cache.held is not None  # by its dates it could be used
        for fresh in (False, True):
            with pytest.raises(AttestationError):
                await cache.current(fresh=fresh)
        with pytest.raises(AttestationError):
            cache.confirm()

    asyncio.run(run())
    with pytest.raises(AttestationError, match="found earlier") as caught:
        asyncio.run(used(cache_of(transport, LogMemory(tmp_path / "state"))))
    assert str(memory.contradictions()[0]) in caught.value.hint
    asyncio.run(used(cache_of(transport, LogMemory(tmp_path / "elsewhere"))))  # the positive control


def bent(transport: LoggedTransport) -> Any:
    """A directory of another content under the number that is in use."""

    async def directory() -> bytes:
        return transport.published(MAKER.directory(Maker().bundle(), seq=transport.seq))

    return directory


def test_a_memory_that_cant_be_written_refuses_every_time_and_not_only_the_first(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "logs").write_text("in the way")
    cache = cache_of(transport, LogMemory(tmp_path / "state"))

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="cannot be written"):
                await cache.sample()
        (tmp_path / "state" / "logs").unlink()
        assert await cache.sample()
        await cache.close()

    asyncio.run(run())


def test_short_runs_in_a_row_count_as_use_and_runs_days_apart_do_not(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    """Else entries could be withheld for ever from whoever asks one question per process."""
    seen = Seen(origin=ORIGIN, size=1, root=bytes(32), t0=None, note=b"")
    for at in (0, 100, 300, 90_000, 90_050):
        clock = partial(float, NOW + at)
        LogClient(transport, Verifier(policy_for(transport)), LogMemory(tmp_path), now=clock).accept(seen)
    assert LogMemory(tmp_path).load(ORIGIN).behind_s == 350.0


async def found(cache: DirectoryCache) -> None:
    await used(cache)
    await cache.sample()


def test_hybrid_verify_finds_it_too_and_says_so_in_its_checks(transport: LoggedTransport) -> None:
    async def look() -> Any:
        await transport.directory()
        transport.published(MAKER.directory(Maker().bundle(), seq=1))
        return await inspect(transport, Verifier(policy_for(transport)), LogMemory(), now=lambda: NOW)

    inspection = asyncio.run(look())
    assert inspection.error is not None
    assert inspection.error.check == "directory.unique"
    assert [check.status for check in inspection.checks if check.name == "directory.unique"] == ["fail"]
    assert len(inspection.checks) > 8  # the others are shown all the same


def test_a_directory_that_is_not_in_the_log_is_refused(transport: LoggedTransport) -> None:
    async def unlogged() -> bytes:
        logged = decode_directory_reply(await LoggedTransport.directory(transport))
        bare = MAKER.reply(seq=9)
        return encode_directory_reply(directory=bare.directory, leaf=bare.leaf, checkpoint=logged.checkpoint)

    transport.directory = unlogged  # type: ignore[method-assign]
    with pytest.raises(AttestationError) as caught:
        asyncio.run(used(cache_of(transport, LogMemory())))
    assert caught.value.check == "directory.logged"


def test_an_older_checkpoint_leaves_the_held_directory_in_use(transport: LoggedTransport) -> None:
    async def run() -> None:
        clock = [NOW]
        cache = cache_of(transport, LogMemory(), lambda: clock[0])
        early = await LoggedTransport.directory(transport)
        held = await cache.current()

        async def lagging() -> bytes:
            return early

        transport.directory = lagging  # type: ignore[method-assign]
        clock[0] += 1
        cache._refresh_at = 0.0
        assert await cache.current() is held
        with pytest.raises(AttestationError) as caught:
            await cache.current(fresh=True)
        assert caught.value.check == "log.rollback"
        await cache.close()

    asyncio.run(run())


def test_withheld_entries_are_no_reason_to_stop_at_tier_0_and_are_remembered(
    transport: LoggedTransport, tmp_path: Path
) -> None:
    transport.withheld = ("tile/entries/",)
    memory, clock = LogMemory(tmp_path / "state"), [NOW]
    cache = cache_of(transport, memory, lambda: clock[0])

    async def run() -> None:
        await used(cache)
        for _ in range(3):
            clock[0] += 50
            await used(cache)

    asyncio.run(run())
    known = memory.load(ORIGIN)
    assert known.tail is None
    assert known.behind_s == 150.0  # of use; what the verifier judges at tier 2


def test_a_pause_is_no_use(transport: LoggedTransport) -> None:
    transport.withheld = ("tile/entries/",)
    memory, clock = LogMemory(), [NOW]
    log = LogClient(transport, Verifier(policy_for(transport)), memory, now=lambda: clock[0])

    async def run() -> None:
        cache = DirectoryCache(transport, Verifier(policy_for(transport)), log=log, now=lambda: NOW)
        await used(cache)
        clock[0] += 86_400
        await used(cache)

    asyncio.run(run())
    assert memory.load(ORIGIN).behind_s <= 360


def test_without_a_log_in_the_policy_nothing_of_it_is_fetched(transport: LoggedTransport) -> None:
    cache = DirectoryCache(transport, Verifier(MAKER.policy()), now=lambda: NOW)
    asyncio.run(used(cache))
    assert (transport.fetched, cache._tail) == ([], None)


# --- interactive freshness --------------------------------------------------------------------------


def test_a_nonce_is_asked_for_where_nothing_else_shows_that_evidence_is_young(transport: LoggedTransport) -> None:
    plain = MAKER.policy()
    logged = policy_for(transport)
    assert not needs_nonces(plain)
    assert needs_nonces(replace(plain, freshness="nonce"))
    assert needs_nonces(replace(logged, freshness="either"))  # no witness
    assert not needs_nonces(replace(logged, freshness="witness"))


def test_nonces_are_fresh_and_software_nodes_are_not_asked(transport: LoggedTransport) -> None:
    hard = Maker()
    item = EvidenceItem(format="tpm2", item=b"x")
    directory = MAKER.directory(MAKER.bundle(), hard.bundle(items=(item,), formats=("tpm2",)))

    async def twice() -> Any:
        return [await nonce_proofs(transport, directory.encode(), now=lambda: NOW) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert transport.attested == [hard.identity.public.node_id] * 2
    assert first[0].nonce != second[0].nonce
    assert (len(first[0].nonce), first[0].made_at) == (32, NOW)


def test_a_node_that_shows_no_evidence_has_no_proof(transport: LoggedTransport) -> None:
    async def refusing(node_id: bytes, nonce: bytes) -> bytes:
        raise RemoteError("no")

    transport.attest = refusing  # type: ignore[method-assign]
    item = EvidenceItem(format="tpm2", item=b"x")
    directory = MAKER.directory(Maker().bundle(items=(item,), formats=("tpm2",)))
    assert asyncio.run(nonce_proofs(transport, directory.encode())) == ()
