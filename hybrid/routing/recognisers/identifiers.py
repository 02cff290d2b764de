"""Numbers a state or an insurer gives a person: passports, tax, health and identity numbers, driving licences.

A form with a strong check stands for itself. Where a check is weak it counts beside a word for such a number, and where
there is none that word alone decides. The forms are those of the issuing
authorities.
"""

import re
from collections.abc import Callable, Iterator

from .chains import Chain
from .checksums import date_of, ean13, luhn, weighted
from .cues import IDENTITY, Near
from .folding import Folded
from .spans import Span

_CUE = re.compile(
    r"passport|reisepass|passeport|pasaporte|passaporto|paspoort"
    r"|driv(?:er|ers|er's|ing)? ?-?(?:licen[cs]e|permit)|\bdl ?(?:no|num|#|:)|fuhrerschein|permis de conduire"
    r"|patente di guida|rijbewijs"
    r"|\btax ?(?:payer)?'?s? ?(?:id|no\b|num|ref|file|code|ident)|\btin ?(?:no|num|is|:)|\bitin\b|\btfn\b|\butr\b"
    r"|steuer|\bnif\b|\bcuit\b|\brfc\b|fiscal|\bvat (?:id|no|num)"
    r"|\bnhs\b|medicare|medicaid|health (?:insurance|card|number|id|plan)|insurance (?:number|no|id|policy|member)"
    r"|member id|\bmrn\b|medical record"
    r"|krankenversich|securite sociale|seguridad social|patient (?:id|no|num)"
    r"|national (?:id|insurance|number|registration)|\bnin[o]?\b|identity (?:card|number|no|doc)|\bid[- ]?(?:card"
    r"|number|no\b|#)|personal (?:id|number|code|no)|identification (?:number|no|card)"
    r"|social (?:insurance|security)|\bssn\b|green card|alien (?:reg|number)|\bvisa (?:no|num)|resident"
    r"|ausweis|personnummer|personennummer|fodselsnummer|henkilotunnus|\bcpr\b|\bbsn\b|burgerservice|\bdni\b"
    r"|\bnie\b|\bcpf\b|\bpesel\b|\bcnp\b"
    r"|aadha+r|\bpan ?(?:card|no|num|is|:)|\bsin ?(?:card|no|num|is|:)|\bcurp\b|\bahv\b|\brut\b|\bnric\b|\bppsn?\b"
    r"|\bkvnr\b|身份证|身分證|マイナンバー|주민등록"
)
LEAST_DIGITS = 4
"""Digits that a licence or passport number must hold."""

_LETTERED = re.compile(
    r"[0-9]{2}(?:[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]|[0-9]{4}(?:[HMX][A-Z]{5}|[0-9]{1,2}[ -]?[A-Z]))"
)  # what every form with letters holds; begins with a digit, so looking for it is quick
_MIXED = re.compile(r"[0-9][0-9a-z]{4,11}(?![0-9a-z])")
_HEAD = re.compile(r"(?<![0-9A-Za-z])(?:[A-Za-z]{1,5}|(?!ID|NO|NR)[A-Z]{2}[ -])$")
_TAIL = re.compile(r"(?:[ -]?[a-z]|[a-z][0-9a-z]{1,6})(?![0-9a-z])")

_SPANISH = "TRWAGMYFPDXBNJZSQVHLCKE"
_FINNISH = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_CODICE_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8,
    12, 14, 16, 10, 22, 25, 24, 23,
), strict=True))  # fmt: skip
_CURP = "0123456789ABCDEFGHIJKLMN\xd1OPQRSTUVWXYZ"


def _dni(text: str) -> bool:
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return _SPANISH[int(number) % 23] == text[-1]


def _codice(text: str) -> bool:
    odd = sum(_CODICE_ODD[c] for c in text[0:15:2])
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in text[1:15:2])
    return (odd + even) % 26 == ord(text[15]) - 65


