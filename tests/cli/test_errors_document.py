"""The table of ``docs/errors.md`` is the tree of ``hybrid.errors``: every class, with its exit code."""

import re
from pathlib import Path

from hybrid import errors
from hybrid.cli import __doc__ as cli_words
from hybrid.errors import HybridError

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/errors.md").read_text()
FAMILIES = {"HybridError", "RoutingError", "RemoteError"}  # raised only as one of their leaves


def classes() -> dict[str, int]:
    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, HybridError)]
    return {c.__name__: c.exit_code for c in found if c.__name__ not in FAMILIES}


def rows() -> set[tuple[str, int]]:
    listed = re.findall(r"^\| (\d+) \| ([^|]+) \|", DOCUMENT, re.MULTILINE)
    return {(name, int(code)) for code, cell in listed for name in re.findall(r"`(\w+)`", cell)}


def test_every_error_stands_in_the_table_with_its_exit_code() -> None:
    assert rows() == set(classes().items())


def test_every_exit_code_is_named_by_the_command_line() -> None:
    assert all(re.search(rf"\b{code}\b", cli_words or "") for code in classes().values())
