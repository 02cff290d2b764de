"""A witness over HTTP: what it cosigns, what it refuses with which status, and that no restart makes it forget."""

import base64
import contextlib
import http.client
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.cosignature import CosignatureSigner, CosignatureVerifier
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.merkle import consistency_proof, leaf_hash, root
from hybrid.wire.note import Note, NoteSigner, NoteVerifier, append_signatures
from pcc_server.tlog import store as store_module
from pcc_server.tlog import witness as witness_module
from pcc_server.tlog.cosign import Witness as Asked
from pcc_server.tlog.cosign import witnesses_of
from pcc_server.tlog.errors import LogError, WitnessError
from pcc_server.tlog.log import Log
from pcc_server.tlog.witness import Server, Witness
from tests.pcc_server.test_tlog import entries

ORIGIN = "example.com/log"
LOG = NoteSigner.from_seed(ORIGIN, bytes(32))
KEY = CosignatureSigner.from_seed("witness.example/w1", b"w" * 32, "ml-dsa-44")
NOW = 1_700_000_000


def leaves(count: int, words: str = "") -> list[bytes]:
    return [leaf_hash(f"{words}{number}".encode()) for number in range(count)]


def note(hashes: list[bytes], signer: NoteSigner = LOG) -> bytes:
    return signer.sign(Checkpoint(origin=signer.name, size=len(hashes), root=root(hashes)).encode_text())


def body(old: int, hashes: list[bytes], signed: bytes | None = None, proof: tuple[bytes, ...] | None = None) -> bytes:
    steps = consistency_proof(hashes, old) if proof is None and 0 < old < len(hashes) else proof or ()
    lines = "".join(f"{base64.b64encode(step).decode()}\n" for step in steps)
    return f"old {old}\n{lines}\n".encode() + (note(hashes) if signed is None else signed)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return make(tmp_path)


def make(folder: Path, *logs: NoteSigner, signer: CosignatureSigner = KEY) -> Witness:
    known = [NoteVerifier.parse(log.vkey) for log in logs or (LOG,)]
    return Witness(folder / "witness", signer, known, now=lambda: NOW)


# --- what it cosigns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-44"])
def test_it_cosigns_what_continues(tmp_path: Path, kind: str) -> None:
    signer = CosignatureSigner.from_seed(
        "witness.example/w1", b"w" * 32, "ed25519" if kind == "ed25519" else "ml-dsa-44"
    )
    witness = make(tmp_path, signer=signer)
    for old, size in [(0, 0), (0, 3), (3, 3), (3, 8), (8, 300)]:
        hashes = leaves(size)
        answer = witness.add_checkpoint(body(old, hashes))
        assert answer.status == 200
        whole = append_signatures(note(hashes), answer.body.decode().splitlines())
        assert CosignatureVerifier.parse(signer.vkey).time(Note.parse(whole)) == NOW
        assert witness.last(ORIGIN).size == size


def test_each_log_has_a_history_of_its_own(tmp_path: Path) -> None:
    other = NoteSigner.from_seed("example.com/other", b"o" * 32)
    witness = make(tmp_path, LOG, other)
    assert witness.add_checkpoint(body(0, leaves(5))).status == 200
    assert witness.add_checkpoint(body(0, leaves(2), note(leaves(2), other))).status == 200
    assert [witness.last(name).size for name in (ORIGIN, other.name)] == [5, 2]


# --- what it refuses -------------------------------------------------------------------------------------

