"""A private node of one's own on loopback: start it as a child process, talk to it, stop it.

The child is the true node of this distribution, run with this interpreter. Nothing of it is imported here.
"""

import json
import queue
import re
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import ConfigurationError, HybridError, UnavailableError

START_TIMEOUT_S = 120.0  # a 3B model from a cold disk; the starter takes a few seconds
DRAIN_S = 1.0  # for the last words of a child that has just ended
STOP_TIMEOUT_S = 5.0  # time for running replies to end after SIGTERM, before the kill
KEPT_LINES = 20  # of what the child says on stderr: enough for its one sentence
CONFIG_EXIT = 2  # the node's exit code for a bad option
OWN_COMMAND = (sys.executable, "-P", "-m", "pcc_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What the node said when it was ready to answer."""

    address: str
    key: str
    tier: int
    engine: str
    model: str


class OwnNode:
    """A node this process started. Use it as a context manager, or call ``stop()``.

    address: ``127.0.0.1:PORT``.  key: the node's key, to be pinned.  pid: of its launcher.
    """

    def __init__(self, process: subprocess.Popen[str], ready: Ready, said: deque[str]) -> None:
        self._process = process
        self._said = said
        self._stop = weakref.finalize(self, _stop, process)  # also runs at interpreter exit
        self.ready = ready

    @classmethod
    def start(
        cls,
        *,
        engine: str = "mlx",
        model: str | Path | None = None,
        timeout: float = START_TIMEOUT_S,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = OWN_COMMAND,
    ) -> Self:
        """Start a node on a free loopback port and return once it is ready.

        engine: ``mlx``, or ``fake`` for tests.  model: a catalogue id or a model folder.  timeout: seconds.
        options: further words for ``pcc-server serve``.
        Raises ConfigurationError or UnavailableError with the node's own sentence when it ends before it is ready,
        UnavailableError when it is not ready in time.
        """
        process = _spawn([*command, *_serve_words(engine, model), *options])
        child = _Child(process)
        try:
            return cls(process, _wait_ready(child, timeout), child.said)
        except BaseException:
            _stop(process)
            raise

    @property
    def address(self) -> str:
        """Where it listens: ``127.0.0.1:PORT``."""
        return self.ready.address

    @property
    def key(self) -> str:
        """The node's key, as ``--node-key`` takes it."""
        return self.ready.key

    @property
    def pid(self) -> int:
        """Process id of the node's launcher."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The last line the node wrote on stderr; empty when it said nothing."""
        return self._said[-1] if self._said else ""

    def stop(self) -> int:
        """Ask it to end, wait, end it by force if it must be; return its exit status. Calling it again is harmless."""
        self._stop()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"OwnNode({self.address}, {'running' if self.running else 'stopped'})"


def _serve_words(engine: str, model: str | Path | None) -> list[str]:
    words = ["serve", "--json", "--listen", "127.0.0.1:0", "--engine", engine]
    return words if model is None else [*words, "--model", str(model)]


def _spawn(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program with words this module makes
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in a chat stops the answer, not the node
    )


class _Child:
    """The child's two pipes, drained for as long as it lives, so that it can never block on a full one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.said: deque[str] = deque(maxlen=KEPT_LINES)
        self._threads = [threading.Thread(target=t, daemon=True, name="own-node") for t in (self._events, self._talk)]
        for thread in self._threads:
            thread.start()

    def _events(self) -> None:
        with self.process.stdout or nullcontext(()) as pipe:
            for line in pipe:
                self.lines.put(line)
        self.lines.put(None)

    def _talk(self) -> None:
        with self.process.stderr or nullcontext(()) as pipe:
            self.said.extend(line.strip() for line in pipe if line.strip())

    def ended(self) -> HybridError:
        """Return what its end means, in its own words where it had any."""
        code = self.process.wait()
        for thread in self._threads:
            thread.join(DRAIN_S)
        words = (
            re.sub(r"^(pcc-server|error|Error): ", "", self.said[-1]) if self.said else f"it ended with status {code}"
        )
        message = f"the private node did not start: {words}"
        if code == CONFIG_EXIT:
            return ConfigurationError(message)
        return UnavailableError(message, reason="node_unreachable", hint="run pcc-server serve by hand to see more")


def _wait_ready(child: _Child, timeout: float) -> Ready:
    deadline = time.monotonic() + timeout
    while True:
        try:
            line = child.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise UnavailableError(
                f"the private node was not ready within {timeout:.0f} s",
                reason="node_unreachable",
                hint="give it more time, or run pcc-server serve by hand to see what it waits for",
            ) from None
        if line is None:
            raise child.ended()
        event = _event(line)
        if event.get("event") == "ready":
            return _ready(event)


def _event(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _ready(event: dict[str, Any]) -> Ready:
    return Ready(
        address=str(event["listen"]),
        key=str(event["node_key"]),
        tier=int(event.get("tier", 0)),
        engine=str(event.get("engine", "")),
        model=str(event.get("model", "")),
    )


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
