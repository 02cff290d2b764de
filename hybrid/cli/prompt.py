"""From arguments, stdin and files to a prompt and its sources. Bad bytes are refused by their offset, never guessed."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hybrid.errors import ConfigurationError

if TYPE_CHECKING:
    from hybrid.routing.labels import Source
    from hybrid.wire.types import Route

MAX_STDIN_BYTES = 64 * 1024 * 1024  # far above any context: an endless pipe ends in an error, not in swap
STDIN_NAME = "standard input"
GLOB_MARKS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked, and what it is asked about."""

    text: str = field(repr=False)
    sources: tuple["Source", ...] = ()


def gather(words: Sequence[str], files: Sequence[str], max_route: "Route | None", stdin: BinaryIO | None) -> Prompt:
    """Join words, piped text and files.

    Piped text comes before the words, as in ``git diff | hybrid "review this"``. With ``--max-route`` or ``-f -`` it
    is a source of its own, so that its label follows it.
    Raises ConfigurationError when nothing is asked, when input is not UTF-8, or when a file isn't there.
    """
    text = _typed(words)
    piped = read_utf8(stdin, STDIN_NAME) if stdin is not None else ""
    sources = list(read_files([name for name in files if name != "-"], max_route))
    if piped.strip() and (max_route is not None or "-" in files):
        sources.append(_piped_source(piped, max_route))
    elif piped.strip():
        text = f"{piped.rstrip()}\n\n{text}" if text else piped
    if not text.strip() and not sources:
        raise ConfigurationError(
            "the prompt is empty", hint='ask something: hybrid ask "What is the capital of France?"'
        )
    return Prompt(text=text, sources=tuple(sources))


def _typed(words: Sequence[str]) -> str:
    text = " ".join(words)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        offset = len(text[: error.start].encode())
        raise ConfigurationError(f"the prompt is not UTF-8: byte {offset} does not decode") from None
    return text


def read_utf8(stream: BinaryIO, name: str) -> str:
    """Read a stream to its end as UTF-8.

    Raises ConfigurationError naming the offset of the first byte that does not decode, or the limit it exceeds.
    """
    data = stream.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise ConfigurationError(
            f"{name} holds more than {MAX_STDIN_BYTES >> 20} MiB", hint="send a smaller part of it"
        )
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name} is not UTF-8: byte {error.start} does not decode", hint="convert it first, for example with iconv"
        ) from None  # the cause holds the input


def _piped_source(text: str, max_route: "Route | None") -> "Source":
    from hybrid.routing.labels import Source

    return Source(label=STDIN_NAME, text=text, max_route=max_route)


def piped_stdin() -> BinaryIO | None:
    """Return stdin when something is piped into it, None on a terminal or without one."""
    stream = sys.stdin
    try:
        return None if stream is None or stream.isatty() else stream.buffer
    except (ValueError, AttributeError):  # closed, or replaced by something without bytes
        return None


def read_files(names: Iterable[str], max_route: "Route | None") -> Iterable["Source"]:
    """Read each named file, every file of a folder, every match of a glob, in a stable order.

    Mail and calendar files come back labelled on_device whatever max_route says, unless it is stricter.
    """
    from hybrid.sources import file

    for name in names:
        for path in _paths(name):
            yield file(path, max_route=max_route)


def _paths(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    elif path.exists() or not any(mark in name for mark in GLOB_MARKS):
        found = [path]
    else:
        found = sorted(p for p in _matches(path) if p.is_file())
    if not found or not found[0].exists():
        raise ConfigurationError(f"no such file: {name}", hint="-f takes a file, a folder, a glob, or - for stdin")
    return found


def _matches(pattern: Path) -> Iterable[Path]:
    fixed = next(i for i, part in enumerate(pattern.parts) if any(mark in part for mark in GLOB_MARKS))
    return Path(*pattern.parts[:fixed]).glob(str(Path(*pattern.parts[fixed:])))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
