"""The monitor finds what SPEC 5 forbids; the command line runs all of it in real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.entries import DirectoryEntry, RevokeEntry, entry_digest, open_entry, sign
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.note import Note, NoteSigner, NoteVerifier, append_signatures
from hybrid.wire.release import ReleaseEntry
from hybrid.wire.tlog_proof import TlogProof
from pcc_server.tlog.errors import LogError
from pcc_server.tlog.fetch import reader_of
from pcc_server.tlog.growth import changed_files
from pcc_server.tlog.log import Log, private_folder
from pcc_server.tlog.monitor import Monitor, Report, Tail

DIRECTORY = NoteSigner.from_seed("example.com/directory", b"d" * 32)
RELEASE = NoteSigner.from_seed("example.com/release", b"r" * 32)
ROLES = {
    "directory": (NoteVerifier.parse(DIRECTORY.vkey),),
    "release": (NoteVerifier.parse(RELEASE.vkey),),
    "revoke": (NoteVerifier.parse(DIRECTORY.vkey), NoteVerifier.parse(RELEASE.vkey)),
}
WITNESS = CosignatureSigner.from_seed("witness.example/w1", b"w" * 32)
NOW = 1_700_000_000


def directory(epoch: int, seq: int = 0, identity: bytes = b"a", signer: NoteSigner = DIRECTORY) -> bytes:
    entry = DirectoryEntry(deployment="example.com", epoch=epoch, seq=seq, directory_id=identity * 32, nodes=1)
    return sign(entry, signer)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log.init(tmp_path / "log", "example.com/log")
    grow(made, [directory(epoch) for epoch in range(3)])
    return made


def grow(log: Log, entries: list[bytes]) -> None:
    log.append(entries)
    log.checkpoint()


def look(log: Log, quorum: bool = False, folder: Path | None = None) -> Report:
    """One look by a fresh process's monitor: only the state file carries over."""
    text = f"witness W {WITNESS.vkey}\nquorum W\n" if quorum else "quorum none\n"
    policy = LogPolicy.parse(f"log {log.vkey}\n{text}")
    source = folder or log._store.folder
    tail = Tail(log._store.folder.with_name("monitor") / "state")
    return Monitor(lambda path: _read(source, path), policy, ROLES, tail, now=lambda: NOW).look()


def _read(folder: Path, path: str) -> bytes:
    return Log.read(folder, RELEASE.vkey)._store.read(path)


def test_a_log_that_behaves_is_read_once(log: Log) -> None:
    report = look(log)
    assert (report.size, report.read, report.kinds, report.findings) == (3, 3, {"directory": 3}, [])
    grow(log, [directory(3, seq) for seq in range(16)])
    report = look(log)
    assert (report.size, report.read, report.findings) == (19, 16, [])
    assert look(log).read == 0


def test_many_entries_are_read_across_tiles(log: Log) -> None:
    grow(log, [directory(epoch) for epoch in range(3, 700)])
    assert look(log).read == 700


def test_revocations_are_told(log: Log) -> None:
    target = entry_digest(directory(1))
    grow(log, [sign(RevokeEntry(target=target, reason="withdrawn", issued=1), RELEASE)])
    assert look(log).revoked == [f"{target.hex()} (withdrawn)"]


def test_two_directories_in_one_place_are_found_also_a_look_later(log: Log) -> None:
    assert not look(log).findings
    grow(log, [directory(2, 0, b"b")])
    assert "two directories for example.com, epoch 2, seq 0" in look(log).findings[0]
    assert look(log).findings  # and it stays found


def test_the_same_directory_twice_is_no_finding(log: Log) -> None:
    grow(log, [directory(2)])
    assert not look(log).findings


def test_a_stranger_cannot_make_a_finding(log: Log) -> None:
    grow(log, [directory(2, 0, b"b", RELEASE)])  # properly signed, but by another role's key
    report = look(log)
    assert (report.kinds, report.findings) == ({"directory": 3, "unknown": 1}, [])


def test_seventeen_directories_in_an_epoch_are_found(log: Log) -> None:
    grow(log, [directory(9, seq) for seq in range(17)])
    assert "more than 16 directories" in look(log).findings[0]


