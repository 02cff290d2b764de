"""Text and conversation as numbers, for the complexity score alone.

Looks at no more than 4,000 characters of the last turn: the first 3,000 and the last 1,000. The cap is about difficulty
only; labels are checked over all text. The counts describe the question itself: option lists are taken apart from the
stem, and fixed phrases of test forms ("Answer:") are cut off, so that a form weighs no more than what it holds.
Word lists are English: of other languages only length, lines, digits, marks and options carry over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import log2

from . import lexicon

HEAD_CHARS = 3000
TAIL_CHARS = 1000
LONG_WORD = 8
"""Letters from which a word counts as long."""
MOST_OPTIONS = 12
YEAR_DIGITS = 4
CENTURIES = frozenset(("15", "16", "17", "18", "19", "20"))

_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BREAKS = bytes(c if c > 127 or chr(c).isalpha() else 32 for c in range(256))  # noqa: PLR2004 - where ASCII ends
"""What ends a word: every ASCII sign but letters. Translating UTF-8 is as fast for all scripts; a pattern is not."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPTION = re.compile(r"^[ \t]*\(?([A-L])[.):][ \t]*(.*)$", re.MULTILINE)
_FORM = re.compile(r"(?:Answer:|After careful thought, put you\w* final answer in [^\n]{1,20})\Z")
FORM_CHARS = 80
"""Room in which a test form's last words are looked for, at the end."""

