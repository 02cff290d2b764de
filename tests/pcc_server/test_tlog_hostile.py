"""A witness before callers who mean harm, and a log or monitor before servers that do: bounded in time and space."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.note import NoteSigner, append_signatures
from pcc_server.tlog import cosign, fetch
from pcc_server.tlog import witness as witness_module
from pcc_server.tlog.cosign import Witness as Asked
from pcc_server.tlog.errors import LogError, WitnessError
from pcc_server.tlog.fetch import reader_of
from pcc_server.tlog.log import Log
from pcc_server.tlog.store import Store
from tests.pcc_server.test_tlog import entries
from tests.pcc_server.test_tlog_witness import FORK, FOUR, KEY, ORIGIN, Serving, body, leaves, make, note

# --- callers of a witness --------------------------------------------------------------------------------


def decorated(signed: bytes, count: int) -> Iterator[bytes]:
    """The same signed words under signatures of strangers: bytes anybody can make, as many as they like."""
    for number in range(count):
        line = (
            NoteSigner.from_seed(f"stranger.example/{number}", bytes([number]) * 32).sign("x\n").partition(b"\n\n")[2]
        )
        yield append_signatures(signed, [line.decode().rstrip("\n")])


def kept(folder: Path) -> list[Path]:
    place = folder / "witness" / "refused"
    return sorted(place.iterdir()) if place.exists() else []


def test_nobody_fills_a_witness_s_disk_with_copies_of_one_checkpoint(tmp_path: Path) -> None:
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))
    for signed in decorated(note(FORK), 20):
        assert witness.add_checkpoint(body(4, FORK, signed)).status == 422
    assert len(kept(tmp_path)) == 2  # the fork and what it contradicts


def test_a_true_checkpoint_with_a_senseless_proof_is_no_evidence(tmp_path: Path) -> None:
    witness = make(tmp_path)
    witness.add_checkpoint(body(0, FOUR))
    assert witness.add_checkpoint(body(4, FOUR, proof=(bytes(32),))).status == 422
    assert kept(tmp_path) == []
    assert witness.add_checkpoint(body(4, leaves(4, "fork"))).status == 422  # the control: another root is
    assert len(kept(tmp_path)) == 2


def test_two_witnesses_over_one_folder_cosign_one_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make(tmp_path), make(tmp_path)
    one.add_checkpoint(body(0, FOUR))
    gate = threading.Barrier(2, timeout=0.3)
    check = witness_module._check_growth

    def slow(last: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...]) -> None:
        check(last, new, proof)
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.wait()  # unless the folder is locked both meet here, after their checks

    monkeypatch.setattr(witness_module, "_check_growth", slow)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda w=w, word=word: answers.append(w.add_checkpoint(body(4, FOUR + leaves(3, word))).status)
        )
        for w, word in ((one, "a"), (two, "b"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409]


def test_a_folder_that_cannot_be_locked_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError), Store(tmp_path / "file" / "folder").locked():
        pass
    with pytest.raises(OSError, match="from inside"), Store(tmp_path).locked():
        raise OSError("from inside")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.init(tmp_path / "log", ORIGIN)


def dial(serving: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", serving.server.server_address[1]), timeout=5)


def ended(connection: socket.socket) -> bool:
    """Wait until the other end closes; it sends nothing before."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_caller_that_breaks_off_is_not_printed(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object, __: bytes) -> None:
        raise ConnectionResetError("while answering")

    with Serving(tmp_path, log) as serving:
        monkeypatch.setattr(witness_module.Witness, "add_checkpoint", broken)
        with dial(serving) as connection:
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            assert ended(connection)
    assert capfd.readouterr() == ("", "")


def test_callers_that_stay_are_so_many_at_most_and_go_in_the_end(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_module, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(witness_module, "CONNECTION_S", 1.5)
    with Serving(tmp_path, log) as serving, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(dial(serving)) for _ in range(3)]
        for connection in idle:
            connection.sendall(b"P")
        time.sleep(0.2)
        assert ended(stack.enter_context(dial(serving)))
        assert all(ended(connection) for connection in idle)
        log.append(entries(3))
        assert serving.vkey.split("+")[0].encode() in log.checkpoint(witnesses=[serving.asked])  # there is room again


# --- servers that a log or a monitor asks ----------------------------------------------------------------


@contextlib.contextmanager
def dripping(first: bytes) -> Iterator[str]:
    """A server that sends ``first`` and then one more byte whenever a caller might give up. Yields its address."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(first)
            while not stop.wait(0.05):
                connection.sendall(b"a")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.close()


DRIPS = [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]


def in_time(work: threading.Thread) -> bool:
    work.start()
    work.join(5)
    return not work.is_alive()


@pytest.mark.parametrize("first", DRIPS)
def test_a_witness_that_answers_byte_by_byte_holds_up_no_log(
    log: Log, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(cosign, "TIMEOUT_S", 0.5)
    failed: list[WitnessError] = []
    log.append(entries(2))
    with dripping(first) as url:
        asked = Asked.parse(f"{KEY.vkey} {url}")
        work = threading.Thread(target=lambda: log.checkpoint(witnesses=[asked], failed=failed.append), daemon=True)
        assert in_time(work)
    assert "cannot be reached" in str(failed[0])
    assert log.published().size == 2


@pytest.mark.parametrize("first", DRIPS)
def test_a_log_that_answers_byte_by_byte_is_one_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.5)
    said: list[str] = []

    def read(url: str) -> None:
        try:
            reader_of(url)("checkpoint")
        except LogError as error:
            said.append(str(error))

    with dripping(first) as url:
        assert in_time(threading.Thread(target=read, args=(url,), daemon=True))
    assert "cannot be fetched" in said[0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://", "https://127.0.0.1:1"])
def test_an_address_that_is_none_is_one_that_cannot_be_reached(url: str) -> None:
    with pytest.raises(WitnessError, match="cannot be reached"):
        Asked.parse(f"{KEY.vkey} {url}").cosign(b"", 0, 0, lambda *_: ())
    with pytest.raises(LogError, match="cannot be fetched"):
        reader_of(url)("checkpoint")
