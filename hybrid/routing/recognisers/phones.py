"""Telephone numbers: 6 to 15 digits that begin, or are grouped, as telephone numbers are, or stand beside a cue.

There is no check digit, so rhythm decides: what is a date, a range, a decimal number or a column of a table is none.
"""

import re
from typing import Final

from .chains import Chain
from .cues import Near

LEAST: Final = 6
MOST: Final = 15  # ITU-T E.164

_ENDS = r"(?![0-9a-z]|[./-][0-9a-z])"
_SURE = re.compile(
    r"(?:"
    r"(?:\+?1[ .-]?)?(?:\(3\)[ .-]{0,2}|3[-.])3[ .-]4"  # North America
    r"|(?:1-)?3-3-3|(?:1-)?4-3-[34]|(?:1-)?3-4-4|2-4-4|[34]-[23]-2-2|3-3-2-2"
    r"|(?:1[ -]?)?\([2-5]\)[ ./-]{0,2}[2-9](?:[ ./-][2-5]){0,4}"  # area code in brackets, a trunk digit before it
    r"|2-2-2-2(?:-2)?|2\.2\.2\.2\.2"  # pairs
    rf"){_ENDS}"
)
_SPACED = re.compile(r"(?:1 )?3 3 4(?![0-9a-z]|[ ./-]{1,3}[0-9a-z])")  # North America, which a table can look like
_NATIONAL = re.compile(rf"(?:[2-5][ ./-]{{1,3}}[2-8](?:[ .-][2-5]){{0,4}}|[9ab]){_ENDS}")  # begins with one zero
_ABROAD = re.compile(r"\+ ?\(?[1-9a-f](?:[ ./()-]{1,3}[1-9a]){0,8}")
_CARRIER = re.compile(r"[2-6a-f](?:[ ./()-]{1,3}[1-9a]){0,8}")  # begins with 00
_NAMED = re.compile(rf"(?:[6-9a-f]|[1-8](?:(?:[ ./-]{{1,2}}|\)[ -]?| ?\()[2-9]){{1,7}}){_ENDS}")
_CALLED = re.compile(rf"(?:[6-9a-d]|[1-5](?:(?:[ .-]|/)[2-8]){{1,5}}){_ENDS}")
_EXTENSION = re.compile(
    r"(?:\s{0,2}|,\s?)(?:x|ext\.?|extn\.?|extension|durchwahl|poste)\s{0,2}[.:#]?\s?[0-9]{1,6}(?![0-9a-z])"
)

_OTHER = re.compile(
    r"(?:1[5-9]|20)[0-9]{2}([-/. ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])(?![0-9])"  # 2020-02-29
    r"|(?:0?[1-9]|[12][0-9]|3[01])([-/. ])(?:0?[1-9]|1[0-2])\2(?:1[5-9]|20)[0-9]{2}(?![0-9])"  # 29.02.2020
    r"|(?:0?[1-9]|1[0-2])([-/. ])(?:0?[1-9]|[12][0-9]|3[01])\3(?:1[5-9]|20)[0-9]{2}(?![0-9])"  # 2/29/2020
    r"|(?:0?[1-9]|[12][0-9]|3[01])([-/.])(?:0?[1-9]|[12][0-9]|3[01])\4[0-9]{2}(?![0-9]|[-./][0-9])"  # 29.02.20
    r"|(?:1[5-9]|20)[0-9]{2} ?[-/] ?(?:(?:1[5-9]|20)[0-9]{2}|[0-9]{2})(?![0-9]|[-/][0-9])"  # 1936-39
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])"  # an IPv4 address
    r"|97[89][ -]?[0-9]{1,5}[ -][0-9]{1,7}[ -][0-9]{1,7}[ -][0-9](?![0-9])"  # an ISBN
    r"|[0-9]{8} ?[-/] ?[0-9]{8}(?![0-9])"  # two days in one piece
)
_DECIMAL = re.compile(r"(?:[0-9]+\.[0-9]{1,4}|[0-9]\.[0-9]+)(?![0-9]|[-.][0-9])")
_ROUND = re.compile(r"[0-9]{3,9}000(?![0-9]|[ ./-][0-9])")
_RANGE = re.compile(r"([0-9]+) ?[-/] ?([0-9]+)(?![0-9]|[ ./-][0-9])")
_GLUED = frozenset("$€£¥#%&=@_~^*<\\'`")
_TRUNK = "018"  # what is dialled before an area code: most of Europe, North America, Russia
_JOINTS = ".:/-"
_ROW = " \t|,;"
_CELLS = "\t|;"


def skipped(chain: Chain, first: int) -> int | None:
    """Return the last group of a date, a range of years, an IPv4 address or an ISBN beginning here; None else."""
    start, end = chain.groups[first][0], chain.groups[-1][1]
    match = _OTHER.match(chain.text, start, end)
    if match is None:
        return None
    return next(i for i in range(first, len(chain.groups)) if chain.groups[i][1] >= match.end())


