"""Receipt files and what is remembered of the log: private, replaced whole, bounded, and never lost silently."""

import os
from pathlib import Path

import pytest

from hybrid.errors import ConfigurationError
from hybrid.receipts import ReceiptStore, read_receipt
from hybrid.seen import LogMemory, Remembered
from hybrid.state import write_private
from hybrid.trust.log_view import Seen, Tail

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
    LogMemory(tmp_path).keep(SEEN.origin, known)
    assert LogMemory(tmp_path).load(SEEN.origin) == known
    assert LogMemory(tmp_path).load("another/log") == Remembered()
    assert all(mode(path) == 0o600 for path in (tmp_path / "logs").iterdir())


def test_without_a_folder_it_is_remembered_for_this_process_alone(tmp_path: Path) -> None:
    memory = LogMemory()
    memory.keep(SEEN.origin, Remembered(seen=SEEN))
    assert memory.load(SEEN.origin).seen == SEEN
    assert memory.contradictions() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_checkpoint_never_replaces_a_larger_one(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.keep(SEEN.origin, Remembered(seen=SEEN))
    older = Seen(origin=SEEN.origin, size=5, root=bytes(32), t0=None, note=b"")
    memory.keep(SEEN.origin, Remembered(seen=older))
    assert memory.load(SEEN.origin).seen == SEEN


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"version": 2}', '{"version": 1, "origin": "x"}'])
def test_a_broken_memory_is_named_and_never_taken_for_a_fresh_start(tmp_path: Path, text: str) -> None:
    memory = LogMemory(tmp_path)
    memory.keep(SEEN.origin, Remembered(seen=SEEN))
    (path,) = (tmp_path / "logs").iterdir()
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=path.name):
        memory.load(SEEN.origin)


def test_both_sides_of_a_contradiction_are_kept(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path, now=lambda: 7.0)
    path = memory.contradiction((b"one", b"two"))
    assert memory.contradictions() == (path,)
    assert memory.contradiction((b"one", b"two")) == path  # the same proof once
    assert path is not None
    assert b"b25l" in path.read_bytes()  # "one" in base64
    assert b"dHdv" in path.read_bytes()
