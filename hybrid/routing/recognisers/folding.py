"""One plain form of a text for all recognisers, with the way back to the original offsets.

Digits of every script, full-width forms and circled numbers become ASCII, exotic spaces and dashes the plain ones,
accents go, and what nobody sees (zero-width characters, soft hyphens, combining marks) is left out: a number stays a
number however it is dressed. Letters that look like digits count as digits between digits only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from unicodedata import category, digit, normalize

from .spans import Span

_INVISIBLE = frozenset({"Cf", "Mn", "Me"})
_PLAIN = {
    "Zs": " ",  # no-break, thin and ideographic spaces
    "Zl": "\n",
    "Zp": "\n",
    "Pd": "-",
}
_SIGNS = {
    **dict.fromkeys("\u2212\u00af\u02d7", "-"),
    **dict.fromkeys("\u00b7\u2022\u2027\u2219\u22c5\u30fb", "."),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u115f\u1160\u3164\uffa0", ""),  # fillers: letters by category, empty to the eye
    "\u0085": "\n",
    "\u2019": "'",
}
_LOOKALIKES = str.maketrans("ОоΟοՕօІіӀӏΙιЗзЧчб", "00000011111133446")
_BETWEEN = re.compile(f"(?<=[0-9])[{''.join(map(chr, _LOOKALIKES))}]{{1,20}}(?=[ .-]?[0-9]|\\W|$)")
_DIGIT = re.compile("[0-9]")
_FEW = 12  # so many passes of str.replace cost less than one pass of Python over the characters


@dataclass(frozen=True)
class Folded:
    """A text in its plain form.

    text: the plain form, never longer than the original.  places: original offset of each of its characters, None
    where they are the same.
    """

    text: str = field(repr=False)
    places: tuple[int, ...] | None = field(default=None, repr=False)

    @cached_property
    def lower(self) -> str:
        """The plain form in lower case, as long as itself."""
        lower = self.text.lower()
        return lower if len(lower) == len(self.text) else "".join(c.lower()[:1] for c in self.text)

    @cached_property
    def has_digit(self) -> bool:
        """Whether there is any digit: without one there is no number of any kind."""
        return _DIGIT.search(self.text) is not None

    def span(self, start: int, end: int, name: str, *, private: bool = True) -> Span:
        """Return a place of the plain form as a place of the original. ``end`` is exclusive and beyond ``start``."""
        if self.places is None:
            return Span(start, end, name, private)
        return Span(self.places[start], self.places[end - 1] + 1, name, private)


def fold(text: str) -> Folded:
    """Return the plain form of a text. Linear in its length; an ASCII text is its own plain form."""
    if text.isascii():
        return Folded(text)
    changed = {c: plain for c, plain in _distinct(text) if plain != c}
    if not changed:
        return Folded(_unmasked(text))
    gone = frozenset(c for c, plain in changed.items() if not plain)
    places = tuple(i for i, c in enumerate(text) if c not in gone) if gone else None
    return Folded(_unmasked(_replaced(text, changed)), places)


def _distinct(text: str) -> Iterator[tuple[str, str]]:
    return ((c, _plain(c)) for c in set(text) if c > "\x7f")


def _replaced(text: str, changed: dict[str, str]) -> str:
    if len(changed) > _FEW:
        return "".join([changed.get(c, c) for c in text])
    for before, after in changed.items():
        text = text.replace(before, after)
    return text


def _unmasked(text: str) -> str:
    return _BETWEEN.sub(lambda m: m[0].translate(_LOOKALIKES), text)


@lru_cache(maxsize=4096)
def _plain(c: str) -> str:
    """Return what stands for one character: another, itself, or nothing where it can't be seen."""
    if c in _SIGNS:
        return _SIGNS[c]
    kind = category(c)
    if kind in _INVISIBLE:
        return ""
    if kind in _PLAIN:
        return _PLAIN[kind]
    value = digit(c, None)
    if value is not None:
        return str(value)
    parts = normalize("NFKD", c)
    marks_only = all(category(part) in _INVISIBLE for part in parts[1:])
    return parts[0] if marks_only else c
