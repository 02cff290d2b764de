"""International bank account numbers: country, check digits, the country's length and form, modulo 97.

Forms are those of the SWIFT registry (release 101) and, for countries that are not in it, of their central banks:
counts of n digits, a letters, c either.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from .checksums import mod97
from .cues import ACCOUNT, Near, words
from .folding import Folded
from .spans import Span

FORMS = {
    entry[:2]: entry[3:]
    for entry in sorted(
        words("""
AD=8n12c AE=19n AL=8n16c AO=21n AT=16n AZ=4a20c BA=16n BE=12n BF=2c22n BG=4a6n8c BH=4a14c BI=23n BJ=2c22n BR=23n1a1c
BY=4c4n16c CF=23n CG=23n CH=5n12c CI=2c22n CM=23n CR=18n CV=21n CY=8n16c CZ=20n DE=18n DJ=23n DK=14n DO=4c20n DZ=22n
EE=16n EG=25n ES=20n FI=14n FK=2a12n FO=14n FR=10n11c2n GA=23n GB=4a14n GE=2a16n GI=4a15c GL=14n GQ=23n GR=7n16c
GT=24c GW=2c19n HN=4a20n HR=17n HU=24n IE=4a14n IL=19n IQ=4a15n IR=22n IS=22n IT=1a10n12c JO=4a4n18c KM=23n KW=4a22c
KZ=3n13c LB=4n20c LC=4a24c LI=5n12c LT=16n LU=3n13c LV=4a13c LY=21n MA=24n MC=10n11c2n MD=20c ME=18n MG=23n MK=3n10c2n
ML=2c22n MN=16n MR=23n MT=4a5n18c MU=4a19n3a MZ=21n NE=2c22n NI=4a20n NL=4a10n NO=11n OM=3n16c PK=4a16c PL=24n PS=4a21c
PT=21n QA=4a21c RO=4a16c RS=18n RU=14n15c SA=2n18c SC=4a20n3a SD=14n SE=20n SI=15n SK=20n SM=1a10n12c SN=2c22n SO=19n
ST=21n SV=4a20n TD=23n TG=2c22n TL=19n TN=20n TR=6n16c UA=6n19c VA=18n VG=4a16n XK=16n YE=4a4n18c
""")
    )
}
"""By country: the fields behind the check digits, such as ``4a14n``."""

_CHECK = re.compile(r"[0-9](?:(?<=[A-Za-z]{2}[0-9])|(?<=[A-Za-z]{2}[ -][0-9])) ?[0-9](?=[ .\-/\n\r\t]{0,2}[0-9A-Za-z])")
_MISTYPED = re.compile(r"[A-Za-z]{2}[ -]?[0-9]{2}[ -]?(?:[0-9A-Za-z]{4}[ -]?){2,7}[0-9A-Za-z]{0,4}(?![0-9A-Za-z])")
_CALLED = words("iban ibans")
_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[0-9A-Z]"}


def ibans(text: Folded) -> Iterator[Span]:
    """Find account numbers, cut at their country's length. Linear: at most 34 characters are read at each start."""
    beyond = 0
    for match in _CHECK.finditer(text.text) if text.has_digit else ():
        start = _country_start(text.text, match.start())
        if start is None or start < beyond:
            continue
        form = FORMS.get(text.text[start : start + 2].upper())
        end = _read(text, start, form) if form else None
        if end is not None:
            beyond = end
            yield text.span(start, end, "IBAN_CODE")
            continue
        mistyped = _MISTYPED.match(text.text, start)
        if mistyped and Near(text.lower, *mistyped.span()).has(_CALLED):
            beyond = mistyped.end()
            yield text.span(*mistyped.span(), "NATIONAL_ID")


@lru_cache(maxsize=128)
def length(form: str) -> int:
    """Return the length of an account number of this form, country and check digits included."""
    return 4 + sum(int(count) for count in re.findall("[0-9]+", form))


def _country_start(text: str, check: int) -> int | None:
    start = check - 2 if text[check - 1].isalpha() else check - 3
    inside = start > 0 and text[start - 1].isascii() and (text[start - 1].isalnum() or text[start - 1] == "_")
    return None if inside else start


def _read(text: Folded, start: int, form: str) -> int | None:
    """Return the end of a valid account number that begins at ``start``, None where there is none."""
    match = _written(length(form)).match(text.text, start)
    if match is None:
        return None
    letters = "".join(filter(str.isalnum, match[0])).upper()
    if not mod97(letters):
        return None
    in_form = len(match[0]) == len(letters) or _form(form).fullmatch(letters) is not None
    return match.end() if in_form or Near(text.lower, start, match.end()).has(ACCOUNT) else None


@lru_cache(maxsize=64)
def _written(count: int) -> re.Pattern[str]:
    """So many letters and digits, up to four separators between two of them: a line end with its indentation."""
    return re.compile(rf"(?:[0-9A-Za-z][ .\-/\n\r\t>|_]{{0,4}}){{{count - 1}}}[0-9A-Za-z](?![0-9A-Za-z])")


@lru_cache(maxsize=128)
def _form(form: str) -> re.Pattern[str]:
    fields = "".join(f"{_CLASSES[kind]}{{{count}}}" for count, kind in re.findall("([0-9]+)([nac])", form))
    return re.compile(f"[A-Z]{{2}}[0-9]{{2}}{fields}")
