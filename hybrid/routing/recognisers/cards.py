"""Payment cards: 12 to 19 digits of a known brand that pass the Luhn check (ISO/IEC 7812-1)."""

import re

from .chains import Chain
from .checksums import luhn
from .cues import CARD, Near

LEAST, MOST = 12, 19

_BRANDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)\d{11,16}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"  # JCB
    r"|62\d{14,17}|81\d{14}"  # UnionPay
    r"|(?:50|5[6-9]|6\d|0604)\d{10,17}"  # Maestro, RuPay, Verve, Elo and others
    r"|220[0-4]\d{12,15}|9792\d{12}"  # Mir, Troy
)
_GROUPED = re.compile(
    r"(?:4([ .-])4(?:\1)4(?:\1)(?:4(?:(?:\1)[13])?|1)|4([ .-])6\2[45])(?![0-9a-z]|[.-][0-9a-z])|[cdefz](?![.-][0-9a-z])"
)
_ANYHOW = re.compile(r"[0-9a-z](?:[ .-]{1,3}[0-9a-z]){0,18}")
_SPREAD = re.compile(
    r"[3-6][0-9]{3}(?:[ \t.>|_*-]{0,3}(?:\r?\n)?[ \t.>|_*-]{0,3}[0-9]{4}){3}(?![0-9])|[3-6][0-9]{3}(?:[_/*"
    r"|:][0-9]{4}){3}(?![0-9])"
)
_IN_TABLE = re.compile(r" 4(?: |$)")


def brand(digits: str) -> bool:
    """Say whether a card of some brand begins so and has this many digits."""
    return _BRANDS.fullmatch(digits) is not None


def written_as_card(chain: Chain, first: int) -> int | None:
    """Return the last group where the digits from ``first`` on are grouped as on a card or in one piece."""
    match = _GROUPED.match(chain.shape, chain.at[first])
    return chain.last_in(first, match.end()) if match else None


def card(chain: Chain, first: int, near: Near) -> int | None:
    """Return the last group of a card that begins at group ``first``, None where none does.

    Beside a word for a card any grouping and brand will do; without it both must be known. Luhn always holds.
    """
    last = written_as_card(chain, first)
    if last is not None and not _in_table(chain, first, last) and _valid(chain.digits(first, last), named=False):
        return last
    if not near.has(CARD):
        return None
    if last is not None and _valid(chain.digits(first, last), named=True):
        return last
    return None if first else _any_grouping(chain)


def _in_table(chain: Chain, first: int, last: int) -> bool:
    """Whether a further group of four stands beside groups of four: a row of years or prices."""
    before, after = (
        chain.shape[max(0, chain.at[first] - 2) : chain.at[first]],
        chain.shape[chain.at[last] + 1 : chain.at[last] + 4],
    )
    return last > first and (before == "4 " or _IN_TABLE.match(after) is not None)


def mistyped(chain: Chain, first: int, near: Near) -> int | None:
    """Return the last group of what is called a card, is written like one and fails its check: still a secret."""
    last = written_as_card(chain, first)
    return last if last is not None and near.has(CARD) else None


def spread_cards(text: str) -> list[tuple[int, int]]:
    """Find cards of four groups of four broken by a line end or by quote marks. (start, end) of each."""
    found = (m for m in _SPREAD.finditer(text) if _broken(m[0]) and not _inside(text, m.start()))
    return [m.span() for m in found if _valid("".join(filter(str.isdigit, m[0])), named=False)]


def _broken(written: str) -> bool:
    """Whether one line end breaks it, or signs that no table has; the rest is read group by group."""
    return written.count("\n") == 1 or (len(written) == 16 + 3 and written[4] in "_/*|:")


def _inside(text: str, start: int) -> bool:
    return start > 0 and (text[start - 1].isalnum() or text[start - 1] in "._-")


def _any_grouping(chain: Chain) -> int | None:
    match = _ANYHOW.match(chain.shape, chain.at[0])
    best = None
    for last in range(min(chain.last_in(0, match.end()), MOST - 1) + 1 if match else 0):
        digits = chain.digits(0, last)
        if len(digits) > MOST:
            break
        if brand(digits) and luhn(digits):
            best = last
    return best


def _valid(digits: str, *, named: bool) -> bool:
    return LEAST <= len(digits) <= MOST and (named or brand(digits)) and luhn(digits)
