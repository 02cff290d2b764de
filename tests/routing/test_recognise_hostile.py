"""Disguised numbers, huge texts, broken Unicode: still found, still linear, never an exception."""

import random
import string
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.recognisers.denylist import DenyList
from hybrid.routing.recognisers.folding import fold
from hybrid.routing.recognisers.recognise import RECOGNISERS, private, recognise
from hybrid.routing.recognisers.strict import STRICT_RECOGNISERS
from tests.routing.documents import MAKERS, card, iban, phone, ssn

CARD, ACCOUNT = "4111111111111111", "GB82WEST12345698765432"
INVISIBLE = [
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u034f",
    "\u202e",
    "\ufe0f",
    "\u0336",
    "\U000e0020",
]


def types(text: str) -> set[str]:
    return {span.type for span in recognise(text)}


@pytest.mark.parametrize("sign", INVISIBLE, ids=ascii)
def test_what_nobody_sees_does_not_hide_a_number(sign: str) -> None:
    for value, name in (
        (CARD, "CREDIT_CARD"),
        (ACCOUNT, "IBAN_CODE"),
        ("308-63-0237", "US_SSN"),
        ("john@x.org", "EMAIL_ADDRESS"),
    ):
        text = f"see {sign.join(value)} here"
        (span,) = recognise(text)
        assert (span.type, text[span.start : span.end]) == (name, sign.join(value))


@pytest.mark.parametrize("zero", [0xFF10, 0x0660, 0x06F0, 0x0966, 0x09E6, 0x1D7CE, 0x1D7F6, 0x104A0], ids=hex)
def test_digits_of_every_script_are_digits(zero: int) -> None:
    text = f"see {''.join(chr(zero + int(d)) for d in CARD)} here"
    (span,) = recognise(text)
    assert (span.type, span.start, span.end) == ("CREDIT_CARD", 4, 20)


@pytest.mark.parametrize(
    "text",
    ["⁴¹¹¹1111¹¹¹¹1111", "④①①①1111①①①①1111", "4000 0000 0000 0\u041e\u041e2", "4000 00\u039f\u039f 0000 0002"],
    ids=ascii,
)
def test_look_alikes_between_digits_are_digits(text: str) -> None:
    assert types(text) == {"CREDIT_CARD"}


