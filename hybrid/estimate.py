"""What each route would take and cost, before anything is generated: seconds, money, bytes that would leave.

From how fast each answerer was when last seen on this machine, the size of the request and the length of answers so
far. What was never measured is unknown, and called that. Pure: no clock, no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from .wire.types import Route, Usage

NEWEST = 0.3
"""Weight of the newest answer in a mean that forgets: about the last five count."""

SPREAD = 2.0
"""An answer is expected to be between half as long and twice as long as the mean."""

USUAL_ANSWER = 120
"""Tokens of an answer before any was seen."""

TOKENS_PER_PRICE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How one answerer fared lately. None is not measured yet.

    prefill_tps, decode_tps: tokens a second.  answer_tokens: of its answers.  start_s: from the call to the first
    prompt token when nothing was ready: loading here, fetching and verifying evidence there.  link_s: queue and
    network, each time.
    """

    prefill_tps: float | None = None
    decode_tps: float | None = None
    answer_tokens: float | None = None
    start_s: float | None = None
    link_s: float | None = None

    def seen(self, newest: "Speed") -> "Speed":
        """Return it with one more answer taken into its means, to two digits: no more is kept than is of use."""
        names = self.__dataclass_fields__
        return Speed(**{name: _mean(getattr(self, name), getattr(newest, name)) for name in names})

    @classmethod
    def from_dict(cls, values: Any) -> "Speed":
        """Read what `to_dict` wrote; what is no positive number is unknown."""
        given = values if isinstance(values, dict) else {}
        return cls(**{name: _positive(given.get(name)) for name in cls.__dataclass_fields__})

    def to_dict(self) -> dict[str, float]:
        """Return what is known."""
        known = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: value for name, value in known if value is not None}


NOT_SEEN = Speed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one request is, as far as time and money go.

    prompt_tokens: framed.  most_tokens: of the answer, the limit it was given.  wire_bytes: sealed, were it sent.
    """

    prompt_tokens: int
    most_tokens: int
    wire_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a route would take. None is unknown.

    seconds_low, seconds_high: to the end of the answer.  money: in the unit of the price, 0 on the device.
    bytes: that would leave the device.  unknown: what is not known, by name.
    """

    route: Route
    seconds_low: float | None = None
    seconds_high: float | None = None
    money: float | None = None
    bytes: int = 0
    unknown: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """The middle of the two, None when unknown."""
        if self.seconds_low is None or self.seconds_high is None:
            return None
        return _two_digits((self.seconds_low + self.seconds_high) / 2)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        known = self.seconds_low is not None
        return {
            "route": str(self.route),
            "seconds": [self.seconds_low, self.seconds_high] if known else None,
            "money": self.money,
            "bytes": self.bytes,
            "unknown": list(self.unknown),
        }


def estimate(
    route: Route, load: Load, speed: Speed = NOT_SEEN, *, ready: bool = True, price: float | None = None
) -> Estimate:
    """Estimate one route. ready: nothing has to be loaded or verified first.  price: per 1,000 tokens on the node."""
    away = route is Route.PRIVATE_CLOUD
    mean = speed.answer_tokens or USUAL_ANSWER
    low, high = (min(load.most_tokens, tokens) for tokens in (mean / SPREAD, mean * SPREAD))
    seconds = [_seconds(load.prompt_tokens, answer, speed, ready=ready, away=away) for answer in (low, high)]
    money = 0.0 if not away else None
    if away and price is not None:
        expected = Usage(input=load.prompt_tokens, output=round(min(load.most_tokens, mean)))
        money = _two_digits(cost(expected, price) or 0.0)
    missing = [name for name, value in (("seconds", seconds[0]), ("money", money)) if value is None]
    return Estimate(
        route=route,
        seconds_low=seconds[0],
        seconds_high=seconds[1],
        money=money,
        bytes=load.wire_bytes if away else 0,
        unknown=tuple(missing),
    )


def cost(usage: Usage, price: float | None) -> float | None:
    """Return what an answer of the node costs at a price per 1,000 tokens, read or written; None without a price."""
    return None if price is None else price * (usage.input + usage.output) / TOKENS_PER_PRICE


def waits(estimates: Sequence[Estimate]) -> tuple[float | None, float | None]:
    """Return the expected seconds of the device and of the node: both or neither, as a price of one alone would lie."""
    by_route = {each.route: each.seconds for each in estimates}
    here, there = by_route.get(Route.ON_DEVICE), by_route.get(Route.PRIVATE_CLOUD)
    return (None, None) if here is None or there is None else (here, there)


def _seconds(prompt: int, answer: float, speed: Speed, *, ready: bool, away: bool) -> float | None:
    """Sum up the parts; None when one of those that count was never measured."""
    start = 0.0 if ready else speed.start_s
    link = speed.link_s if away else 0.0
    if start is None or link is None or not speed.prefill_tps or not speed.decode_tps:
        return None
    return _two_digits(start + link + prompt / speed.prefill_tps + answer / speed.decode_tps)


def _mean(old: float | None, new: float | None) -> float | None:
    new = _positive(new)
    if old is None or new is None:
        return old if new is None else _two_digits(new)
    return _two_digits((1 - NEWEST) * old + NEWEST * new)


def _positive(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and isfinite(value) and value > 0 else None


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