def test_a_rewritten_log_is_found_and_both_notes_are_kept(log: Log) -> None:
    before = log.note()
    look(log)
    signer = log._signer
    assert signer is not None
    other = Log.init(log._store.folder.with_name("fork"), "example.com/log")
    other.append([directory(epoch, 0, b"b") for epoch in range(5)])
    fork = signer.sign(Checkpoint(origin=signer.name, size=5, root=other._root(5)).encode_text())
    other._store.write("checkpoint", fork)
    assert "rewritten" in look(log, folder=other._store.folder).findings[0]
    kept = log._store.folder.with_name("monitor")
    assert (kept / "state.contradiction.before").read_bytes() == before
    assert (kept / "state.contradiction.now").read_bytes() == fork
    grow(log, [directory(3)])
    assert not look(log).findings  # the control: what was seen first still goes on


def test_garbage_from_a_mirror_is_no_fork(log: Log, tmp_path: Path) -> None:
    look(log)
    grow(log, [directory(3)])
    mirror = tmp_path / "mirror"
    shutil.copytree(log._store.folder, mirror)
    for tile in (mirror / "tile" / "0").rglob("*"):
        if tile.is_file():
            tile.write_bytes(bytes(len(tile.read_bytes())))
    assert "not what the checkpoint signs" in look(log, folder=mirror).findings[0]
    assert not list(log._store.folder.with_name("monitor").glob("*.contradiction.*"))
    assert not look(log).findings  # the control: the log itself is well


def test_a_log_that_went_back_is_found(log: Log, tmp_path: Path) -> None:
    shutil.copytree(log._store.folder, tmp_path / "old")
    grow(log, [directory(3)])
    look(log)
    assert "went back from 4 to 3" in look(log, folder=tmp_path / "old").findings[0]


@pytest.mark.parametrize("path", ["tile/entries/000.p/3", "tile/0/000.p/3"])
def test_entries_that_the_tree_does_not_hold_are_found(log: Log, path: str) -> None:
    files = changed_files({}, 0, [directory(epoch, 0, b"b") for epoch in range(3)])
    log._store.write(path, files[path])
    assert "not what the checkpoint signs" in look(log).findings[0]


def test_a_checkpoint_of_another_key_is_found(log: Log) -> None:
    stranger = NoteSigner.from_seed("example.com/log", b"x" * 32)
    text = Note.parse(log.note()).text
    log._store.write("checkpoint", stranger.sign(text))
    assert "does not hold" in look(log).findings[0]


def test_a_missing_quorum_and_a_fast_witness_are_found(log: Log) -> None:
    assert "quorum is not met" in look(log, quorum=True).findings[0]
    plain = log.note()
    for ahead, found in ((0, False), (91, True)):
        line = WITNESS.cosign(Note.parse(plain).text, now=lambda ahead=ahead: NOW + ahead)
        log._store.write("checkpoint", append_signatures(plain, [line]))
        assert bool(look(log, quorum=True).findings) == found


def test_any_static_server_can_serve_the_folder(log: Log) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=log._store.folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            read = reader_of(f"http://127.0.0.1:{server.server_address[1]}/")
            policy = LogPolicy.parse(f"log {log.vkey}\nquorum none\n")
            tail = Tail(log._store.folder.with_name("state"))
            report = Monitor(read, policy, ROLES, tail, now=lambda: NOW).look()
            assert (report.read, report.findings) == (3, [])
            with pytest.raises(LogError, match="cannot be fetched"):
                read("tile/0/999")
        finally:
            server.shutdown()
            thread.join()


def test_a_damaged_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("words")
    with pytest.raises(LogError, match="damaged"):
        Tail(tmp_path / "state")


