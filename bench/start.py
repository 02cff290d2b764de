"""How soon a node on the fake engine can be asked, and how soon it shows its evidence (node design P7).

The baseline of the first two rows is ``python -c 'import grpc'``: a node cannot be there before its gateway has done as
much. ``start.admin``: from starting the command to the first 200 of /livez. ``start.ready``: to its ready line.
``start.evidence``: p99 of 50 fetches of the directory with its evidence, so the slowest, against a
grpc.health.v1 check over the same channel.
"""

import argparse
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from _crowd import share
from _rows import row

from hybrid.wire import codec
from pcc_server import health

BARE = [sys.executable, "-P", "-c", "import grpc"]
TIMEOUT_S = 30.0
LOOK_S = 0.002
FETCHES = 50  # a node gives its directory to one address 60 times a minute
NEEDED = {"start.admin": 1.0, "start.ready": 1.0, "start.evidence": 5.0}


def bare() -> float:
    """Return seconds of the baseline."""
    begun = time.perf_counter()
    subprocess.run(BARE, check=True)
    return time.perf_counter() - begun


class Node:
    """A node that is starting. seconds are from its start."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._admin = f"127.0.0.1:{free.getsockname()[1]}"
        words = ["serve", "--json", "--engine", "fake", "--listen", "127.0.0.1:0", "--admin", self._admin]
        self._begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pcc_server", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def alive_s(self) -> float:
        """Wait until /livez says yes."""
        while time.perf_counter() - self._begun < TIMEOUT_S:
            try:
                connection = http.client.HTTPConnection(self._admin, timeout=TIMEOUT_S)
                connection.request("GET", "/livez")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return time.perf_counter() - self._begun
            except OSError:
                time.sleep(LOOK_S)
            finally:
                connection.close()
        raise SystemExit("the admin port did not answer")

    def ready_s(self) -> tuple[float, str]:
        """Wait until it is ready; also returns its address."""
        assert self._process.stdout
        events = (json.loads(line) for line in self._process.stdout)
        ready = next(event for event in events if event["event"] == "ready")
        return time.perf_counter() - self._begun, str(ready["listen"])

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()


def starts(rounds: int) -> None:
    """Print the rows of starting."""
    figures: dict[str, list[float]] = {"bare": [], "start.admin": [], "start.ready": []}
    for _ in range(rounds + 1):
        figures["bare"].append(bare())
        node = Node()
        with ThreadPoolExecutor(1) as beside:
            ready = beside.submit(node.ready_s)
            figures["start.admin"].append(node.alive_s())
            figures["start.ready"].append(ready.result()[0])
        node.stop()
    for name in ("start.admin", "start.ready"):
        told(name, "s", figures[name][1:], figures["bare"][1:], "python -c 'import grpc'")


def evidence(fetches: int) -> None:
    """Print the row of evidence, from memory."""
    node = Node()
    try:
        with grpc.insecure_channel(node.ready_s()[1]) as channel:
            directory: Any = channel.unary_stream(codec.METHODS["Directory.Get"])
            check: Any = channel.unary_unary(health.CHECK)
            pairs = [(ms(lambda: list(directory(b""))), ms(lambda: check(b""))) for _ in range(fetches + 1)][1:]
    finally:
        node.stop()
    p99 = [[share((pair[at] for pair in pairs), 0.99)] for at in (0, 1)]
    told("start.evidence", "ms", p99[0], p99[1], "grpc.health.v1 Check, p99")


def ms(work: Callable[[], object]) -> float:
    """Time one call, in milliseconds."""
    begun = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begun)


def told(name: str, unit: str, ours: list[float], baseline: list[float], what: str) -> None:
    """Print one row."""
    note = {"needed": NEEDED[name], "baseline_name": what}
    row(name, ours=ours, baseline=baseline, unit=unit, smaller_is_better=True, **note)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    starts(given.rounds)
    evidence(FETCHES)


if __name__ == "__main__":
    main()
