"""What one user's own outcomes add to the shipped weights: a few numbers and sparse additions, nothing else.

It corrects one shipped file and no other: made for another one, or with a number that is not finite, it is refused.
Trees, recognisers and labels are never part of it, so nothing learned can change what may leave the device.
"""

import base64
import binascii
import hashlib
import json
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, isfinite, log
from types import MappingProxyType
from typing import Any

FORMAT = 1
BUCKETS = 2**16
"""Places of the hashed words, routing design C4."""

STEPS = 127
"""Additions are kept in 8 bits: whole multiples of their largest over 127."""

MOST_OFFSET, MOST_SLOPE, MOST_ADDED = 0.24, 8.0, 16.0
_EDGE = 1e-4
_NOTHING: Mapping[Any, float] = MappingProxyType({})


class PersonalError(ValueError):
    """Bytes that are no personal correction of these shipped weights. They are not used; nothing else changes."""


def digest(weights: bytes) -> str:
    """Return what a correction names its shipped weights by: SHA-256 in hex."""
    return hashlib.sha256(weights).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """A correction to the shipped weights.

    base: `digest` of the shipped file it was fitted to.  version: counts from 1; never used twice on one device.
    day: whole days since 1970 on which it was made.  outcomes: how many outcomes it was fitted to.
    offset: how much higher a rank of a half is for this user than in the reference mix, see `shifted`.
    p_ok: (intercept, slope) of a logistic calibrator over the log-odds of the shipped P(device adequate); None while
    too few outcomes of the local model are known, and then nothing calls the number a probability.
    linear: additions to the linear head by bucket.  after: additions to the cascade's coefficients by name.
    """

    base: str
    version: int
    day: int
    outcomes: int = 0
    offset: float = 0.0
    p_ok: tuple[float, float] | None = None
    linear: Mapping[int, float] = field(default_factory=lambda: _NOTHING, repr=False)
    after: Mapping[str, float] = field(default_factory=lambda: _NOTHING, repr=False)

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite or out of their range. Raises PersonalError."""
        _check_within("offset", self.offset, -MOST_OFFSET, MOST_OFFSET)
        if self.p_ok is not None:
            _check_within("the intercept of p_ok", self.p_ok[0], -MOST_SLOPE, MOST_SLOPE)
            _check_within("the slope of p_ok", self.p_ok[1], 0.0, MOST_SLOPE)
        for part in (self.linear, self.after):
            for value in part.values():
                _check_within("an addition", value, -MOST_ADDED, MOST_ADDED)
        if any(not 0 <= bucket < BUCKETS for bucket in self.linear):
            raise PersonalError(f"a bucket lies outside 0..{BUCKETS - 1}")
        if self.version < 1 or self.day < 0 or self.outcomes < 0:
            raise PersonalError("version, day and outcomes must not be negative, and the version counts from 1")

    @property
    def calibrated(self) -> bool:
        """Whether `adequate` speaks of the local model in use."""
        return self.p_ok is not None

    def shifted(self, rank: float) -> float:
        """Move a rank, 0..1, by the offset: whole in the middle, none at the ends, so that order and range stay."""
        return rank + 4.0 * self.offset * rank * (1.0 - rank)

    def adequate(self, shipped: float) -> float:
        """Calibrate the shipped P(device adequate), 0..1; never falls as the shipped one rises."""
        if self.p_ok is None:
            return shipped
        intercept, slope = self.p_ok
        return sigmoid(intercept + slope * logit(shipped))

    def to_bytes(self) -> bytes:
        """Write it as JSON with packed additions; the same value gives the same bytes."""
        buckets = sorted(self.linear)
        unit, steps = _steps([self.linear[b] for b in buckets])
        body = {
            "format": FORMAT,
            "base": self.base,
            "version": self.version,
            "day": self.day,
            "outcomes": self.outcomes,
            "offset": self.offset,
            "p_ok": self.p_ok,
            "linear": {"unit": unit, "buckets": pack(array("H", buckets)), "steps": pack(array("b", steps))},
            "after": dict(sorted(self.after.items())),
        }
        return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, *, base: str) -> "Personal":
        """Read what `to_bytes` wrote. base: `digest` of the shipped weights in use.

        Raises PersonalError for anything else, for another base, and for a number that is not finite or out of range.
        """
        try:
            body = json.loads(data, parse_constant=_refuse_constant)
            personal = _read(cls, body)
        except PersonalError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise PersonalError("this is no personal correction of the router's weights") from None
        if personal.base != base:
            raise PersonalError("this correction was fitted to other shipped weights")
        return personal


def _read(cls: type[Personal], body: Mapping[str, Any]) -> Personal:
    names = {"format", "base", "version", "day", "outcomes", "offset", "p_ok", "linear", "after"}
    if set(body) != names or body["format"] != FORMAT:
        raise PersonalError("this correction is of another format")
    p_ok = body["p_ok"]
    return cls(
        base=str(body["base"]),
        version=_whole(body["version"]),
        day=_whole(body["day"]),
        outcomes=_whole(body["outcomes"]),
        offset=float(body["offset"]),
        p_ok=None if p_ok is None else (float(p_ok[0]), float(p_ok[1])),
        linear=_additions(body["linear"]),
        after={str(name): float(value) for name, value in body["after"].items()},
    )


def _additions(packed: Mapping[str, Any]) -> dict[int, float]:
    unit = float(packed["unit"])
    _check_within("the unit of additions", unit, 0.0, MOST_ADDED / STEPS)
    buckets, steps = unpack("H", packed["buckets"]), unpack("b", packed["steps"])
    return {int(b): unit * s for b, s in zip(buckets, steps, strict=True)}


def _steps(values: list[float]) -> tuple[float, list[int]]:
    """Return the unit and whole multiples of it nearest to some values; multiples of a unit come back as they are."""
    unit = float(f"{max(map(abs, values), default=0.0) / STEPS:.6g}")  # rounded, so that a second time changes nothing
    return unit, [round(v / unit) if unit else 0 for v in values]


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PersonalError("a whole number was expected")
    return value


def _check_within(name: str, value: float, low: float, high: float) -> None:
    if not isfinite(value) or not low <= value <= high:
        raise PersonalError(f"{name} must be finite and lie between {low:g} and {high:g}")


def _refuse_constant(word: str) -> float:
    raise PersonalError(f"{word} is no finite number")


def pack(numbers: "array[Any]") -> str:
    """Write an array as base64, little-endian."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def unpack(code: str, text: str) -> "array[Any]":
    """Read an array of the type ``code`` from base64, little-endian. Raises PersonalError."""
    numbers: array[Any] = array(code)
    try:
        numbers.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise PersonalError("packed numbers are damaged") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def logit(p: float) -> float:
    """Return the log-odds of a probability, kept away from 0 and 1."""
    p = min(1 - _EDGE, max(_EDGE, p))
    return log(p / (1 - p))