FORK = leaves(8, "fork")
FOUR = leaves(4)
STRANGER = NoteSigner.from_seed(ORIGIN, b"x" * 32)
REFUSED = {
    "a fork with a proof of its own": (422, body(4, FORK)),
    "a fork of the same size": (422, body(4, leaves(4, "fork"))),
    "a fork with the true tree's proof": (422, body(4, FORK, proof=consistency_proof(leaves(8), 4))),
    "no proof": (422, body(4, leaves(8), proof=())),
    "a proof where none is needed": (422, body(4, FOUR, proof=(bytes(32),))),
    "a rollback by a smaller tree": (409, body(3, leaves(3))),
    "a rollback that says old 0": (409, body(0, leaves(3))),
    "an old size the witness never saw": (409, body(3, leaves(8))),
    "old beyond the checkpoint": (400, body(9, leaves(8), proof=())),
    "an origin it does not know": (404, body(0, FOUR, note(FOUR, NoteSigner.from_seed("example.com/x", bytes(32))))),
    "a signature by another key": (403, body(4, FOUR, note(FOUR, STRANGER))),
    "a signature over other words": (403, body(4, FOUR, note(FOUR).replace(b"\n4\n", b"\n5\n"))),
    "no old line": (400, note(FOUR)),
    "old with a leading zero": (400, body(4, FOUR).replace(b"old 4", b"old 04")),
    "old below zero": (400, body(4, FOUR).replace(b"old 4", b"old -4")),
    "a proof that is not base64": (400, body(4, leaves(8)).replace(b"\n", b"\n!", 1)),
    "64 proof lines": (400, body(4, leaves(8), proof=(bytes(32),) * 64)),
    "no words at all": (400, b""),
    "a note that is no checkpoint": (400, b"old 0\n\n" + LOG.sign("words\n")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(witness: Witness, what: str) -> None:
    assert witness.add_checkpoint(body(0, FOUR)).status == 200
    status, asked = REFUSED[what]
    answer = witness.add_checkpoint(asked)
    assert answer.status == status
    assert b"\xe2\x80\x94" not in answer.body  # no signature line
    assert witness.last(ORIGIN).root == root(FOUR)
    if status == 409:
        assert (answer.body, answer.content_type) == (b"4\n", "text/x.tlog.size")
    assert witness.add_checkpoint(body(4, leaves(8))).status == 200  # the control: the true tree still goes on


def test_the_empty_tree_has_one_root(witness: Witness) -> None:
    forged = LOG.sign(f"{ORIGIN}\n0\n{base64.b64encode(bytes(32)).decode()}\n")
    assert witness.add_checkpoint(body(0, [], forged)).status == 422
    assert witness.add_checkpoint(body(0, [], LOG.sign("words\n"))).status == 400
    assert witness.add_checkpoint(body(0, [])).status == 200


def test_a_fork_is_kept_as_evidence(tmp_path: Path) -> None:
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))
    witness.add_checkpoint(body(4, FORK))
    kept = {path.read_bytes() for path in (tmp_path / "witness" / "refused").iterdir()}
    assert kept == {note(FOUR), note(FORK)}


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    make(tmp_path).add_checkpoint(body(0, FOUR))
    again = make(tmp_path)
    assert again.add_checkpoint(body(0, leaves(8, "fork"))).status == 409
    assert again.add_checkpoint(body(4, FORK)).status == 422
    assert again.add_checkpoint(body(4, leaves(8))).status == 200


def test_no_cosignature_leaves_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))

    def full(path: Path, data: bytes, mode: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_replace", full)
        assert witness.add_checkpoint(body(4, leaves(8))).status == 500
    assert witness.last(ORIGIN).size == 4
    assert witness.add_checkpoint(body(4, leaves(8))).status == 200


def test_a_damaged_memory_cosigns_nothing(tmp_path: Path) -> None:
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))
    for path in (tmp_path / "witness").glob("*.note"):
        path.write_bytes(b"")
    assert witness.add_checkpoint(body(0, leaves(8, "fork"))).status == 500


