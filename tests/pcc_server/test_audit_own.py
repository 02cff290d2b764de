"""What a process says of its own descriptors, while other threads open and close theirs."""

import os
import socket
import threading
from pathlib import Path

import pytest

from pcc_server.audit import own

LOOKS = 3_000


def test_it_counts_written_files_and_names_listeners(tmp_path: Path) -> None:
    before = own.describe()
    with (tmp_path / "a").open("w"), (tmp_path / "a").open("r"), socket.create_server(("127.0.0.1", 0)) as listening:
        here = own.describe()
        where = f"127.0.0.1:{listening.getsockname()[1]}"
    assert here["writable_files"] == before["writable_files"] + 1
    assert sorted(here["listening"]) == sorted([*before["listening"], where])


def test_a_descriptor_that_became_a_file_meanwhile_leaves_none_behind(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number
        with pytest.raises(OSError, match="non-socket"):
            own._listens(file.fileno())
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_descriptor_that_closes_meanwhile_is_nobodys_fault() -> None:
    """A library's thread that closed one at that moment kept a node from starting."""
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            os.close(os.open("/dev/null", os.O_RDONLY))
            socket.socket().close()

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        looks = [own.describe() for _ in range(LOOKS)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert len(looks) == LOOKS
