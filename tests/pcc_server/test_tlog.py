"""The log's folder: growth, proofs, crash safety, one writer, and the shape C2SP tlog-tiles gives it."""

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hybrid.wire.checkpoint import open_checkpoint
from hybrid.wire.entries import DirectoryEntry, RevokeEntry, sign
from hybrid.wire.merkle import check_inclusion, leaf_hash, root
from hybrid.wire.note import NoteSigner, NoteVerifier
from hybrid.wire.tiles import tiles_of
from pcc_server.tlog import store as store_module
from pcc_server.tlog.errors import LogError
from pcc_server.tlog.growth import changed_files, outgrown_folders
from pcc_server.tlog.log import Log, private_folder
from pcc_server.tlog.store import Store

SIGNER = NoteSigner.from_seed("example.com/directory", bytes(32))
FOREIGN = Path(__file__).parents[2].parent / "shared" / "vectors" / "tlog-tiles-tessera"


def entries(count: int, first: int = 0) -> list[bytes]:
    return [
        sign(DirectoryEntry(deployment="example.com", epoch=number, seq=0, directory_id=bytes(32), nodes=1), SIGNER)
        for number in range(first, first + count)
    ]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.init(tmp_path / "log", "example.com/log")


def folder_of(log: Log) -> Path:
    return log._store.folder


# --- growth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[1, 1, 1], [255, 1, 1], [256], [257, 600], [3, 70, 900, 1]])
def test_growing_in_steps_makes_the_same_tiles_as_hashing_everything(steps: Sequence[int]) -> None:
    files: dict[str, bytes] = {}
    size, words = 0, [b"%d" % number for number in range(sum(steps))]
    for step in steps:
        files |= changed_files(files, size, words[size : size + step])
        size += step
        wanted = tiles_of([leaf_hash(word) for word in words[:size]], 0, size)
        assert {path: files[path] for path in wanted} == wanted


def test_partial_files_go_a_whole_tile_after_they_were_replaced() -> None:
    assert outgrown_folders(511) == []
    assert outgrown_folders(512) == ["tile/0/000.p", "tile/entries/000.p"]
    assert outgrown_folders(2 * 65_536) == ["tile/0/510.p", "tile/entries/510.p", "tile/1/000.p"]


def test_a_log_grows_is_signed_and_verifies(log: Log) -> None:
    assert log.append(entries(3)) == [0, 1, 2]
    assert log.published().size == 0
    assert log.append(entries(300, 3))[-1] == 302
    note = log.checkpoint(now=lambda: 1_000.0)
    opened = open_checkpoint(note, NoteVerifier.parse(log.vkey))
    assert opened.size == 303
    assert opened.root == root([leaf_hash(entry) for entry in entries(303)])
    found = log.verify()
    assert (found.checkpoint, found.appended, found.history) == (opened, 303, 1)


def test_a_leaf_is_proved_under_the_published_and_under_an_older_checkpoint(log: Log) -> None:
    log.append(entries(5))
    old = open_checkpoint(log.checkpoint(), NoteVerifier.parse(log.vkey))
    log.append(entries(600, 5))
    new = open_checkpoint(log.checkpoint(), NoteVerifier.parse(log.vkey))
    for checkpoint in (old, new):
        leaf = log.leaf(3, checkpoint_no=1, size=checkpoint.size)
        assert (leaf.entry, leaf.index, leaf.checkpoint_no) == (entries(4)[3], 3, 1)
        check_inclusion(
            leaf=leaf_hash(leaf.entry), index=3, size=checkpoint.size, proof=leaf.hashes, root=checkpoint.root
        )
    with pytest.raises(LogError, match="not covered"):
        log.leaf(605)


@pytest.mark.parametrize("bad", [b"", b"words", entries(1)[0] + entries(1)[0].splitlines(keepends=True)[-1]])
def test_what_no_reader_would_accept_is_not_appended(log: Log, bad: bytes) -> None:
    with pytest.raises(LogError, match="no entry"):
        log.append([*entries(1), bad])
    assert log.size == 0


def test_the_public_folder_holds_no_key(log: Log) -> None:
    log.append(entries(1))
    log.checkpoint()
    secret = (private_folder(folder_of(log)) / "key").read_bytes()
    files = [path for path in folder_of(log).rglob("*") if path.is_file()]
    assert files
    assert all(b"PRIVATE" not in path.read_bytes() and path.stat().st_mode & 0o777 == 0o644 for path in files)
    assert secret.startswith(b"PRIVATE+KEY+example.com/log+")
    assert (private_folder(folder_of(log)) / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(log: Log) -> None:
    (private_folder(folder_of(log)) / "key").chmod(0o640)
    with pytest.raises(LogError, match="chmod 600"):
        Log.open(folder_of(log))


def test_a_log_is_not_made_twice(log: Log) -> None:
    with pytest.raises(LogError, match="log already"):
        Log.init(folder_of(log), "example.com/log")


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["tile/0/000.p/5", "tile/entries/000.p/5", "checkpoint", "tile/0/000.p/4"])
def test_verify_names_a_file_that_was_changed(log: Log, path: str) -> None:
    log.append(entries(4))
    log.checkpoint()
    log.append(entries(1, 4))
    log.checkpoint()
    log.verify()
    target = folder_of(log) / path
    data = bytearray(target.read_bytes())
    data[-20] ^= 1
    target.write_bytes(data)
    if path == "tile/0/000.p/4":  # of an older size: the proofs that need it fail, the present tree is whole
        with pytest.raises(LogError, match="another tree of 4"):
            log.verify()
    else:
        with pytest.raises(LogError, match=r"checkpoint|damaged|what the entries make|no entry|another tree"):
            log.verify()


