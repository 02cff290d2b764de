"""What the words of an answer show by themselves: a refusal, a hedge, going round in circles, the wrong form.

Phrases are few and stand at the very beginning: a doubt that is no doubt costs an exchange with the node, one that
is missed costs nothing but what the device would have cost anyway. English; other languages show no refusal or hedge.
"""

import json
import re
from collections.abc import Mapping

GRAM = 4
OPENING_CHARS = 160

_REFUSAL = re.compile(
    r"(?:(?:i(?:'m| am) (?:very |really |so )?)?sorry,? (?:but )?|unfortunately,? |i apologi[sz]e,? (?:but )?)?"
    r"(?:as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?:'m| am) (?:just )?an? (?:ai|(?:large )?language model)\b"
    r"|i(?:'m| am) (?:not able|unable) to (?:help|assist|answer|provide|do|access|create|complete)"
    r"|i (?:can(?:'t|not| not)|won't|will not) (?:help|assist|answer|provide|do that|access|create|complete|fulfil)"
    r"|i (?:don't|do not) have (?:access|the ability|enough information|real-time))",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"(?:well,? |hmm,? )?(?:i(?:'m| am) not (?:entirely |really |completely |quite )?(?:sure|certain)"
    r"|i (?:don't|do not) (?:really )?know"
    r"|(?:it(?:'s| is) )?(?:hard|difficult|impossible) to (?:say|tell|know)"
    r"|there (?:is|'s) not enough information|not enough information"
    r"|(?:could|can) you (?:please )?(?:clarify|provide|give me) (?:more|the|your|a)"
    r"|please (?:provide|clarify|specify) (?:more|the|your|a|which|what))",
    re.IGNORECASE,
)
_OPTION = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]", re.MULTILINE)
_NAMED = re.compile(r"\b(?i:answer)\b\W{0,4}(?:is|:)?\W{0,4}([A-J])\b|^\W*([A-J])(?:\W|$)", re.MULTILINE)
_WANTS_JSON = re.compile(
    r"\b(?:return|respond|reply|answer|output|format|give)\b[^.\n]{0,40}\b(?:as|in|with|only|valid)\b[^.\n]{0,20}\bjson\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
FEWEST_OPTIONS = 3


def refuses(text: str) -> bool:
    """Tell whether an answer begins with a refusal."""
    return _REFUSAL.match(_opening(text)) is not None


def hedges(text: str) -> bool:
    """Tell whether an answer begins with not knowing, or asks back."""
    return _HEDGE.match(_opening(text)) is not None


def _opening(text: str) -> str:
    return text[:OPENING_CHARS].lstrip(" \t\n*#>\"'").replace("\u2019", "'")


def repeated(text: str) -> float | None:
    """Return the share of 4-grams of words that stood before, 0..1; None below eight words."""
    words = text.lower().split()
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    return None if len(words) < 2 * GRAM else 1 - len(set(grams)) / len(grams)


def validity(asked: str, answer: str) -> Mapping[str, bool]:
    """Say whether a whole answer can be read as what was asked: an option that was offered, or JSON.

    Empty where the request has no form. A tool call or schema is judged by whoever knows it, under ``tool_ok`` and
    ``schema_ok``.
    """
    offered = {letter.upper() for letter in _OPTION.findall(asked)}
    if len(offered) >= FEWEST_OPTIONS:
        return {"parse_ok": names_option(answer, offered)}
    return {"parse_ok": is_json(answer)} if _WANTS_JSON.search(asked) else {}


def names_option(answer: str, offered: set[str]) -> bool:
    """Tell whether an answer names one of the letters it was offered."""
    return any((a or b) in offered for a, b in _NAMED.findall(answer))


def is_json(answer: str) -> bool:
    """Tell whether an answer, without a fence around it, is JSON."""
    text = answer.strip()
    fenced = _FENCE.match(text)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True