@pytest.mark.parametrize(
    "between",
    ["\u00a0", "\u2009", "\u202f", "\u3000", "\u2010", "\u2011", "\u2013", "\u2212", "\u00b7", "_", "/"],
    ids=ascii,
)
def test_exotic_separators_separate(between: str) -> None:
    assert types(f"see {between.join(['4111'] * 1 + ['1111'] * 3)} here") == {"CREDIT_CARD"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n  ", " \n", "\n> "], ids=ascii)
def test_a_line_end_inside_does_not_hide_a_number(end: str) -> None:
    assert types(f"4111 1111{end}1111 1111") == {"CREDIT_CARD"}
    assert types(f"GB82 WEST{end}1234 5698 7654 32") == {"IBAN_CODE"}


def test_all_of_a_long_text_is_examined() -> None:
    padding = "All work and no play makes a dull text, chapter 3 of 12. " * 20_000
    text = f"{padding}{CARD}"
    (span,) = recognise(text)
    assert (span.start, span.end) == (len(text) - 16, len(text))


WORST = [
    "1 ", "12 ", "123 ", "02 ", "0123 ", "a@", "a@a.", "a.", "1f:", ":", "::1 ", "1.", "11.", "1-", "(1)", "+1 ",
    "+", "(", "GB12 ", "gb12", "1", "12345678 ", "1234567-", "4111 ", "4111\n", "4111111111111111 ", "password: ",
    "password:aA1", "token=", "key ", "sk-a", "eyJ", "eyJaaaaaaaaaa.", "AKIA1", "://a:b", "bearer ",
    "-----BEGIN RSA PRIVATE KEY-----", "phone 1 ", "phone 123 456 ", "call 555 1234 ", "passport 12345a ",
    "visa 1234 ", "ssn 123456789 ", "card 1 2 3 4 ", "1\u200b", "\u0661", "1\u041e", "A", "Aa ", "Mr A", "1 a st ",
    "rue a ", "123456x1 ", "1/1/", "2020-01-01-", "0.123456 ", "978-1-1-", "ABCDEF12", "1234567A ", "iban GB12 ",
    "a", "AB1", "5551234 ext ", "+1(1", "1\n", "born 1/1/", "my doctor ", "x ",
]  # fmt: skip
BENIGN = "Compare plan 3 with plan 4: costs (in $) of 1,200 and 80, and what must be done by Friday? "
ALL = (*RECOGNISERS, *STRICT_RECOGNISERS, DenyList(["x x x y", "secret project"]))


def spent_ns(work: Callable[[], object], rounds: int = 3) -> int:
    """The least processor time of some rounds: what neighbours do on the machine hardly counts."""

    def once() -> int:
        start = time.process_time_ns()
        work()
        return time.process_time_ns() - start

    return min(once() for _ in range(rounds))


def examine(text: str) -> None:
    plain = fold(text)
    for recogniser in ALL:
        list(recogniser(plain))


def repeated(unit: str, length: int) -> str:
    return (unit * (length // len(unit) + 1))[:length]


@pytest.mark.parametrize("unit", WORST, ids=ascii)
def test_the_worst_text_for_a_pattern_costs_a_bounded_multiple_of_a_harmless_one(unit: str) -> None:
    """A harmless text of 2,000 characters takes under 0.1 ms on a quiet core, so this is a few milliseconds."""
    assert spent_ns(lambda: examine(repeated(unit, 2000))) < 60 * spent_ns(lambda: examine(repeated(BENIGN, 2000)))


@pytest.mark.parametrize("unit", WORST, ids=ascii)
def test_time_is_linear_in_the_length(unit: str) -> None:
    short, long = (spent_ns(lambda n=n: examine(repeated(unit, n)), 2) for n in (4_000, 32_000))
    assert long < 8 * 2.5 * max(short, 200_000)


def test_a_quadratic_recogniser_would_be_noticed() -> None:
    def quadratic(text: str) -> int:
        return sum(text[i:].count("1") for i in range(0, len(text), 4))

    short, long = (spent_ns(lambda n=n: quadratic("1" * n), 2) for n in (4_000, 32_000))
    assert long > 8 * 2.5 * max(short, 200_000)


@pytest.mark.soak
@pytest.mark.parametrize("unit", WORST, ids=ascii)
def test_a_megabyte_is_linear_too(unit: str) -> None:
    short, long = (spent_ns(lambda n=n: examine(repeated(unit, n)), 1) for n in (62_500, 1_000_000))
    assert long < 16 * 2.5 * short


def test_a_lone_surrogate_breaks_nothing() -> None:
    text = f"\ud800{CARD}\udfff john@x.org \udc00"
    assert types(text) == {"CREDIT_CARD", "EMAIL_ADDRESS"}


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None), max_size=200), st.booleans())
def test_any_text_can_be_read_and_every_place_lies_in_it(text: str, strict: bool) -> None:
    for span in recognise(text, strict=strict):
        assert 0 <= span.start < span.end <= len(text)


PIECES = [
    *"0123456789",
    *" -.()+/:@x\n",
    "GB82",
    "+44 ",
    "ssn ",
    "card ",
    "phone ",
    "password: ",
    "passport ",
    "://",
    "eyJ",
    "::",
    "AB",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.booleans())
def test_any_heap_of_digits_and_cues_can_be_read(text: str, strict: bool) -> None:
    for span in recognise(text, strict=strict):
        assert 0 <= span.start < span.end <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([card, iban, ssn, phone]), st.sampled_from(INVISIBLE), st.data())
def test_invisible_signs_change_places_and_nothing_else(
    seed: int, make: Callable[[random.Random], str], sign: str, data: st.DataObject
) -> None:
    text = f"please call or pay to {make(random.Random(seed))} today"  # noqa: S311 - repeatable, no secret
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=6)))
    dressed = sign.join(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
    plain = [(s.type, text[s.start : s.end]) for s in recognise(text)]
    assert [(s.type, dressed[s.start : s.end].replace(sign, "")) for s in recognise(dressed)] == plain
    assert plain


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(MAKERS)), st.text(string.ascii_letters + " ,.!?\n", max_size=80))
def test_words_around_never_hide_what_is_there(seed: int, slot: str, words: str) -> None:
    name, make = MAKERS[slot]
    if name == "PHONE_NUMBER":
        words = f"{words} phone"
    spans = recognise(f"{words} {make(random.Random(seed))} {words}")  # noqa: S311 - as above
    assert name in {s.type for s in spans}
    assert private(spans) or name == "IP_ADDRESS"
