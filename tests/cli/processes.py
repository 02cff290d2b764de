"""Real processes of the command line, with pipes or on a terminal of their own."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(Path(__file__).with_name("scenes.py"))]
PATIENCE_S = 30.0


def start(scene: str, *words: str, before: tuple[str, ...] = (), **how: object) -> "subprocess.Popen[bytes]":
    """Start the command line in a scene, in the current folder. before: a program that starts it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*before, *PROGRAM, scene, *words], env=env, **{**pipes, **how})  # type: ignore[call-overload, no-any-return]


class Terminal:
    """A process on a terminal of its own: type into it, read what it shows. A context manager."""

    def __init__(
        self, scene: str, *words: str, term: str = "xterm", no_color: str = "", stdout: int | None = None
    ) -> None:
        self._hold, child = pty.openpty()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": term, "NO_COLOR": no_color}
        self.process = subprocess.Popen(
            [*PROGRAM, scene, *words], env=env, stdin=child, stdout=child if stdout is None else stdout, stderr=child,
            start_new_session=True, preexec_fn=_own_terminal,  # noqa: PLW1509 - this process has no other thread yet
        )  # fmt: skip
        os.close(child)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._hold, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, a moment after the last thing shown: readline misses a signal that comes before it waits."""
        time.sleep(0.5)
        self.type("\x03")

    def terminate(self) -> None:
        """Send SIGTERM, after the same moment and for the same reason."""
        time.sleep(0.5)
        self.process.terminate()

    def wait_for(self, text: str) -> str:
        """Return what was shown up to and with a text, counted from the last wait."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            if not self._more(until):
                raise AssertionError(f"{text!r} never came; shown: {self.shown!r}")
        seen, _, self.shown = self.shown.partition(text)
        return seen + text

    def end(self) -> int:
        """Wait for the process to end, reading on; return its exit status."""
        until = time.monotonic() + PATIENCE_S
        while self._more(until):
            pass
        return self.process.wait(PATIENCE_S)

    def _more(self, until: float) -> bool:
        while time.monotonic() < until:
            if select.select([self._hold], [], [], 0.2)[0]:
                try:
                    data = os.read(self._hold, 65536)
                except OSError:  # the other side is gone
                    return False
                self.shown += data.decode(errors="replace").replace("\r\n", "\n")
                return bool(data)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._hold)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed into it is a signal
