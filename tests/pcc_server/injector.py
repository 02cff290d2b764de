"""Inside a process of a test build: raises at one line, once, when told to; or notes which lines are run.

The commands are JSON lines in an inherited pipe, the answers go into another; nothing else of the process changes, and
its sandbox is in force. See ``injecting.py`` for the other end.
"""

import asyncio
import concurrent.futures.thread as pool
import json
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

FDS = "INJECTOR_FDS"
WATCHED = ("/pcc_server/", "/hybrid/wire/", "/device/")
KINDS: dict[str, type[BaseException]] = {
    kind.__name__: kind for kind in (ValueError, KeyError, RuntimeError, OSError, MemoryError, SystemExit)
}


class Injector:
    """Traces the threads of this process while it is told to. Lines are (file below the repository, number)."""

    def __init__(self, root: str, commands: int, answers: int) -> None:
        self._root = root + "/"
        self._commands, self._answers = commands, answers
        self._rest = b""
        self._lines: set[tuple[str, int]] | None = None
        self._file, self._line, self._error = "", 0, Exception()

    def listen(self) -> None:
        """Forget what a process before this one was told, say hello, and take commands from now on."""
        os.set_blocking(self._commands, False)
        self._follow_engine()
        self._read()
        self._rest = b""
        asyncio.get_running_loop().add_reader(self._commands, self._hear)
        self._say(hello=os.getpid())

    def _follow_engine(self) -> None:
        """Trace the engine's own thread anew at each of its turns: an error of a tracer ends it, in its thread."""
        if core := sys.modules.get("device.core"):
            drain = core.Core._drain

            def traced(*given: Any) -> Any:
                sys.settrace(self.trace if self._line or self._lines is not None else None)
                return drain(*given)

            core.Core._drain = traced  # type: ignore[attr-defined]

    def _read(self) -> bytes:
        try:
            return os.read(self._commands, 65_536)
        except BlockingIOError:
            return b""

    def _say(self, **message: Any) -> None:
        os.write(self._answers, json.dumps(message).encode() + b"\n")

    def _hear(self) -> None:
        *lines, self._rest = (self._rest + self._read()).split(b"\n")
        for line in lines:
            self._obey(**json.loads(line))

    def _obey(self, *, do: str, number: int, file: str = "", line: int = 0, kind: str = "", text: str = "") -> None:
        if do == "note":
            self._lines = set()
        elif do == "arm":
            self._file, self._line, self._error = self._root + file, line, KINDS[kind](text)
        if do in ("note", "arm"):
            sys.settrace(self.trace)
            self._say(done=number)
            return
        fired = not self._line
        noted, self._lines = sorted(self._lines or ()), None
        self._file, self._line = "", 0
        sys.settrace(None)
        for at in range(0, len(noted), 500):
            self._say(lines=[(file.removeprefix(self._root), at) for file, at in noted[at : at + 500]])
        self._say(done=number, fired=fired)

    def trace(self, frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        """Look into a frame that matters (sys.settrace)."""
        file = frame.f_code.co_filename
        if self._lines is not None:
            return self._note if any(part in file for part in WATCHED) else None
        return self._raise if file == self._file else None

    def _note(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        if event == "line" and self._lines is not None and frame.f_lineno:
            self._lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._note

    def _raise(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        if event == "line" and frame.f_lineno == self._line and frame.f_code.co_filename == self._file:
            self._line = 0
            raise self._error
        return self._raise


def begin(root: str) -> None:
    """Be ready before the program begins. root: the repository."""
    from pcc_server import child

    commands, answers = map(int, os.environ.pop(FDS).split(","))
    injector = Injector(root, commands, answers)
    silence, run = child.silence, pool._WorkItem.run  # type: ignore[attr-defined]

    def silence_and_listen() -> None:
        silence()
        injector.listen()

    def traced_run(item: Any) -> None:
        sys.settrace(injector.trace)
        run(item)

    child.silence = silence_and_listen
    pool._WorkItem.run = traced_run  # type: ignore[attr-defined]
    threading.settrace(injector.trace)