def sure_phone(chain: Chain, first: int) -> int | None:
    """Return the last group of what is written as telephone numbers alone are, from group ``first`` on; None else."""
    if not _free(chain, first):
        return None
    opens = chain.at[first] - (chain.groups[first][0] - chain.place(first, first)[0])
    last = _international(chain, first, opens)
    return _rhythmic(chain, first, opens) if last is None else last


def named_phone(chain: Chain, first: int, near: Near) -> int | None:
    """Return the last group of a number that only a word nearby makes a telephone number; None else."""
    named = near.phone()
    match = (_NAMED if named else _CALLED).match(chain.shape, chain.at[first])
    if match is None or not (named or near.reach()) or not _free(chain, first) or _is_measure(chain, first):
        return None
    if not named and _ROUND.match(chain.text, chain.groups[first][0]):
        return None
    if in_row(chain, first, _CELLS if named else _ROW):
        return None
    return _counted(chain, first, match.end(), least=LEAST)


def with_extension(text: str, end: int) -> int:
    """Return the end of a number with its extension, such as ``x123``. ``text`` in lower case."""
    match = _EXTENSION.match(text, end)
    return match.end() if match else end


def _international(chain: Chain, first: int, opens: int) -> int | None:
    plus = chain.shape.find("+", opens, chain.at[first])
    if plus >= 0:
        match = _ABROAD.match(chain.shape, plus)
        zero = chain.digits(first, first).startswith("0")
        return None if match is None or zero else _cut(chain, first, match.end(), least=8)
    if chain.digits(first, first).startswith("00") and chain.digits(first, first) != "0" * 5:
        match = _CARRIER.match(chain.shape, chain.at[first])
        if match is None or chain.digits(first, first)[2:3] in {"", "0"}:
            return None
        return _cut(chain, first, match.end(), least=10)
    return None


def _cut(chain: Chain, first: int, end: int, *, least: int) -> int | None:
    """Return the last group up to ``end`` with which there are at most 15 digits (two more after 00), at least some."""
    last = chain.last_in(first, end)
    while last > first and len(chain.digits(first, last)) > MOST:
        last -= 1
    return last if least <= len(chain.digits(first, last)) <= MOST + 2 else None


def _rhythmic(chain: Chain, first: int, opens: int) -> int | None:
    here, start = chain.at[first], chain.groups[first][0]
    match = _SURE.match(chain.shape, opens) or (_SURE.match(chain.shape, here) if opens < here else None)
    if match is None and not in_row(chain, first):
        match = _SPACED.match(chain.shape, here)
    if match and (chain.shape[here] != "1" or chain.text[start] in _TRUNK):
        return _counted(chain, first, match.end(), least=7)
    match = _NATIONAL.match(chain.shape, chain.at[first])
    if match is None or not re.match("0[1-9]", chain.text[start : start + 2]) or _sequence(chain, first):
        return None
    return _counted(chain, first, match.end(), least=8)


def _counted(chain: Chain, first: int, end: int, *, least: int) -> int | None:
    last = chain.last_in(first, end)
    return last if least <= len(chain.digits(first, last)) <= MOST else None


def _free(chain: Chain, first: int) -> bool:
    """Whether a number may begin here: not inside a word, an amount, a decimal or a path."""
    start = chain.place(first, first)[0]
    if not start:
        return True
    before = chain.text[start - 1]
    if before.isascii() and (before.isalnum() or before in _GLUED):
        return False
    return not chain.after_comma(first) and not (before in _JOINTS and chain.text[start - 2 : start - 1].isdigit())


def _is_measure(chain: Chain, first: int) -> bool:
    start, end = chain.groups[first][0], chain.groups[-1][1]
    if _DECIMAL.match(chain.text, start, end) or _sequence(chain, first):
        return True
    match = _RANGE.match(chain.text, start, end)
    if match is None:
        return False
    low, high = match.groups()
    years = len(low) <= len(high) <= 4  # noqa: PLR2004 - or prices
    return " " in match[0] or (years and int(low) < int(high) and int(high) % 10 == 0)


def _sequence(chain: Chain, first: int) -> bool:
    digits = chain.digits(first, first)
    return len(digits) > LEAST and (digits in "01234567890123456789" or len(set(digits)) == 1)


def in_row(chain: Chain, first: int, between: str = _ROW) -> bool:
    """Whether another number stands right before or after this chain, with nothing else between, as in a table."""
    text, start, end = chain.text, chain.groups[first][0], chain.groups[-1][1]
    before = text[max(0, start - 6) : start].rstrip(between)[-1:]
    after = text[end : end + 6].lstrip(between)[:1]
    return before.isdigit() or after.isdigit()
