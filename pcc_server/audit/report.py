"""What an audit found: rows of want, got and consequence, as a table for people and as JSON for programs."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

FORMAT = 1  # of the JSON
_WIDTH = 100


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    RED = "red"
    NOT_PROVEN = "not_proven"  # it could not be carried out: red
    NOT_APPLICABLE = "not_applicable"
    LIMIT = "limit"  # what no setting of the node changes; the tier decides


FAILED = frozenset((State.RED, State.NOT_PROVEN))
_WORDS = {
    State.OK: "ok",
    State.RED: "RED",
    State.NOT_PROVEN: "NOT PROVEN",
    State.NOT_APPLICABLE: "does not apply",
    State.LIMIT: "limit",
}


class Unseen(Exception):
    """Something cannot be looked at: one sentence with why, and what to do about it."""


class Found(NamedTuple):
    """What a look came to. held: None where the check does not apply."""

    held: bool | None
    got: str


def good(got: str) -> Found:
    """Say that it holds."""
    return Found(held=True, got=got)


def wrong(got: str) -> Found:
    """Say that it does not hold."""
    return Found(held=False, got=got)


def aside(got: str) -> Found:
    """Say that it does not apply here."""
    return Found(held=None, got=got)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One check's result. ``name`` is stable; the other texts are for people."""

    name: str
    state: State
    want: str
    got: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. consequence: what follows where it does not."""

    name: str
    want: str
    consequence: str

    def row(self, state: State, got: str) -> Row:
        """Return its row."""
        return Row(name=self.name, state=state, want=self.want, got=got, consequence=self.consequence)

    def look(self, see: Callable[[], Found]) -> Row:
        """Carry it out."""
        try:
            found = see()
        except Unseen as why:
            return self.row(State.NOT_PROVEN, str(why))
        return self.row(_STATES[found.held], found.got)


_STATES = {True: State.OK, False: State.RED, None: State.NOT_APPLICABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole audit. node: what was audited, for people: process ids, engine, tier."""

    rows: tuple[Row, ...]
    node: dict[str, Any]

    @property
    def failed(self) -> tuple[Row, ...]:
        """What is red, or not proven."""
        return tuple(row for row in self.rows if row.state in FAILED)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        rows = [{**asdict(row), "state": row.state.value} for row in self.rows]
        return {"format": FORMAT, "failures": len(self.failed), "node": self.node, "rows": rows}

    def table(self) -> str:
        """Return text for people: a line for each check, and what follows under those that are red."""
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [line for row in self.rows for line in _lines(row, width)]
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        red = sum(1 for row in self.rows if row.state is State.RED)
        unproven = len(self.failed) - red
        if not self.failed:
            return f"all {len(self.rows)} checks are green"
        return f"{red} of {len(self.rows)} checks are red, {unproven} not proven"


def _lines(row: Row, width: int) -> Iterable[str]:
    yield f"{row.name:{width}}  {_WORDS[row.state]}"
    if row.state in FAILED:
        yield from _wrapped("want", row.want)
    yield from _wrapped("got", row.got)
    if row.state in FAILED or row.state is State.LIMIT:
        yield from _wrapped("so", row.consequence)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"    {label:5}", subsequent_indent=" " * 9)
