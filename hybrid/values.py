"""What each setting may hold: one reader for each field of ``Config``.

A reader takes a value as TOML, a variable or a flag gives it, and where it stands; it raises ConfigurationError.
"""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .routing.policy import Mode

if TYPE_CHECKING:
    from .routing.budget import Budget

A_MONTH = "/month"  # what follows the number where a budget is money
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})


def unknown(message: str, key: str, known: list[str]) -> ConfigurationError:
    """Return the error for a name nobody knows, with the nearest one, or all there are."""
    near = difflib.get_close_matches(key, known, n=1)
    return ConfigurationError(message, hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{where} must be a text")
    return value.strip()


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where} must be a number, got {value!r}") from None
    except OverflowError:
        raise ConfigurationError(f"{where} is a number beyond all bounds") from None
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ConfigurationError(f"{where} must be a number of 0 or more")
    return number


def _share(most: float) -> Callable[[Any, str], float]:
    def read(value: Any, where: str) -> float:
        number = _number(value, where)
        if number > most:
            raise ConfigurationError(f"{where} must lie between 0 and {most:g}, got {number:g}")
        return number

    return read


def _budget(value: Any, where: str) -> "float | Budget":
    """Read a share of requests, or money a month."""
    money, monthly, rest = str(value).replace(" ", "").partition(A_MONTH)
    if not monthly or rest:
        return _share(1.0)(value, where)
    from .routing.budget import Budget

    return Budget(money_per_month=_number(money, where))


def _terms(value: Any, where: str) -> tuple[str, ...]:
    """Read a list of words and phrases; in a variable they stand one a line or between commas."""
    if isinstance(value, str):
        value = [term for line in value.splitlines() for term in line.split(",") if term.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(term, str) and term.strip() for term in value):
        raise ConfigurationError(f"{where} must be a list of words or phrases")
    return tuple(term.strip() for term in value)


def read_boolean(value: Any, where: str) -> bool:
    """Return the truth a value says, as TOML or as a word. Raises ConfigurationError."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in TRUE | FALSE:
        raise ConfigurationError(f"{where} must be 1 or 0")
    return word in TRUE


def _path(value: Any, where: str) -> Path:
    return value if isinstance(value, Path) else Path(_text(value, where)).expanduser()


def _one_of(*words: str) -> Callable[[Any, str], str]:
    def read(value: Any, where: str) -> str:
        if value not in words:
            raise unknown(f"{where} must be {', '.join(words[:-1])} or {words[-1]}", str(value), list(words))
        return str(value)

    return read


def read_mode(value: Any, where: str = "policy") -> Mode:
    """Return the mode of that name. Raises ConfigurationError naming the nearest one."""
    try:
        return Mode(value)
    except ValueError:
        modes = [str(mode) for mode in Mode]
        raise unknown(f"{where}: there is no policy {value!r}", str(value), modes) from None


READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "model": _text,
    "models": _path,
    "node": _text,
    "node_key": _text,
    "node_token_file": _path,
    "node_ca_file": _path,
    "trust": _path,
    "policy": read_mode,
    "threshold": _number,
    "on_handoff": _one_of("always", "ask", "never"),
    "timeout": _number,
    "offline": read_boolean,
    "receipts": _one_of("keep", "off"),
    "state": _path,
    "cascade": _one_of("auto", "offer", "off"),
    "detect": _one_of("standard", "strict", "off"),
    "deny": _terms,
    "budget": _budget,
    "explore": _share(0.02),
    "price": _share(1e6),
    "decisions": _one_of("keep", "off"),
    "learn": _one_of("keep", "off"),
}