_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_LATEX = re.compile(r"\\[a-zA-Z]{2,}")
_SYMBOL = re.compile("[∑∏∫√∞≤≥≠±\u00d7÷∂∈∀∃πθλ°]")
_EQUATION = re.compile(r"[a-z] ?= ?[\d(a-z]")
_NAME = re.compile(r"[a-z,] [A-Z][a-z]")
_UNITS = ("word", "sentence", "paragraph", "page", "line", "slide", "example", "idea")
_LENGTH_ASKED = re.compile(rf"(\d{{2,5}})[ -](?:{'|'.join(_UNITS)})s?\b")
_QUANTITY = re.compile(r"how (?:many|much|long|far|fast|often|old)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What the conversation around the last turn says about its difficulty.

    turn: its number, from 1.  reask: 0..1, likeness to the previous question.  rejected: the last local answer was made
    anew or called bad.  tools: how many the model may call.  schema_depth: nesting of the wanted answer, 0 without one.
    """

    turn: int = 1
    reask: float = 0.0
    rejected: bool = False
    tools: int = 0
    schema_depth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a scorer may look at.

    text: the capped text of the last turn.  words: its words in lower case, in order, without digits and apostrophes,
    for scorers that hash words.  values: named numbers, those of STRUCTURAL and those of CONVERSATION.
    """

    text: str = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    values: Mapping[str, float] = field(repr=False)


def excerpt(text: str) -> str:
    """Return at most 4,000 characters: the first 3,000 and the last 1,000."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return text[:HEAD_CHARS] + "\n" + text[-(TAIL_CHARS - 1) :]


def extract(
    text: str,
    *,
    context_tokens: int = 0,
    window: int | None = None,
    conversation: Conversation = Conversation(),
) -> Features:
    """Count what a scorer may look at.

    text: what was asked in the last turn.  context_tokens: the whole request, sources and history included.
    window: the device model's context in tokens; None is unknown.  Every value is 0 or more.
    """
    shown = excerpt(text)
    lower = shown.lower()
    words = _words(lower)
    stem, options = _parts(shown)
    values: dict[str, float] = {}
    values |= _size(shown, words)
    values |= _marks(shown)
    values |= _question(stem, lower)
    values |= _options(options)
    values |= _vocabulary(words, lower)
    values |= _around(conversation, context_tokens / window if window else 0.0)
    return Features(text=shown, words=tuple(words), values=values)


def _words(lower: str) -> list[str]:
    """Return the words of a text without digits; apostrophes vanish."""
    plain = lower.replace("\u2019", "").encode("utf-8", "surrogatepass").translate(_BREAKS, b"'")
    return plain.decode("utf-8", "surrogatepass").split()


def _log(count: float) -> float:
    return log2(1 + count)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _parts(text: str) -> tuple[str, Sequence[str]]:
    """Split a text into what is asked and its options; without a list of A, B, C all of it is asked."""
    found = list(_OPTION.finditer(text)) if "\n" in text else []
    first = next((i for i, m in enumerate(found) if m[1] == "A"), None)
    if first is None or len(found) < first + 3 or found[first + 1][1] != "B":
        return _without_form(text), ()
    return text[: found[first].start()], [m[2].strip() for m in found[first : first + MOST_OPTIONS]]


def _without_form(text: str) -> str:
    shown = text.rstrip()
    found = _FORM.search(shown, max(0, len(shown) - FORM_CHARS))
    return shown[: found.start()].rstrip() if found else shown


def _size(text: str, words: Sequence[str]) -> dict[str, float]:
    sizes = list(map(len, words))
    lines = text.splitlines()
    sentences = len(_SENTENCE.findall(text))
    return {
        "length": log2(1 + len(words) / 8),
        "characters": log2(1 + len(text) / 40),
        "lines": log2(1 + text.count("\n") / 4),
        "widest_line": log2(1 + max(map(len, lines), default=0) / 40),
        "word_length": _share(sum(sizes), len(words)),
        "long_words": _share(sum([n >= LONG_WORD for n in sizes]), len(words)),
        "variety": _share(len(set(words)), len(words)),
        "sentences": _log(sentences),
        "sentence_length": log2(1 + len(words) / (1 + sentences) / 4),
        "paragraphs": _log(text.count("\n\n")),
        "foreign": 0.0 if text.isascii() else 1 - len(text.encode("ascii", "ignore")) / len(text),
    }


def _marks(text: str) -> dict[str, float]:
    count = text.count
    numbers = _NUMBER.findall(text)
    size = max(1, len(text))
    return {
        "numbers": _log(len(numbers)),
        "digits": sum(map(len, numbers)) / size,
        "distinct_numbers": _log(len(set(numbers))),
        "widest_number": float(min(12, max(map(len, numbers), default=0))),
        "decimals": _log(sum("." in n for n in numbers)),
        "years": _log(sum(len(n) == YEAR_DIGITS and n[:2] in CENTURIES for n in numbers)),
        "money": _log(count("$ ") + count("$") + count("€") + count("£") + count("%")),
        "equals": _log(count("=")),
        "operators": _log(count("+") + count("*") + count("/") + count("<") + count(">")),
        "parentheses": _log(count("(")),
        "brackets": _log(count("[") + count("{")),
        "quotes": _log(count("'") + count('"') + count("`")),
        "commas": _log(count(",")),
        "colons": _log(count(":") + count(";")),
        "maths_marks": _log(_maths(text)),
        "backslashes": _log(count("\\")),
        "underscores": _log(count("_")),
        "calls": _log(max(0, count("(") - count(" ("))),
        "methods": _log(count(").") + count("].") + count(".append") + count(".join") + count(".split")),
        "loops": _log(count("for ") * (count(" in ") > 0) + count("while ")) if count(":\n") else 0.0,
        "branches": _log(count("if ") + count("else") + count("try:")) if count(":\n") else 0.0,
        "indented": _log(count("\n    ") + count("\n\t")),
        "deeply_indented": _log(count("\n            ")),
        "bullets": _log(count("\n- ") + count("\n* ") + count("\n1.") + count("\n2.") + count("\n3.")),
        "capitals": _capitals(text) / size,
        "names": _log(len(_NAME.findall(text))),
        "blanks": _log(count("__") + count("...")),
    }


def _capitals(text: str) -> int:
    """Count the letters A to Z."""
    plain = text.encode("utf-8", "surrogatepass")
    return len(plain) - len(plain.translate(None, _CAPITALS))


def _maths(text: str) -> int:
    signs = 0 if text.isascii() else len(_SYMBOL.findall(text))
    latex = len(_LATEX.findall(text)) if "\\" in text else 0
    return signs + latex + text.count("^") + (len(_EQUATION.findall(text)) if "=" in text else 0)


def _question(stem: str, lower: str) -> dict[str, float]:
    shown = stem.strip()
    first = lower.lstrip().split(None, 2)[:2]
    opening = first[0].strip(",.:?!").replace("'", "") if first else ""
    return {
        "stem": log2(1 + len(stem) / 40),
        "questions": _log(max(0, stem.count("?"))),
        "ends_asking": float(shown.endswith("?")),
        "ends_open": float(bool(shown) and shown[-1].isalnum()),
        "opens_low": float(shown[:1].islower()),
        "opens_factual": float(opening in lexicon.FACTUAL),
        "opens_what": float(opening in lexicon.WHAT),
        "opens_how": float(opening in lexicon.HOW),
        "opens_acting": float(opening in lexicon.EVERYDAY),
        "quantity": float(len(_QUANTITY.findall(lower)) if "how " in lower else 0),
        "items": _items(stem),
        "length_asked": _length_asked(lower),
    }


def _length_asked(lower: str) -> float:
    if not any(unit in lower for unit in _UNITS):
        return 0.0
    return sum(log2(1 + int(n) / 25) for n in _LENGTH_ASKED.findall(lower)[:4])


def _items(text: str) -> float:
    """Count the parts after a colon: in "a party: food, games and budget" there are three."""
    _, colon, rest = text.partition(": ")
    return _log(rest[:400].count(",") + rest[:400].count(" and ")) if colon else 0.0


def _options(options: Sequence[str]) -> dict[str, float]:
    sizes = [len(o) for o in options]
    mean = _share(sum(sizes), len(sizes))
    return {
        "options": float(len(options)),
        "option_length": log2(1 + mean / 8),
        "option_spread": _share(max(sizes, default=0) - min(sizes, default=0), mean),
        "option_numbers": _share(sum(o[:1].isdigit() or o[1:2].isdigit() for o in options), len(options)),
        "option_repeats": _share(len(options) - len({o.split(None, 1)[0] for o in options if o}), len(options)),
    }


def _vocabulary(words: Sequence[str], lower: str) -> dict[str, float]:
    """Count the words of each list; a word may be on several."""
    groups = lexicon.GROUPS
    hits = [0] * len(lexicon.NAMES)
    for group in chain.from_iterable(map(groups.get, filter(groups.__contains__, words))):  # type: ignore[arg-type]
        hits[group] += 1
    values = {name: _log(n) for name, n in zip(lexicon.NAMES, hits, strict=True)}
    values["steps"] += sum(p in lower for p in lexicon.STEP_PHRASES)
    values["constraints"] += sum(p in lower for p in lexicon.CONSTRAINT_PHRASES)
    return values


def _around(conversation: Conversation, share: float) -> dict[str, float]:
    return {
        "turn": _log(max(0, conversation.turn - 1)),
        "reask": min(1.0, max(0.0, conversation.reask)),
        "rejected": float(conversation.rejected),
        "tools": _log(max(0, conversation.tools)),
        "schema_depth": float(max(0, conversation.schema_depth)),
        "context": min(1.0, max(0.0, share)),
    }


CONVERSATION: tuple[str, ...] = tuple(_around(Conversation(), 0.0))
STRUCTURAL: tuple[str, ...] = tuple(name for name in extract("").values if name not in CONVERSATION)
"""Names of the values in their fixed order: what the text says, and what is around it."""