def _nir(text: str) -> bool:
    number = text[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and (97 - int(number) % 97) == int(text[13:])


def _curp(text: str) -> bool:
    total = sum(_CURP.index(c) * (18 - i) for i, c in enumerate(text[:17]))
    return date_of(text[4:6], text[6:8], text[8:10]) and str(-total % 10) == text[17]


def _finnish(text: str) -> bool:
    return date_of(text[4:6], text[2:4], text[:2]) and _FINNISH[int(text[:6] + text[-4:-1]) % 31] == text[-1]


def _nric(text: str) -> bool:
    total = weighted(text[1:8], (2, 7, 6, 5, 4, 3, 2)) + (4 if text[0] in "TG" else 3 if text[0] == "M" else 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "KLJNPQRTUWX"}
    place = total % 11
    return letters[text[0]][10 - place if text[0] == "M" else place] == text[8]


def _chinese(text: str) -> bool:
    check = "10X98765432"[weighted(text[:17], (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)) % 11]
    return text[6:8] in {"19", "20"} and date_of(text[8:10], text[10:12], text[12:14]) and check == text[17]


def _korean(text: str) -> bool:
    return date_of(text[:2], text[2:4], text[4:6])


def _swedish(text: str) -> bool:
    day = int(text[4:6])
    if day > 60:  # noqa: PLR2004 - a co-ordination number has 60 added
        day -= 60
    return date_of(text[:2], text[2:4], f"{day:02}") and luhn(text)


def _belgian(text: str) -> bool:
    checks = (97 - int(century + text[:9]) % 97 for century in ("", "2"))
    return int(text[2:4]) <= 12 and int(text[9:]) in checks  # noqa: PLR2004 - months


def _czech(text: str) -> bool:
    return date_of(text[:2], f"{int(text[2:4]) % 50 % 20:02}", text[4:6]) and int(text) % 11 == 0


def _cpf(text: str) -> bool:
    first = -weighted(text[:9], range(1, 10)) % 11
    second = -weighted(text[:9] + text[9], range(10)) % 11
    return len(set(text)) > 1 and ((11 - first) % 11 % 10, (11 - second) % 11 % 10) == (int(text[9]), int(text[10]))


def _rut(text: str) -> bool:
    return "0123456789K"[-weighted(text[-2::-1], (2, 3, 4, 5, 6, 7, 2, 3, 4)) % 11] == text[-1]


def _swiss(text: str) -> bool:
    return text.startswith("756") and ean13(text)


_STANDING: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(rf"(?<![0-9A-Za-z_.]){form}(?![0-9A-Za-z_]|[.-][0-9])"), check)
    for form, check in (
        (r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]", _codice),
        (r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", _curp),
        (r"[STFGM][0-9]{7}[A-Z]", _nric),
        (r"(?:[0-9]{8}|[XYZ][ -]?[0-9]{7})[ -]?[A-HJ-NP-TV-Z]", _dni),
    )
)  # those that hold letters
_NUMERIC: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(rf"{form}(?![0-9A-Za-z_]|[./-][0-9])"), check)
    for form, check in (
        (r"[0-9]{6}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y]", _finnish),
        (r"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-4][0-9]) ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", _nir),
        (r"[1-9][0-9]{16}[0-9X]", _chinese),
        (r"[0-9]{6}-[1-8][0-9]{6}", _korean),
        (r"[0-9]{6}[-+][0-9]{4}", _swedish),
        (r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", _belgian),
        (r"[0-9]{6}/[0-9]{4}", _czech),
        (r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _cpf),
        (r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9Kk]", _rut),
        (r"756[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}", _swiss),
    )
)
_SHAPES = re.compile(r"[6dfz]|[12]\.3\.3-|2\.2\.2-|3\.3\.3-|3[. ]4|1 2 2 ")  # how those can begin
_UNSPACED = ("身份证", "身分證", "マイナンハー", "주민등록")


def numeric_id(chain: Chain, first: int) -> int | None:
    """Return the last group of an identity number with a strong check that begins at group ``first``, None else."""
    text, start = chain.text, chain.groups[first][0]
    for form, check in _NUMERIC if _SHAPES.match(chain.shape, chain.at[first]) else ():
        match = form.match(text, start)
        if match and check(_bare(match[0])):
            return max(i for i in range(first, len(chain.groups)) if chain.groups[i][0] < match.end())
    return None


def named_id(near: Near) -> str | None:
    """Return what stands between the last word for an identity number and the number; None where there is no word."""
    if not near.has(IDENTITY) and not any(word in near.before for word in _UNSPACED):
        return None
    cue = None
    for cue in _CUE.finditer(near.before):  # noqa: B007 - the last one counts
        pass
    return None if cue is None else near.before[cue.end() :]


def widened(text: Folded, start: int, end: int) -> tuple[int, int]:
    """Return the place of a number with the letters that belong to it: ``AB 12 34 56 C``."""
    head = _HEAD.search(text.text, max(0, start - 7), start)
    tail = _TAIL.match(text.lower, end)
    return (head.start() if head else start), (tail.end() if tail else end)


def documents(text: Folded) -> Iterator[Span]:
    """Find identity numbers that hold letters: with a strong check, or beside a word for one."""
    if not text.has_digit:
        return
    if _LETTERED.search(text.text):
        for form, check in _STANDING:
            for match in form.finditer(text.text):
                if check(_bare(match[0])):
                    yield text.span(match.start(), match.end(), "NATIONAL_ID")
    for match in _MIXED.finditer(text.lower):
        digits = sum(map(str.isdigit, match[0]))
        if LEAST_DIGITS <= digits < len(match[0]):
            start, end = widened(text, *match.span())
            if named_id(Near(text.lower, start, end)) is not None:
                yield text.span(start, end, "NATIONAL_ID")


def _bare(written: str) -> str:
    return "".join(c for c in written if c.isalnum()).upper()
