"""Documents with identifiers of many countries in them, made here: templates of others filled with our own numbers.

Every number is made up from its published form and given a valid check; the recognisers under test make none of them.
"""

import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SLOT = re.compile(r"\{\{(\w+)\}\}")

PHONES = """
+49 30 ####-####|+49 (0)89 ######|030/#######|0171 #######|0049 40 #######|+44 20 7### ####|+44 (0)161 ### ####
07### ######|020 7### ####|(0131) ### ####|+33 1 ## ## ## ##|01 ## ## ## ##|06.##.##.##.##|0033 6 ## ## ## ##
+34 6## ### ###|91# ### ###|+39 06 #### ####|3## #######|+31 6 ########|06-########|010-#######|+32 4## ## ## ##
02/### ## ##|+41 44 ### ## ##|079 ### ## ##|+43 1 #######|0660 #######|+46 70-### ## ##|08-### ### ##
+45 ## ## ## ##|## ## ## ##|+47 ### ## ###|9## ## ###|+358 40 #######|09 #### ####|+353 1 ### ####|087 ### ####
+351 9## ### ###|21# ### ###|+30 21# ### ####|+48 ### ### ###|22 ### ## ##|+420 ### ### ###|+421 9## ### ###
+36 1 ### ####|06 30 ### ####|+40 7## ### ###|+359 88 ### ####|+385 1 #### ###|+90 5## ### ## ##|0(212) ### ## ##
+7 (495) ###-##-##|8 (916) ###-##-##|8 800 ### ## ##|+380 44 ### ####|+972-5#-###-####|05#-###-####|+971 4 ### ####
+91 98### #####|0##-########|+86 1## #### ####|1##-####-####|+81-3-####-####|090-####-####|(03) ####-####
+82-10-####-####|010-####-####|+65 6### ####|+60 3-#### ####|+62 812-####-####|+63 917 ### ####|+84 90 ### ## ##
+66 2 ### ####|+61 2 #### ####|(02) #### ####|04## ### ###|+64 9 ### ####|(09) ### ####|+27 11 ### ####|082 ### ####
+234 803 ### ####|+254 7## ######|+55 11 9####-####|(11) 9####-####|+52 55 #### ####|+54 9 11 ####-####
+57 3## #######|+56 9 #### ####|(2##) ###-####|2##-###-####|2##.###.####|2## ### ####|1-8##-###-####|+1 2## ### ####
+1 (2##) ###-####|+12#########|(2##)###-####x###|2##-###-#### ext. ####|2##-###-####x####|001-2##-###-####
2#########|+1.2##.###.####|(2##) ###-####, ext 12
"""
CARDS = (
    ("4", 16), ("4", 13), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("300", 14),
    ("36", 14),
    ("6011", 16), ("65", 16), ("3528", 16), ("3589", 16), ("2131", 15),
    ("62", 16), ("5018", 12), ("6759", 16), ("2200", 16),
)  # fmt: skip
GROUPED = {13: (4, 4, 4, 1), 14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4)}


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what is in it: start, end and type of each identifier."""

    text: str
    gold: tuple[tuple[int, int, str], ...]


def shared(name: str) -> Path:
    """A file of the data made by others; its absence is a failure that says so."""
    path = DATA / name
    if not path.is_file():
        pytest.fail(f"the data of others are not beside this checkout: ../shared/data/{name}")
    return path


def templates() -> list[str]:
    """The templates with a slot for an identifier."""
    lines = shared("pii/presidio_templates.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines if any(slot in MAKERS for slot in SLOT.findall(line))]


def documents(count: int, seed: int) -> list[Document]:
    """Fill templates, each in turn."""
    rng = random.Random(seed)  # noqa: S311 - repeatable documents, no secrets
    lines = templates()
    return [_fill(lines[n % len(lines)], rng) for n in range(count)]


def _fill(template: str, rng: random.Random) -> Document:
    parts: list[str] = []
    gold: list[tuple[int, int, str]] = []
    at = 0
    for match in SLOT.finditer(template):
        parts.append(template[at : match.start()])
        at = match.end()
        name, make = MAKERS.get(match[1], ("", _word))
        start = sum(map(len, parts))
        parts.append(make(rng))
        if name:
            gold.append((start, start + len(parts[-1]), name))
    return Document("".join([*parts, template[at:]]), tuple(gold))


def digits(pattern: str, rng: random.Random) -> str:
    """A pattern with a digit for each #."""
    return "".join(rng.choice(string.digits) if c == "#" else c for c in pattern)


def phone(rng: random.Random) -> str:
    return digits(rng.choice(PHONES.replace("\n", "|").strip("|").split("|")), rng)


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(CARDS)
    body = prefix + digits("#" * (length - len(prefix) - 1), rng)
    number = body + next(d for d in string.digits if luhn_total(body + d) % 10 == 0)
    if length not in GROUPED or rng.random() < 0.5:
        return number
    return grouped(number, GROUPED[length], rng.choice(" -"))


def luhn_total(number: str) -> int:
    """The sum of the Luhn check, as the standard words it."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total


def grouped(number: str, sizes: tuple[int, ...], between: str) -> str:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return between.join(number[s : s + n] for s, n in zip(starts, sizes, strict=True))


def iban(rng: random.Random, country: str | None = None) -> str:
    from hybrid.routing.recognisers.iban import FORMS

    country = country or rng.choice(sorted(FORMS))
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}
    fields = re.findall("([0-9]+)([nac])", FORMS[country])
    account = "".join(rng.choice(alphabets[kind]) for count, kind in fields for _ in range(int(count)))
    value = int("".join(str(int(c, 36)) for c in f"{account}{country}00"))
    number = f"{country}{98 - value % 97:02}{account}"
    style = rng.random()
    if style < 0.4:
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return number.lower() if style < 0.5 else number


def ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"


def email(rng: random.Random) -> str:
    local = rng.choice(["ann.lee", "j_doe", "x+news", "o'brien", "müller", "a", "first.last-name", "n123"])
    host = rng.choice(
        ["mail.corp.example.co.uk", "web.de", "bücher.example", "a-b.museum", "uni.ac.jp", "xn--bcher-kva.com"]
    )
    return f"{local}@{host}"


def ip(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return ".".join(str(rng.randint(1, 254)) for _ in range(4))
    groups = [f"{rng.randint(4096, 65535):x}" for _ in range(8)]
    full = ":".join(groups)
    return rng.choice(
        [full, full.upper(), f"2{groups[0][1:]}:{groups[1]}::{groups[2]}", f"fe80::{groups[1]}:{groups[2]}%eth0"]
    )


def _word(rng: random.Random) -> str:
    return rng.choice(["Ann Lee", "Lima", "Acme", "Baker Street", "Chile"])


MAKERS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "credit_card_number": ("CREDIT_CARD", card),
    "iban": ("IBAN_CODE", iban),
    "ssn": ("US_SSN", ssn),
    "phone_number": ("PHONE_NUMBER", phone),
    "email": ("EMAIL_ADDRESS", email),
    "ip_address": ("IP_ADDRESS", ip),
}


def covered(text: str, spans: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether at least 80 % of the characters that are no space lie in some span."""
    inside = {i for a, b in spans for i in range(a, b)}
    places = [i for i in range(start, end) if not text[i].isspace()]
    return sum(i in inside for i in places) >= 0.8 * len(places)
