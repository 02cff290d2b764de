"""What the counts are, that they are bounded in time, and that they look at no more than they say."""

import time
from math import log2

import pytest

from hybrid.routing import lexicon
from hybrid.routing.features import CONVERSATION, HEAD_CHARS, STRUCTURAL, TAIL_CHARS, Conversation, excerpt, extract

CHOICE = "Which gas do plants take in?\nA. Oxygen\nB. Carbon dioxide\nC. Helium\nD. Neon\nAnswer:"


def test_counts_of_a_text_worked_out_by_hand() -> None:
    values = extract("What's the price in 1945, 3.5%? x^2 = 4").values
    assert values["numbers"] == 2.321928094887362  # log2(1 + 4): 1945, 3.5, 2, 4
    assert values["decimals"] == values["years"] == values["questions"] == values["equals"] == 1.0
    assert values["opens_what"] == 1.0
    assert extract("What's the price?").words == ("whats", "the", "price")


def test_every_count_has_its_fixed_place_whatever_the_text() -> None:
    assert tuple(extract("").values) == tuple(extract(CHOICE).values) == (*STRUCTURAL, *CONVERSATION)
    assert all(value >= 0 for value in extract(CHOICE).values.values())


def test_options_are_told_from_the_question_and_the_form_around_it_is_cut_off() -> None:
    values = extract(CHOICE).values
    assert values["options"] == 4.0
    assert values["ends_asking"] == 1.0
    assert values["stem"] == log2(1 + len("Which gas do plants take in?\n") / 40)
    assert extract("Which gas?\nAnswer:").values["stem"] == extract("Which gas?").values["stem"]


@pytest.mark.parametrize("text", ["A. Smith and B. Jones met.", "A. one\nB. two", "C. one\nD. two\nE. three"])
def test_initials_and_short_lists_are_no_options(text: str) -> None:
    assert extract(text).values["options"] == 0.0


def test_conversation_and_context_are_clamped() -> None:
    odd = Conversation(turn=-3, reask=7.0, tools=-1, schema_depth=-2)
    values = extract("x", conversation=odd, context_tokens=10**9, window=100).values
    assert [values[n] for n in CONVERSATION] == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert extract("x", context_tokens=500).values["context"] == 0.0


@pytest.mark.parametrize(
    "size", [HEAD_CHARS + TAIL_CHARS - 1, HEAD_CHARS + TAIL_CHARS, HEAD_CHARS + TAIL_CHARS + 1, 99_999]
)
def test_at_most_4000_characters_are_looked_at(size: int) -> None:
    shown = excerpt("h" * HEAD_CHARS + "m" * (size - HEAD_CHARS - 500) + "t" * 500)
    assert len(shown) == min(size, HEAD_CHARS + TAIL_CHARS)
    assert shown.startswith("h" * HEAD_CHARS)
    assert shown.endswith("t" * 500)


def test_the_question_counts_at_either_end_of_a_long_text_and_not_in_its_middle() -> None:
    filler = "rain falls. " * 400
    ask = " plan compare derive prove "
    steps = [extract(text).values["steps"] for text in (ask + filler, filler + ask, filler + ask + filler)]
    assert steps[0] == steps[1] > steps[2] == 0.0


def test_lists_hold_lower_case_words_without_apostrophes_as_the_text_is_split() -> None:
    assert all(extract(word).words == (word,) for word in lexicon.GROUPS)


@pytest.mark.parametrize(
    "worst",
    ["1 1 ", "1.", "a(a(", "{\n\n", "\n\n  ", "$a$", "A. ", "A.\n", "= ", "a-a'", "3 words ", "how ", "\\a", "Answer:"],
)
def test_no_pattern_is_slow_on_its_worst_text(worst: str) -> None:
    text = worst * (4000 // len(worst))
    plain = "plain words here " * 235
    assert _seconds(text) < 40 * _seconds(plain)  # a quadratic pattern would be hundreds of times slower


def _seconds(text: str) -> float:
    def once() -> float:
        start = time.process_time()
        for _ in range(5):
            extract(text)
        return time.process_time() - start

    return min(once() for _ in range(5))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t, don't!", ("dont", "dont")),
        ("Ça coûte 12\u00a0€ (à peu près)", ("ça", "coûte", "€", "à", "peu", "près")),
        ("根號二 是\u3000無理數", ("根號二", "是", "無理數")),
        ("lone \ud800 half", ("lone", "\ud800", "half")),
    ],
    ids=["apostrophes", "accents", "wide", "surrogate"],
)
def test_words_of_any_script_end_at_space_and_ascii_signs(text: str, words: tuple[str, ...]) -> None:
    assert extract(text).words == words


def test_capitals_are_the_letters_a_to_z_in_any_script() -> None:
    assert extract("ÄÖ漢 ABc\ud800").values["capitals"] == 2 / 8