# --- the command line ------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-P", "-c", "from pcc_server.cli_log import log; log(prog_name='log')"]
RELEASE_TOML = f"""
name = "hybrid-pcc"
version = "0.3.0"
source_commit = "{"a" * 40}"
sbom = "{"b" * 64}"
days = 30
[artefacts]
"hybrid_pcc-0.3.0.whl" = "{"c" * 64}"
[configs]
default = "{"d" * 64}"
[[measurements.tpm2]]
"4" = "{"e" * 64}"
"""


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if not code else done.stderr


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[str]:
    """A witness process for the log in tmp_path/log; yields its line VKEY URL."""
    vkey = run("init", tmp_path / "log", "--origin", "example.com/log").removeprefix("log ").strip()
    run("keygen", tmp_path / "w.key", "--name", "witness.example/w1", "--kind", "witness")
    words = ["witness", tmp_path / "w", "--key", tmp_path / "w.key", "--log", vkey, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*COMMAND, *map(str, words)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
        process.stdout.close()


def test_a_release_from_toml_to_a_proof_that_is_checked_offline(tmp_path: Path, witness: str) -> None:
    folder = tmp_path / "log"
    (tmp_path / "release.toml").write_text(RELEASE_TOML)
    role = run("keygen", tmp_path / "r.key", "--name", "example.com/release").strip()
    added = run(
        "add", folder, "--release", tmp_path / "release.toml", "--key", tmp_path / "r.key", "--out", tmp_path / "e"
    )
    assert added == "0\n"
    note = run("checkpoint", folder, "--witness", witness).encode()
    assert len(Note.parse(note).signatures) == 2
    assert "1 entries signed" in run("verify", folder)
    entry = run("show", folder, 0).encode()
    assert entry == (tmp_path / "e").read_bytes()
    opened = open_entry(entry, NoteVerifier.parse(role))
    assert isinstance(opened, ReleaseEntry)
    assert (opened.expires - opened.issued, opened.measurements["tpm2"][0][4]) == (30 * 86_400, "e" * 64)
    key = NoteVerifier.parse(Log.open(folder).vkey)
    proof = TlogProof.parse(run("show", folder, 0, "--proof").encode())
    assert proof.check(entry, key).size == 1
    (tmp_path / "policy").write_text(f"log {key.vkey}\nwitness W {witness}\nquorum W\n")
    state = ["--state", tmp_path / "state", "--json"]
    told = run("monitor", folder, "--policy", tmp_path / "policy", "--release-signer", role, *state)
    assert json.loads(told)["kinds"] == {"release": 1}
    assert "1 more appended" in (run("add", folder, tmp_path / "e"), run("verify", folder))[1]
    run("checkpoint", folder, "--policy", tmp_path / "policy")
    assert len(Note.parse((folder / "checkpoint").read_bytes()).signatures) == 2


def test_a_monitor_fails_on_a_finding(tmp_path: Path, log: Log) -> None:
    grow(log, [directory(2, 0, b"b")])
    words = ["--log", log.vkey, "--directory-signer", DIRECTORY.vkey, "--state", tmp_path / "s"]
    assert "FOUND: two directories" in run("monitor", log._store.folder, *words, code=1)


def test_every_mistake_is_one_sentence(tmp_path: Path, log: Log) -> None:
    folder, key = log._store.folder, private_folder(log._store.folder) / "key"
    (tmp_path / "bad.toml").write_text(RELEASE_TOML.replace("sbom", "bom"))
    (tmp_path / "words").write_text("words")
    mistakes = [
        (["init", folder, "--origin", "x"], "log already"),
        (["init", tmp_path / "n", "--origin", "two words"], "cannot be named"),
        (["add", folder], "name the files"),
        (["add", tmp_path / "none", tmp_path / "words"], "no key"),
        (["add", folder, tmp_path / "words"], "no entry"),
        (["add", folder, "--release", tmp_path / "bad.toml", "--key", key], "has no field sbom"),
        (["add", folder, "--release", tmp_path / "bad.toml"], "goes with"),
        (["keygen", key, "--name", "x"], "never written over"),
        (["checkpoint", folder, "--witness", "x"], "named by its key"),
        (["show", folder, "99"], "none numbered 99"),
        (["verify", folder, "--vkey", "x"], "no log key"),
        (["verify", folder, "--vkey", DIRECTORY.vkey], "no checkpoint of"),
        (["witness", tmp_path / "w", "--key", key, "--log", log.vkey], "no witness's key"),
        (["monitor", folder, "--state", tmp_path / "s"], "--log VKEY or by --policy"),
    ]
    for words, sentence in mistakes:
        told = run(*words, code=2)
        assert told.startswith("pcc-server log: ")
        assert told.count("\n") == 1
        assert sentence in told
