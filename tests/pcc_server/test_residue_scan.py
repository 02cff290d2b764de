"""The detector itself: it finds planted copies wherever they lie, exactly as many, and none that were overwritten."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcc_server.environment import environment
from pcc_server.residue import scan as scanner
from pcc_server.residue.needles import needles_of
from pcc_server.residue.scan import scan

pytestmark = pytest.mark.linux

SECRET = "qzkwvjxbmtrplhgdnscf"
PLANTING = """
import ctypes, mmap, struct, sys
secret = bytearray(reversed(b"fcsndghlprtmbxjvwkzq"))  # the text of this program lies in memory, too
{code}
print("planted", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(code: str, *words: str) -> Iterator[int]:
    """Run code in a child that then waits; ``secret`` is one copy, in a bytearray."""
    command = [sys.executable, "-c", PLANTING.format(code=code), *words]
    scrubbing = environment("worker")  # what Python has freed while it ran the code is no copy
    with subprocess.Popen(command, env=scrubbing, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"planted\n"
        yield child.pid
        child.kill()


@pytest.mark.parametrize("chunk", [4096, 65_536, scanner.CHUNK_BYTES])
def test_copies_are_counted_exactly_wherever_they_lie(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(scanner, "CHUNK_BYTES", chunk)
    code = (
        "room = mmap.mmap(-1, 1 << 22)\n"
        "for number in range(64):\n"
        "    at = number * 65_536 - (number % len(secret) if number else 0)\n"
        "    room[at:at + len(secret)] = secret\n"
        "room[-len(secret):] = secret\n"
        "secret[:] = bytes(len(secret))"
    )
    with process(code) as pid:
        found = scan(pid, needles_of(SECRET))
    assert found["utf-8"] == 65
    assert all(count == 65 for name, count in found.items() if name.startswith("window"))
    assert not found["utf-16"]
    assert not found["utf-32"]


def test_every_form_of_a_secret_is_found() -> None:
    ids, key = list(range(1000, 1012)), bytes(range(100, 132))
    code = (
        "text = secret.decode()\n"
        "forms = [bytearray(text.encode('utf-16-le')), bytearray(text.encode('utf-32-le')),\n"
        "         *(bytearray(struct.pack(form, *range(1000, 1012))) for form in ('<12I', '<12q')),\n"
        "         bytearray(range(100, 132))]"
    )
    with process(code) as pid:
        found = scan(pid, needles_of(SECRET, ids, key))
    assert {name for name, count in found.items() if not count} == set()
    with process("secret[:] = bytes(len(secret))") as pid:
        assert not any(scan(pid, needles_of(SECRET, ids, key)).values())


def test_a_piece_of_eight_bytes_is_enough() -> None:
    with process("piece = secret[5:13]; secret[:] = bytes(len(secret))") as pid:
        found = scan(pid, needles_of(SECRET))
    assert {name: count for name, count in found.items() if count} == {"window 5": 1}


def test_a_files_own_pages_are_left_out_and_changed_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(SECRET.encode() * 500)
    code = (
        "file = open(sys.argv[1], 'rb')\n"
        "still = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "assert still[0] == ord('q')\n"
        "{}secret[:] = bytes(len(secret))"
    )
    with process(code.format(""), str(file)) as pid:
        assert not any(scan(pid, needles_of(SECRET)).values())
    changed = "copy = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY); copy[-1] = 0\n"
    with process(code.format(changed), str(file)) as pid:
        assert scan(pid, needles_of(SECRET))["utf-8"]


def test_a_process_that_is_gone_is_an_error() -> None:
    with process("") as pid:
        pass
    with pytest.raises(OSError, match="No such"):
        scan(pid, needles_of(SECRET))


def test_short_lists_and_missing_parts_give_no_needles() -> None:
    assert needles_of() == {}
    assert needles_of(ids=range(5)) == {}
    assert needles_of(ids=range(6)) == {
        "ids u32 0": struct.pack("<6I", *range(6)),
        "ids i64 0": struct.pack("<6q", *range(6)),
    }
    assert set(needles_of("12345678")) == {"utf-8", "utf-16", "utf-32", "window 0"}
