"""What the terminal can show, and the two ways of writing to it: ``answer`` and ``talk``.

The answer goes to stdout, as it came. Everything else goes to stderr.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

ColourWish = Literal["auto", "always", "never"]

NARROWEST = 20  # columns; in less room, broken lines read worse than long ones
RESET = "\x1b[0m"
CLEAR_LINE = "\r\x1b[2K"
COLOURS = {"green": "\x1b[32m", "blue": "\x1b[34m", "yellow": "\x1b[33m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
_CONTROLS = {i: 0xFFFD for i in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(i) not in "\t\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What a stream can show. colour: may be coloured.  tty: a person watches.  live: a line can be redrawn.

    width: columns to keep within, 0 for lines of any length.
    """

    colour: bool = False
    tty: bool = False
    live: bool = False
    width: int = 0

    def paint(self, text: str, colour: str) -> str:
        """Colour a text, or leave it: the words always say it too."""
        return f"{COLOURS[colour]}{text}{RESET}" if self.colour else text

    def wrap(self, text: str, *, indent: int = 0) -> str:
        """Break a line at spaces to keep within the width; what goes on is indented. Words are never broken."""
        room = self.width - indent
        if room < NARROWEST:
            return text
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        return f"\n{' ' * indent}".join(lines)


def screen_of(stream: TextIO | None, *, wish: ColourWish = "auto", environ: Mapping[str, str] = os.environ) -> Screen:
    """Read what a stream can show: NO_COLOR and TERM=dumb make it plain, ``--color`` overrides both."""
    tty = _is_tty(stream)
    dumb = environ.get("TERM", "") in ("", "dumb")
    plain = bool(environ.get("NO_COLOR")) or dumb or not tty
    return Screen(
        colour=wish == "always" or (wish == "auto" and not plain),
        tty=tty,
        live=tty and not dumb,
        width=shutil.get_terminal_size().columns if tty else 0,
    )


def _is_tty(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def safe(text: str) -> str:
    """Replace control characters, which a terminal would obey, by a mark; tabs and line breaks stay."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def talk(text: str = "", *, end: str = "\n") -> None:
    """Write a line for the person to stderr; a stderr that is gone is no reason to fail."""
    _write(sys.stderr, text + end, must=False)


def answer(text: str) -> None:
    """Write answer text to stdout at once: as it came to a pipe, without control characters to a terminal."""
    _write(sys.stdout, safe(text) if _is_tty(sys.stdout) else text, must=True)


def show(text: str) -> None:
    """Write lines made for people or programs to stdout. What in them came from elsewhere is ``safe`` already."""
    _write(sys.stdout, f"{text}\n", must=True)


def _write(stream: TextIO | None, text: str, *, must: bool) -> None:
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:  # a narrow locale: show what it can show
        codec = stream.encoding or "ascii"
        stream.write(text.encode(codec, "replace").decode(codec))
        stream.flush()
    except (OSError, ValueError):
        if must:
            raise
