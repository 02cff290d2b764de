"""Lines a person types or a script pipes in. Typed ones can be edited and recalled; none is written to disk.

``\"\"\"`` opens and closes a text of several lines.
"""

import sys
from typing import TextIO

from hybrid.cli.prompt import MAX_STDIN_BYTES
from hybrid.cli.terminal import talk
from hybrid.errors import ConfigurationError

FENCE = '"""'
PROMPT, CONTINUED = "> ", "… "


class Lines:
    """Reads what to say next, from a terminal or a pipe."""

    def __init__(self, stdin: TextIO | None = None) -> None:
        self._stdin = sys.stdin if stdin is None else stdin
        self.typed = self._stdin is not None and self._stdin.isatty()
        self._number = 0

    def read(self) -> str | None:
        """Return the next line or fenced text; None at the end of input. Ctrl-C passes through as KeyboardInterrupt."""
        line = self._line(PROMPT)
        if line is None or not line.lstrip().startswith(FENCE):
            return line
        parts = [line.lstrip()[len(FENCE) :]]
        while not parts[-1].rstrip().endswith(FENCE):
            more = self._line(CONTINUED)
            if more is None:
                return "\n".join(parts).strip()
            parts.append(more)
        return "\n".join(parts).rstrip()[: -len(FENCE)].strip()

    def ask(self, question: str) -> bool:
        """Ask a yes-or-no question on the terminal; anything but yes is no, an empty line is yes."""
        talk(question + " [Y/n] ", end="")
        try:
            said = self._line("")
        except KeyboardInterrupt:
            talk()
            return False
        return said is not None and said.strip().lower() in ("", "y", "yes")

    def _line(self, prompt: str) -> str | None:
        if not self.typed:
            return self._piped()
        try:
            if sys.stdout.isatty():
                import readline  # editing and recall, in memory only: no history file is named  # noqa: F401

                return _settled(input(prompt))
            talk(prompt, end="")
            line = self._stdin.readline()
            return _settled(line.rstrip("\n")) if line else None
        except EOFError:
            return None

    def _piped(self) -> str | None:
        """Read one line of bytes. Raises ConfigurationError naming line and offset for what is not UTF-8."""
        if self._stdin is None:
            return None
        data = self._stdin.buffer.readline(MAX_STDIN_BYTES)
        self._number += 1
        try:
            return data.decode().rstrip("\r\n") if data else None
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"line {self._number} of standard input is not UTF-8: byte {error.start} does not decode",
                hint="convert it first, for example with iconv",
            ) from None  # the cause holds the input


def _settled(line: str) -> str:
    """Replace what the terminal sent as broken UTF-8: a line typed by hand is corrected by hand."""
    return line.encode("utf-8", "replace").decode()
