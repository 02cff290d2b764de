"""Numbers that name a person or an account: cards, US social security, identity and telephone numbers.

One walk over the chains of digits; at each group the strictest reading is tried first.
"""

import re
from collections.abc import Iterator

from .cards import card, mistyped, spread_cards
from .chains import Chain, chains
from .cues import AFTER, BEFORE, NOWHERE, PHONE, REACH, SOCIAL, Near, words_of
from .folding import Folded
from .identifiers import named_id, numeric_id, widened
from .phones import in_row, named_phone, skipped, sure_phone, with_extension
from .spans import Span

_SSN = re.compile(r"3([ .-])2(?:\1)4(?![0-9a-z]|[.-][0-9a-z])")
_MAYBE = re.compile(
    r"[6-9a-z]|[2-5]\)|1[ .-]{1,2}[34]|1[ -]?\([2-5]|1 2 2 |1-3|[12]\.3\.3|2[-.]2[-.]2|2-4-4|3[ .-]2[ .-][24]"
    r"|3[-.][34]|3 3 4|3[. ]4"
    r"|4[ .-][46][ .-][45]|4-[23]-"
)
_MAYBE_NAMED = re.compile(r"[2-5](?:$|[^0-9a-z])|[1-8](?:[ ./-]{1,2}|\)[ -]?| ?\()[2-9]|1[ .-]{1,3}1")
_GROUPS = re.compile(r"[1-9a-f](?:[ ./-][1-9a-f]){0,5}")
_LINK = re.compile(r"[a-z]{3,8}://|www\.")
LONGEST_LINK = 200
LONGEST = 24
"""Characters of a number with its separators; cues after it are looked for behind them."""
CALLS = PHONE | REACH
CLOSE = 24
"""Characters between a word for an identity number and a number that without it would be a telephone's."""


def numbers(text: Folded) -> Iterator[Span]:
    """Find numbers that name a person or an account. Linear: each group of digits is read a bounded number of times."""
    if not text.has_digit:
        return
    for start, end in spread_cards(text.text):
        yield text.span(start, end, "CREDIT_CARD")
    for chain in chains(text.text):
        yield from _walk(text, chain)


def _walk(text: Folded, chain: Chain) -> Iterator[Span]:
    start, end = chain.groups[0][0], chain.groups[-1][1]
    cues = Near(text.lower, start, end).cued()
    first = 0
    while first < len(chain.groups):
        here = chain.groups[first][0]
        cued = cues and (here - start <= BEFORE or end - here <= AFTER + LONGEST)
        if possible(chain, first, cued=cued):
            end_here = min(
                end, here + LONGEST
            )  # a chain may hold several numbers: cues after one are looked for near it
            last, name = _read(text, chain, first, Near(text.lower, here, end_here) if cued else NOWHERE)
            if name:
                yield _span(text, chain, first, last, name)
            first = last
        first += 1


def possible(chain: Chain, first: int, *, cued: bool) -> bool:
    """Whether anything we know could begin at this group, by its shape alone: most of a table can't."""
    place = chain.at[first]
    if _MAYBE.match(chain.shape, place) or (place and chain.shape[place - 1] == "+"):
        return True
    if chain.shape[place] != "1" and chain.text[chain.groups[first][0]] == "0":
        return True
    return cued and _MAYBE_NAMED.match(chain.shape, place) is not None


def _span(text: Folded, chain: Chain, first: int, last: int, name: str) -> Span:
    start, end = chain.place(first, last)
    if name == "PHONE_NUMBER":
        end = with_extension(text.lower, end)
    if name == "NATIONAL_ID":
        start, end = widened(text, chain.groups[first][0], end)
    return text.span(start, end, name)


