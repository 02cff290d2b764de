"""One child of the launcher: how it is started, heard and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import events
from .control import Lines, messages
from .environment import environment
from .events import Program

KEPT_LINES = 40  # of what a child prints before it serves: no request exists then
MAX_WORDS = 1_000  # characters of its last words
READ_BYTES = 65_536


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A running program of ours and the ends we hold of it.

    served: it has told its facts; from then on it may hold a request.  failure: why it cannot serve, in its own words,
    and the exit code.
    early: what it printed before that.  stray_bytes: what it printed later and nobody saw.
    """

    program: Program
    process: subprocess.Popen[bytes]
    control: socket.socket
    served: bool = False
    failure: tuple[str, int] | None = None
    early: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    stray_bytes: int = 0
    _lines: Lines = field(default_factory=lambda: Lines(events.MAX_LINE))
    _news: Lines = field(default_factory=Lines)

    @classmethod
    def start(cls, program: Program, link: socket.socket) -> "Child":
        """Start it: no shell, no preexec_fn, an environment built from nothing, two inherited sockets."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the signature; a child that does not read loses messages
        with theirs:
            fds = (link.fileno(), theirs.fileno())
            words = [sys.executable, "-P", "-s", "-B", "-m", f"pcc_server.{program}", *map(str, fds), str(os.getpid())]
            process = subprocess.Popen(  # noqa: S603 - our own program, our own interpreter
                words,
                env=environment(program),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C on a terminal reaches the launcher alone
            )
        child = cls(program=program, process=process, control=ours)
        os.set_blocking(child.stderr, False)
        return child

    @property
    def stderr(self) -> int:
        """The file descriptor of its stderr pipe."""
        assert self.process.stderr is not None  # noqa: S101 - start() asks for the pipe
        return self.process.stderr.fileno()

    def said(self) -> Iterator[bytes]:
        """Yield the lines waiting on its stderr. Raises EOFError when there will be no more."""
        with contextlib.suppress(BlockingIOError):
            if not (data := os.read(self.stderr, READ_BYTES)):
                raise EOFError
            yield from self._lines.push(data)

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield the messages waiting on its control socket. Raises EOFError when there will be no more."""
        try:
            data = self.control.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        yield from messages(self._news.push(data))

    def fail(self, told: dict[str, Any]) -> None:
        """Take its last words: one sentence that may stand in a log, whatever has become of it."""
        words = "".join(char if char.isprintable() else " " for char in str(told["message"])[:MAX_WORDS])
        self.failure = words, int(told["exit_code"])

    def ask_to_end(self) -> None:
        """Close our half of the control socket: the child ends as soon as it can."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def end(self, patience_s: float) -> None:
        """Wait for it, and end it by force when it takes longer."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Close our ends of one that ended."""
        self.control.close()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def how_it_ended(self) -> str:
        """Say it in words."""
        code = self.process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
