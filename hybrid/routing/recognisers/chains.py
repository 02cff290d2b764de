"""Chains: runs of digits with little between them, as cards, telephone and identity numbers are written.

A chain has a *shape*, such as ``(3) 3-4``: each group of digits stands as its length (a to f for 10 to 15, z above),
everything between stays. Rules about rhythm are then short patterns over short strings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LEAST_DIGITS = 6
"""Fewer digits than this are no identifier of any kind we know."""

_CHAIN = re.compile(r"[0-9](?:[ .()/-]{0,3}[0-9]){5,}")
_GROUP = re.compile("[0-9]+")
_LENGTHS = "0123456789abcdef"
_CARD_LENGTHS = frozenset("cdefz")
_BEFORE = frozenset("+(")


@dataclass(frozen=True, slots=True)
class Chain:
    """Groups of digits in a text. ``groups`` are (start, end) in the text; ``at`` their places in ``shape``."""

    text: str = field(repr=False)
    groups: tuple[tuple[int, int], ...]
    shape: str
    at: tuple[int, ...]

    def digits(self, first: int, last: int) -> str:
        """Return the digits of groups ``first`` to ``last``, both included."""
        return "".join([self.text[start:end] for start, end in self.groups[first : last + 1]])

    def place(self, first: int, last: int) -> tuple[int, int]:
        """Return where groups ``first`` to ``last`` stand in the text, a sign or bracket before them included."""
        start = self.groups[first][0]
        here = self.at[first]
        while here and self.shape[here - 1] in _BEFORE:
            here, start = here - 1, start - 1
        return start, self.groups[last][1]

    def after_comma(self, first: int) -> bool:
        """Whether ``1,`` before this group makes it part of a number: thousands or decimals, not a further value."""
        start, _ = self.groups[first]
        if self.text[start - 1 : start] != "," or not self.text[start - 2 : start - 1].isdigit():
            return False
        size, after = self.shape[self.at[first]], self.shape[self.at[first] + 1 : self.at[first] + 2]
        return not (after == "-" or (after == " " and size != "3") or size in _CARD_LENGTHS)

    def last_in(self, first: int, end: int) -> int:
        """Return the last group whose length stands before place ``end`` of the shape, from ``first`` on."""
        last = first
        while last + 1 < len(self.at) and self.at[last + 1] < end:
            last += 1
        return last


def chains(text: str) -> Iterator[Chain]:
    """Find every chain of at least six digits, from left to right. Linear in the length of the text."""
    for match in _CHAIN.finditer(text):
        yield _chain(text, match.start(), match.end())


def _chain(text: str, start: int, end: int) -> Chain:
    before = start
    while before and start - before < 2 and text[before - 1] in _BEFORE:  # noqa: PLR2004 - "+(" at most
        before -= 1
    groups, parts, at, here = [], [text[before:start]], [], start - before
    previous = start
    for match in _GROUP.finditer(text, start, end):
        first, last = match.span()
        between = text[previous:first]
        length = last - first
        here += len(between)
        at.append(here)
        here += 1
        parts += (between, _LENGTHS[length] if length < len(_LENGTHS) else "z")
        groups.append((first, last))
        previous = last
    return Chain(text, tuple(groups), "".join(parts), tuple(at))