def _read(text: Folded, chain: Chain, first: int, near: Near) -> tuple[int, str]:
    """Return the last group of what begins at group ``first``, and its type; empty for what is none of ours."""
    begins = _begins(chain, first)
    last, name = _checked(chain, first, near) if begins else (first, "")
    if name:
        return last, name
    between = None if near is NOWHERE else named_id(near)
    named = between is not None and words_of(between).isdisjoint(CALLS)
    if named and len(between or "") <= CLOSE:
        return _last_named(chain, first), "NATIONAL_ID"
    last, name = _called(text, chain, first, near) if begins else (first, "")
    if named and begins and not name and last == first:
        return _last_named(chain, first), "NATIONAL_ID"
    return last, name


def _checked(chain: Chain, first: int, near: Near) -> tuple[int, str]:
    """Read what has a check of its own."""
    for last, name in (
        (card(chain, first, near), "CREDIT_CARD"),
        (_ssn(chain, first, near), "US_SSN"),
        (numeric_id(chain, first), "NATIONAL_ID"),
    ):
        if last is not None and (name == "NATIONAL_ID" or _ends(chain, last)):
            return last, name
    return first, ""


def _called(text: Folded, chain: Chain, first: int, near: Near) -> tuple[int, str]:
    """Read what rhythm or a word nearby makes a telephone number, or a card that fails its check."""
    last = skipped(chain, first)
    if last is not None:
        return last, ""
    last = sure_phone(chain, first)
    if last is not None and _phone_ends(text, chain, first, last):
        return last, "PHONE_NUMBER"
    if near is NOWHERE:
        return first, ""
    last = named_phone(chain, first, near)
    if last is not None and _phone_ends(text, chain, first, last):
        return last, "PHONE_NUMBER"
    last = mistyped(chain, first, near)
    return (first, "") if last is None else (last, "NATIONAL_ID")


def _phone_ends(text: Folded, chain: Chain, first: int, last: int) -> bool:
    """Whether a telephone number may end with this group: not inside a word, nor any of it in a link."""
    return _ends(chain, last, extension=True) and not _in_link(text.lower, chain.groups[first][0])


def _ssn(chain: Chain, first: int, near: Near) -> int | None:
    """Return the last group of an SSN: 3-2-4, area not 000, 666 or 900 and above, no group of zeros (SSA, 2011)."""
    named = near.has(SOCIAL)
    match = _SSN.match(chain.shape, chain.at[first])
    if match is None:
        whole = chain.shape[chain.at[first]] == "9" and named
        return first if whole and _issued(chain.digits(first, first)) else None
    if match[1] == " " and not named and in_row(chain, first):
        return None
    return first + 2 if _issued(chain.digits(first, first + 2)) else None


def _issued(digits: str) -> bool:
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _last_named(chain: Chain, first: int) -> int:
    match = _GROUPS.match(chain.shape, chain.at[first])
    return chain.last_in(first, match.end()) if match else first


def _begins(chain: Chain, first: int) -> bool:
    """Whether a number may begin here: after neither a letter nor a decimal point, with or without digits before it."""
    start = chain.groups[first][0]
    before, earlier = chain.text[start - 1 : start], chain.text[start - 2 : start - 1]
    if before == "." and (earlier == " " or (not first and earlier.isdigit())):
        return False
    if chain.after_comma(first):
        return False
    return not (before.isascii() and (before.isalnum() or before == "_"))


def _ends(chain: Chain, last: int, *, extension: bool = False) -> bool:
    """Whether a number may end here: before neither a letter nor a decimal point, but for an extension."""
    end = chain.groups[last][1]
    after = chain.text[end : end + 1]
    if extension and after in {"x", "X", "e", "E"}:
        return with_extension(chain.text[end : end + LONGEST].lower(), 0) > 0
    return not (after.isascii() and (after.isalnum() or after in {"_", "@"}))


def _in_link(lower: str, start: int) -> bool:
    before = lower[max(0, start - LONGEST_LINK) : start]
    word = before[before.rfind(" ") + 1 :]
    return _LINK.search(word[word.rfind("\n") + 1 :]) is not None
