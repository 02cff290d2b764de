"""JSON Lines files that the ``eval`` commands read: one object a line, and a wrong line is named by its number."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from hybrid.errors import ConfigurationError

Parsed = TypeVar("Parsed")


def rows(file: Path, parse: Callable[[Mapping[str, Any]], Parsed]) -> Iterator[Parsed]:
    """Read one object after another, as ``parse`` makes them; blank lines are passed over.

    ``parse`` raises ValueError with a sentence that holds nothing of the row. Raises ConfigurationError, exit code 2,
    naming the line, for what is no object or was refused, and naming the file when it can't be read.
    """
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield parse(_object(line))
            except ValueError as error:
                raise ConfigurationError(f"line {number} of the data: {error}") from None


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None


def text(row: Mapping[str, Any], name: str) -> str:
    """Return a text of a row. Raises ValueError when it is missing or no text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a text')  # noqa: TRY004 - one kind of error for a wrong row
    return value


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one kind of error for a wrong row
    return value
