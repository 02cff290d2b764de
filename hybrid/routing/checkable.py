"""Questions whose answer a machine can check: what to ask, and how an answer is marked. No model judges anything.

A row becomes a `Question` by the fields it has: ``ground_truth`` with ``function`` (tool calls), ``options`` (a
letter), else ``answer`` (a number, or a text that must occur).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .symptoms import names_option

MARKS = Mapping[str, bool]
Wanted = tuple[str, Mapping[str, Sequence[Any]]]  # a function and the accepted values of each of its arguments
NEAR_EQUAL = 1e-6
MOST_OPTIONS = 10

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"\w+")
_OBJECTS = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
_CALL_RULES = (
    'Answer with JSON alone: a list of calls, each {"name": ..., "arguments": {...}}, '
    "or [] when none of these functions helps."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. mark: says of an answer whether it is ``right``, and parse_ok or tool_ok where it has a form."""

    id: str
    prompt: str = field(repr=False)
    strong: float
    mark: Callable[[str], MARKS] = field(repr=False)


def question(row: Mapping[str, Any]) -> Question:
    """Read one row. strong: the larger model's quality where the row has it, else 1.

    Raises ValueError saying what is missing; never quoting the row.
    """
    if not isinstance(row.get("id"), str | int):
        raise ValueError('"id" must be a text or a number')  # noqa: TRY004 - one kind of error for a wrong row
    strong = row.get("strong", 1.0)
    if isinstance(strong, bool) or not isinstance(strong, int | float) or not 0 <= strong <= 1:
        raise ValueError("strong must be a number from 0 to 1")
    prompt, mark = _calls(row) if "ground_truth" in row else _answer(row)
    if not prompt.strip():
        raise ValueError("there is nothing to ask")
    return Question(id=str(row["id"]), prompt=prompt, strong=float(strong), mark=mark)


# --- answers in words -------------------------------------------------------------------------------------------------


def _answer(row: Mapping[str, Any]) -> tuple[str, Callable[[str], MARKS]]:
    wanted = row.get("answer")
    if not isinstance(wanted, str | int | float) or isinstance(wanted, bool) or not str(wanted).strip():
        raise ValueError("answer must be a text or a number")
    prompt, wanted = _prompt(row), str(wanted).strip()
    options = row.get("options")
    if options is not None:
        if not isinstance(options, list) or not 1 < len(options) <= MOST_OPTIONS:
            raise ValueError(f'"options" must be a list of 2 to {MOST_OPTIONS}')
        letters = [chr(ord("A") + n) for n in range(len(options))]
        prompt = "\n".join([prompt, *(f"{a}. {text}" for a, text in zip(letters, options, strict=True)), "Answer:"])
        return prompt, lambda answer: _option(answer, wanted, set(letters))
    if _NUMBER.fullmatch(wanted):
        return prompt, lambda answer: _number(answer, wanted)
    return prompt, lambda answer: {"right": _plain(wanted) in _plain(answer)}


def _prompt(row: Mapping[str, Any]) -> str:
    """Return the question: ``prompt``, or ``question`` after its ``context``."""
    asked = row.get("prompt", row.get("question"))
    if not isinstance(asked, str):
        raise ValueError('"prompt", or "question", must be a text')  # noqa: TRY004 - as above
    context = row.get("context", "")
    return f"{context}\n\n{asked}" if context else asked


def _option(answer: str, wanted: str, letters: set[str]) -> MARKS:
    parsed = names_option(answer, letters)
    return {"right": parsed and names_option(answer, {wanted}), "parse_ok": parsed}


def _number(answer: str, wanted: str) -> MARKS:
    """Mark the last number of an answer, as grade-school answers end with it."""
    found = _NUMBER.findall(answer)
    right = bool(found) and abs(_value(found[-1]) - _value(wanted)) <= NEAR_EQUAL
    return {"right": right, "parse_ok": bool(found)}


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _plain(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.casefold()))} "


# --- tool calls -------------------------------------------------------------------------------------------------------


def _calls(row: Mapping[str, Any]) -> tuple[str, Callable[[str], MARKS]]:
    turns, functions, truth = row.get("question"), row.get("function"), row["ground_truth"]
    if not isinstance(turns, list) or not isinstance(functions, list) or not isinstance(truth, list | None):
        raise ValueError("question and function must be lists")  # noqa: TRY004 - as above
    try:
        asked = "\n".join(str(message["content"]) for turn in turns for message in turn)
        known = {str(function["name"]) for function in functions}
        checked = [(str(name), dict(arguments)) for call in truth or [] for name, arguments in call.items()]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("question, function or ground_truth is not as tool calls have it") from None
    prompt = f"{asked}\n\nFunctions:\n{json.dumps(functions)}\n{_CALL_RULES}"
    return prompt, lambda answer: _called(answer, checked, known)


def _called(answer: str, truth: Sequence[Wanted], known: set[str]) -> MARKS:
    """Mark calls: each wanted one made with accepted values, none besides; a valid one names a known function."""
    calls = _read_calls(answer)
    valid = calls is not None and all(call.get("name") in known for call in calls)
    right = valid and calls is not None and len(calls) == len(truth) and _all_made(calls, truth)
    return {"right": right, "tool_ok": valid}


def _read_calls(answer: str) -> list[Mapping[str, Any]] | None:
    found = _OBJECTS.search(answer)
    try:
        read = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return None
    calls = [read] if isinstance(read, dict) else read
    return calls if isinstance(calls, list) and all(isinstance(call, dict) for call in calls) else None


def _all_made(calls: Sequence[Mapping[str, Any]], truth: Sequence[Wanted]) -> bool:
    left = list(calls)
    for wanted in truth:
        made = next((call for call in left if _accepted(call, wanted)), None)
        if made is None:
            return False
        left.remove(made)
    return True


def _accepted(call: Mapping[str, Any], wanted: Wanted) -> bool:
    """Tell whether a call is the wanted one; "" among the accepted values: the argument may be left out."""
    name, arguments = wanted
    given = call.get("arguments")
    if call.get("name") != name or not isinstance(given, dict) or set(given) - set(arguments):
        return False
    return all(given[key] in values if key in given else "" in values for key, values in arguments.items())
