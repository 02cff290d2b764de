"""Ever better values of each reading, from the one next to what it is now to the best that matters.

What `counterfactual` climbs when it asks how much better a reading would have had to be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from .signals import MemoryPressure, Signals, Thermal


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The better values of one reading: ``value`` of each step; ``words`` say what a step would mean."""

    what: str
    field: str
    steps: Sequence[Any]
    value: Callable[[Any], Any] = lambda step: step
    words: str


def device_ladders(signals: Signals) -> tuple[Ladder, ...]:
    """Return what would make the device cheaper."""
    heat, strain = tuple(Thermal), tuple(MemoryPressure)
    low = signals.battery is not None and not signals.on_mains
    return (
        Ladder(
            what="battery",
            field="battery",
            steps=range(ceil(100 * (signals.battery or 0)), 51) if low else (),
            value=_share,
            words="with the battery at {} % or above",
        ),
        Ladder(
            what="low_power",
            field="low_power",
            steps=(False,) if signals.low_power else (),
            words="without low-power mode",
        ),
        Ladder(
            what="heat",
            field="thermal",
            steps=heat[: heat.index(signals.thermal)][::-1],
            words="with heat no worse than {}",
        ),
        Ladder(
            what="memory",
            field="memory",
            steps=strain[: strain.index(signals.memory)][::-1],
            words="with memory pressure no worse than {}",
        ),
        Ladder(
            what="device_wait",
            field="device_wait_s",
            steps=_down(signals.device_wait_s),
            words="if the device needed {} s or less",
        ),
    )


def cloud_ladders(signals: Signals) -> tuple[Ladder, ...]:
    """Return what would make the private cloud cheaper."""
    quota = signals.quota_left
    return (
        Ladder(what="link", field="metered", steps=(False,) if signals.metered else (), words="on an unmetered link"),
        Ladder(
            what="quota",
            field="quota_left",
            steps=range(ceil(100 * quota), 21) if quota is not None else (),
            value=_share,
            words="with {} % of the quota left",
        ),
        Ladder(
            what="cost",
            field="cost",
            steps=_down(100 * signals.cost),
            value=_share,
            words="at a cost of {} hundredths of a right answer",
        ),
        Ladder(
            what="cloud_wait",
            field="cloud_wait_s",
            steps=_down(signals.cloud_wait_s),
            words="if the private cloud needed {} s or less",
        ),
    )


def _share(percent: int) -> float:
    return percent / 100


def _down(value: float | None) -> Sequence[int]:
    """Return the whole numbers below a value, down to 0; beyond 10,000 nothing changes any more."""
    return range(ceil(min(value, 10_000.0)) - 1, -1, -1) if value else ()