def test_the_size_is_checked_and_written_in_one_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two forks of one tree at the same moment: exactly one is cosigned, however the threads are cut."""
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))
    gate = threading.Barrier(2, timeout=0.2)
    check = witness_module._check_growth

    def slow(last: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...]) -> None:
        check(last, new, proof)
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.wait()  # without the lock both threads meet here, after their checks

    monkeypatch.setattr(witness_module, "_check_growth", slow)
    forks = [FOUR + leaves(3, word) for word in "ab"]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda fork=fork: answers.append(witness.add_checkpoint(body(4, fork)).status))
        for fork in forks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409]


# --- over HTTP, with a log -------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.init(tmp_path / "log", ORIGIN)


class Serving:
    """A witness on a loopback port."""

    def __init__(self, folder: Path, log: Log, name: str = "witness.example/w1") -> None:
        signer = CosignatureSigner.generate(name, "ml-dsa-44")
        self.witness = Witness(folder / name.replace("/", "_"), signer, [NoteVerifier.parse(log.vkey)])
        self.server = Server(("127.0.0.1", 0), self.witness)
        self.vkey = signer.vkey
        self.asked = Asked.parse(f"{signer.vkey} {self.server.url}")
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serving(tmp_path: Path, log: Log) -> Iterator[Serving]:
    with Serving(tmp_path, log) as running:
        yield running


def test_a_log_collects_cosignatures_that_meet_a_quorum(tmp_path: Path, log: Log, serving: Serving) -> None:
    with Serving(tmp_path, log, "witness.example/w2") as second:
        keys = {"W1": serving, "W2": second}
        lines = [f"witness {name} {each.vkey} {each.server.url}" for name, each in keys.items()]
        policy = LogPolicy.parse("\n".join([f"log {log.vkey}", *lines, "group both all W1 W2", "quorum both", ""]))
        for size in (3, 300):
            log.append(entries(size))
            assert policy.quorum_time(log.checkpoint(witnesses=witnesses_of(policy))) is not None
    log.append(entries(1))
    failed: list[WitnessError] = []
    published = log.checkpoint(witnesses=witnesses_of(policy), failed=failed.append)
    assert "cannot be reached" in str(failed[0])
    assert len(Note.parse(published).signatures) == 2  # the log's, and that of the witness that is there
    assert log.verify().checkpoint.size == 304


def test_a_log_catches_a_witness_up_and_tolerates_one_ahead(log: Log, serving: Serving) -> None:
    log.append(entries(5))
    log.checkpoint()
    assert len(Note.parse(log.checkpoint(witnesses=[serving.asked])).signatures) == 2  # from 0, by its 409
    log.append(entries(4))
    with pytest.raises(RuntimeError):  # a crash after the witness has cosigned, before anything is published
        log.checkpoint(now=_crash, witnesses=[serving.asked])
    log.append(entries(3))
    assert len(Note.parse(log.checkpoint(witnesses=[serving.asked])).signatures) == 2


def _crash() -> float:
    raise RuntimeError


def test_a_log_restored_from_an_old_copy_stops(log: Log, serving: Serving, tmp_path: Path) -> None:
    log.append(entries(4))
    log.checkpoint(witnesses=[serving.asked])
    for name in ("log", "log.private"):
        shutil.copytree(tmp_path / name, tmp_path / "old" / name)
    log.append(entries(1))
    log.checkpoint(witnesses=[serving.asked])
    restored = Log.open(tmp_path / "old" / "log")
    before = restored.note()
    with pytest.raises(LogError, match="older than what was published"):
        restored.checkpoint(witnesses=[serving.asked])
    assert restored.note() == before


def test_a_witness_that_answers_nonsense_is_left_out(
    log: Log, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(entries(5))
    stranger = CosignatureSigner.generate(serving.witness._signer.name, "ml-dsa-44")
    monkeypatch.setattr(serving.witness, "_signer", stranger)
    failed: list[WitnessError] = []
    published = log.checkpoint(witnesses=[serving.asked], failed=failed.append)
    assert len(Note.parse(published).signatures) == 1
    assert len(failed) == 1


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [
        ("POST", "/add-checkpoint", "99999999", 400),
        ("POST", "/add-checkpoint", "x", 400),
        ("POST", "/add-checkpoint", "-1", 400),
        ("POST", "/other", "0", 404),
        ("GET", "/add-checkpoint", "0", 501),
    ],
)
def test_what_is_no_submission_is_refused(serving: Serving, method: str, path: str, length: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serving.server.server_address[1], timeout=5)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == status
    finally:
        connection.close()


@pytest.mark.parametrize("text", ["", "vkey", f"{KEY.vkey} ftp://x", f"{LOG.vkey} http://x", f"{KEY.vkey}x http://x"])
def test_a_witness_is_named_by_key_and_address(text: str) -> None:
    with pytest.raises(LogError, match="witness"):
        Asked.parse(text)
