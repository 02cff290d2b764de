"""Receipt files and what is remembered of the log: private, replaced whole, bounded, and never lost silently."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.receipts import ReceiptStore, read_receipt
from hybrid.seen import LogMemory, Remembered
from hybrid.state import write_private
from hybrid.trust.log_view import LogContradiction, Seen, Tail

SEEN = Seen(origin="example.com/log", size=9, root=bytes(range(32)), t0=1_700_000_000, note=b"a note\n")
TAIL = Tail(deployment="pcc.example.com", size=9, directories={(1, 2): bytes(32)}, revoked=frozenset({b"\x01" * 32}))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_receipt_is_kept_for_its_owner_alone_and_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path)
    path = store.keep("ab" * 32, b"one")
    store.keep("cd" * 32, b"two")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert store.path("abab") == store.path("ab" * 32) == path
    assert read_receipt(path) == b"one"
    assert store.path("ef00") is None
    assert store.path("../x") is None
    assert {kept.id for kept in store.list()} == {"ab" * 16, "cd" * 16}


def test_an_id_that_fits_two_receipts_is_refused(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path)
    store.keep("abcd1" + "0" * 59, b"")
    store.keep("abcd2" + "0" * 59, b"")
    with pytest.raises(ConfigurationError, match="2 receipts"):
        store.path("abcd")


def test_the_oldest_receipts_go(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path, limit=3)
    for n in range(5):
        path = store.keep(f"{n:064x}"[::-1], b"")
        os.utime(path, (n, n))
    assert [kept.at for kept in store.list()] == [4, 3, 2]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_and_its_tail_survive_the_process(tmp_path: Path) -> None:
    known = Remembered(seen=SEEN, tail=TAIL, behind_s=12.5)
    LogMemory(tmp_path).keep(SEEN.origin, lambda _: known)
    assert LogMemory(tmp_path).load(SEEN.origin) == known
    assert LogMemory(tmp_path).load("another/log") == Remembered()
    assert all(mode(path) == 0o600 for path in (tmp_path / "logs").iterdir())
    assert mode(tmp_path / "logs") == 0o700


def test_without_a_folder_it_is_remembered_for_this_process_alone(tmp_path: Path) -> None:
    memory = LogMemory()
    memory.keep(SEEN.origin, lambda _: Remembered(seen=SEEN))
    assert memory.load(SEEN.origin).seen == SEEN
    assert memory.contradictions() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_checkpoint_never_replaces_a_larger_one(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.keep(SEEN.origin, lambda _: Remembered(seen=SEEN))
    older = Seen(origin=SEEN.origin, size=5, root=bytes(32), t0=None, note=b"")
    memory.keep(SEEN.origin, lambda _: Remembered(seen=older))
    assert memory.load(SEEN.origin).seen == SEEN


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"version": 2}', '{"version": 1, "origin": "x"}'])
def test_a_broken_memory_is_named_and_never_taken_for_a_fresh_start(tmp_path: Path, text: str) -> None:
    memory = LogMemory(tmp_path)
    memory.keep(SEEN.origin, lambda _: Remembered(seen=SEEN))
    (path,) = (tmp_path / "logs").glob("*.json")
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=path.name):
        memory.load(SEEN.origin)


def contradiction() -> LogContradiction:
    plain = AttestationError("forked", check="log.consistency", expected="one root", got="two")
    return LogContradiction.of(plain, (b"one", b"two"))


def test_both_sides_of_a_contradiction_are_kept_and_end_the_use_of_this_log_for_good(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path, now=lambda: 7.0)
    memory.contradiction(SEEN.origin, contradiction())
    memory.contradiction(SEEN.origin, contradiction())  # the same proof once
    (path,) = memory.contradictions()
    assert b"b25l" in path.read_bytes()  # "one" in base64
    assert b"dHdv" in path.read_bytes()
    later = LogMemory(tmp_path)
    standing = later.contradicted(SEEN.origin)
    assert standing is not None
    assert standing.check == "log.consistency"
    assert str(path) in standing.hint
    assert later.contradicted("another/log") is None
    path.write_text("nonsense")  # damaging the proof clears nobody
    assert LogMemory(tmp_path).contradicted(SEEN.origin) is not None
    path.unlink()
    assert LogMemory(tmp_path).contradicted(SEEN.origin) is None


def test_what_this_run_has_seen_counts_though_its_file_is_gone(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.keep(SEEN.origin, lambda _: Remembered(seen=SEEN))
    (path,) = (tmp_path / "logs").glob("*.json")
    path.unlink()
    assert memory.load(SEEN.origin).seen == SEEN
    assert LogMemory(tmp_path).load(SEEN.origin).seen is None


OTHER_PROCESS = """
import sys, pathlib
from hybrid.seen import LogMemory, Remembered
from hybrid.trust.log_view import Seen
seen = Seen(origin=sys.argv[2], size=20, root=bytes(32), t0=None, note=b"")
LogMemory(pathlib.Path(sys.argv[1])).keep(sys.argv[2], lambda known: Remembered(seen=seen, tail=known.tail))
"""


def test_two_processes_change_one_memory_one_after_the_other(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    others: list[subprocess.Popen[bytes]] = []

    def slow(_: Remembered) -> Remembered:
        words = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), SEEN.origin]
        others.append(subprocess.Popen(words))
        with pytest.raises(subprocess.TimeoutExpired):
            others[0].wait(1.0)  # it has to wait for us
        return Remembered(seen=SEEN, tail=TAIL)

    memory.keep(SEEN.origin, slow)
    assert others[0].wait(30) == 0
    known = LogMemory(tmp_path).load(SEEN.origin)
    assert known.seen is not None
    assert (known.seen.size, known.tail) == (20, TAIL)  # neither undid the other


def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    write_private(tmp_path / "state" / "hybrid-pcc" / "receipts" / "x", b"")
    made = [tmp_path / "state", tmp_path / "state" / "hybrid-pcc", tmp_path / "state" / "hybrid-pcc" / "receipts"]
    assert [mode(each) for each in made] == [0o700] * 3


def test_an_old_receipt_that_cant_be_removed_costs_no_new_one(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path, limit=1)
    (tmp_path / "receipts" / "0000.receipt").mkdir(parents=True)
    os.utime(tmp_path / "receipts" / "0000.receipt", (1, 1))
    assert store.keep("ab" * 32, b"new").read_bytes() == b"new"


def test_large_receipts_are_bounded_by_the_room_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.receipts.KEPT_BYTES", 250)
    store = ReceiptStore(tmp_path)
    for n in range(5):
        os.utime(store.keep(f"{n:02}" * 32, bytes(100)), (n + 1, n + 1))
    store.keep("aa" * 32, bytes(100))
    assert [kept.id[:2] for kept in store.list()] == ["aa", "04"]
    store.keep("bb" * 32, bytes(1000))  # the newest stays whatever its size
    assert [kept.id[:2] for kept in store.list()] == ["bb"]