def test_a_log_that_was_rewritten_is_never_signed(log: Log) -> None:
    log.append(entries(4))
    log.checkpoint()
    signed = log.note()
    for path, data in changed_files({}, 0, entries(5, 100)).items():
        log._store.write(path, data)
    (private_folder(folder_of(log)) / "size").write_bytes(b'{"size": 5}')
    with pytest.raises(LogError, match="signing stops"):
        log.checkpoint()
    assert log.note() == signed


def test_a_folder_shorter_than_its_checkpoint_is_never_signed(log: Log) -> None:
    log.append(entries(4))
    log.checkpoint()
    (private_folder(folder_of(log)) / "size").write_bytes(b'{"size": 3}')
    with pytest.raises(LogError, match="covers 4 entries, the folder holds 3"):
        log.checkpoint()


# --- crashes ---------------------------------------------------------------------------------------------


class Crash(BaseException):
    """What stands for a power cut: nothing may catch it."""


@pytest.mark.parametrize("sizes", [(3, 2), (250, 10)])
def test_a_crash_at_any_write_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    """Stop at the first, second, … file that is replaced during append and checkpoint; reopen; finish; verify."""
    replace, stops = store_module._replace, 0
    while True:
        log = Log.init(tmp_path / f"log{stops}", "example.com/log")
        log.append(entries(sizes[0]))
        log.checkpoint()
        left = stops

        def stopping(path: Path, data: bytes, mode: int) -> None:
            nonlocal left
            if not left:
                raise Crash
            left -= 1
            replace(path, data, mode)

        monkeypatch.setattr(store_module, "_replace", stopping)
        try:
            log.append(entries(sizes[1], sizes[0]))
            log.checkpoint()
            crashed = False
        except Crash:
            crashed = True
        monkeypatch.setattr(store_module, "_replace", replace)
        if not crashed:
            break
        again = Log.open(folder_of(log))
        published = again.published().size
        assert published == sizes[0]
        done = again.size - sizes[0]
        assert done in {0, sizes[1]}  # an append is there whole or not at all
        again.append(entries(7, 1_000))  # other entries than those that were cut off
        again.checkpoint()
        assert again.verify().checkpoint.size == sizes[0] + done + 7
        assert again.entry(sizes[0] + done) == entries(1, 1_000)[0]
        stops += 1
    assert stops >= 5  # a bundle, a tile, the size, history, the checkpoint at the least


def test_a_file_is_replaced_whole_and_synced_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, move = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("name"), move(self, target))[1])
    Store(tmp_path).write("checkpoint", b"words")
    assert order == ["sync", "name", "sync"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def _append_some(folder: Path) -> None:
    for number in range(5):
        Log.open(folder).append(entries(1, number))


def test_two_processes_that_append_lose_nothing(log: Log) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_append_some, args=(folder_of(log),)) for _ in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    log.checkpoint()
    assert log.verify().checkpoint.size == 10
    assert sorted(log.entries(0, 10)) == sorted(entries(5) * 2)


# --- formats of others -----------------------------------------------------------------------------------


def test_our_growth_makes_the_files_of_a_log_that_tessera_made() -> None:
    assert FOREIGN.is_dir(), f"the vectors of others are absent: {FOREIGN} is missing"
    texts = {str(path.relative_to(FOREIGN)): path.read_bytes() for path in FOREIGN.rglob("*") if path.is_file()}
    size = int((FOREIGN / "checkpoint").read_text().splitlines()[1])
    data, words = texts[f"tile/entries/000.p/{size}"], []
    while data:
        length = int.from_bytes(data[:2], "big")
        words.append(data[2 : 2 + length])
        data = data[2 + length :]
    assert len(words) == size
    made: dict[str, bytes] = {}
    for number, word in enumerate(words):
        made |= changed_files(made, number, [word])
    theirs = {path: text for path, text in texts.items() if path.startswith("tile/")}
    assert theirs
    assert {path: made[path] for path in theirs} == theirs


def test_a_writer_that_holds_on_is_reported(log: Log) -> None:
    other = Store(private_folder(folder_of(log)))
    with other.locked(), pytest.raises(LogError, match="stays locked"), log._private.locked(patience_s=0.0):
        pass
    with log._private.locked(patience_s=0.0):  # and it is free again
        pass


def test_a_revocation_is_an_entry_too(log: Log) -> None:
    revoke = sign(RevokeEntry(target=bytes(32), reason="withdrawn", issued=1), SIGNER)
    assert log.append([revoke]) == [0]
