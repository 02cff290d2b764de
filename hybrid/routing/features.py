"""Text and conversation as numbers, for the complexity score alone.

Looks at no more than 4,000 characters of the last turn: the first 3,000 and the last 1,000. The cap is about difficulty
only; labels are checked over all text. Word lists are English: of other languages only length, lines, digits, marks
and options carry over.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log2

HEAD_CHARS = 3000
TAIL_CHARS = 1000

_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_OPTION = re.compile(r"^[ \t]*\(?[A-Ja-j][.):][ \t]", re.MULTILINE)
_OPERATOR = re.compile(r"[=+*/<>^|&%~-]=?(?=[\s\w(])")
_CODE = re.compile(
    r"```|[{};][ \t]*$|\w\(\w*\)|->|=>|::|^[ \t]{2,}\w"
    r"|^[ \t]*(?:def|class|import|from|return|for|while|if|SELECT|#include)\b",
    re.MULTILINE,
)
_MATHS = re.compile(r"\\[a-zA-Z]{2,}|\$[^$\n]{1,80}\$|[∑∏∫√∞≤≥≠±\u00d7÷∂∈∀∃πθλ]|\w\^[\w({]|\b[a-z]\s?=\s?[\d(a-z]")
_LENGTH_ASKED = re.compile(r"\b(\d{2,5})[ -](?:words?|sentences?|paragraphs?|pages?|lines?|slides?|examples?|ideas?)\b")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STEP_WORDS = _words(
    "plan plans compare contrast derive prove proof analyse analyze design implement optimise optimize evaluate assess "
    "outline organise organize solve refactor debug justify strategy algorithm architecture differ differs difference "
    "differences critique simulate diagnose investigate prioritise prioritize reason synthesise synthesize"
)
STEP_PHRASES = (
    "step-by-step",
    "step by step",
    "explain why",
    "explain how",
    "pros and cons",
    "trade-off",
    "tradeoff",
    "show your work",
    "show that",
    "think through",
    "root cause",
    "how many",
    "how much",
    "which of the following",
)
CONSTRAINT_WORDS = _words(
    "must exactly without only unless except ensure constraint constraints requirement requirements assume assuming "
    "given suppose respectively cannot avoid budget deadline maximum minimum either neither each every"
)
CONSTRAINT_PHRASES = ("at least", "at most", "no more than", "no less than", "such that", "as well as", "provided that")
ASK_WORDS = _words("what why how when which where who whose whom")
OUTPUT_WORDS = _words(
    "essay report article story poem script detailed detail comprehensive thorough complete full paragraphs chapter "
    "table list function program code class proposal novel speech dialogue scene lyrics"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a scorer may look at.

    text: the capped text of the last turn, for scorers that hash words.  values: the named numbers below.
    """

    text: str = field(repr=False)
    values: Mapping[str, float] = field(repr=False)


def excerpt(text: str) -> str:
    """Return at most 4,000 characters: the first 3,000 and the last 1,000."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return text[:HEAD_CHARS] + "\n" + text[-(TAIL_CHARS - 1) :]


def extract(text: str, *, context_tokens: int = 0, window: int | None = None) -> Features:
    """Count what `StructuralScorer` scores.

    text: what was asked in the last turn.  context_tokens: the whole request, sources and history included.
    window: the device model's context in tokens; None is unknown.  Every value is 0 or more.
    """
    shown = excerpt(text)
    lower = shown.lower()
    words = _WORD.findall(lower)
    known = set(words)
    share = context_tokens / window if window else 0.0
    values = {
        "length": log2(1 + len(words) / 8),
        "lines": log2(1 + shown.count("\n") / 4),
        "numbers": log2(1 + len(_NUMBER.findall(shown))),
        "operators": log2(1 + len(_OPERATOR.findall(shown)) / 2),
        "code_marks": log2(1 + len(_CODE.findall(shown))),
        "maths_marks": log2(1 + len(_MATHS.findall(shown))),
        "options": float(len(_OPTION.findall(shown)) >= 3),  # noqa: PLR2004 - two could be initials
        "questions": float(max(0, shown.count("?") - 1)),
        "asks": float(max(0, sum(w in ASK_WORDS for w in words) - 1)),
        "steps": float(len(known & STEP_WORDS) + _phrases(lower, STEP_PHRASES)),
        "constraints": float(len(known & CONSTRAINT_WORDS) + _phrases(lower, CONSTRAINT_PHRASES)),
        "items": _items(shown),
        "output": float(len(known & OUTPUT_WORDS)) + _asked_length(lower),
        "context": min(1.0, share),
    }
    return Features(text=shown, values=values)


def _phrases(lower: str, phrases: Iterable[str]) -> int:
    return sum(p in lower for p in phrases)


def _items(text: str) -> float:
    """Count the parts after a colon: in "a party: food, games and budget" there are three."""
    _, colon, rest = text.partition(": ")
    return log2(1 + rest[:400].count(",") + rest[:400].count(" and ")) if colon else 0.0


def _asked_length(lower: str) -> float:
    return sum(log2(1 + int(n) / 25) for n in _LENGTH_ASKED.findall(lower)[:4])
