"""What this machine is like now: battery, low-power mode, heat, memory pressure, network, metered link.

Each reading is a value, ``Absent`` (the machine has no such thing), ``Unknown`` (it cannot be told here) or ``Failed``
(the reader broke): a broken sensor must never look like good news. Nothing here sends a packet, starts a process or
asks for a permission. Linux is read from ``/proc`` and ``/sys``; the Mac through ``sensors_darwin``.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

_T = TypeVar("_T")
_CACHE_S = 1.0
_THERMAL_CACHE_S = 5.0


@dataclass(frozen=True, slots=True)
class Absent:
    """This machine has no such thing, such as a battery."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It cannot be told on this system. reason: why, in a few words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The reader broke. error: the kind of failure, never its text."""

    error: str


class Thermal(StrEnum):
    """How hot the machine is, in Apple's four steps."""

    NOMINAL = "nominal"
    FAIR = "fair"
    SERIOUS = "serious"
    CRITICAL = "critical"


class Pressure(StrEnum):
    """How short memory is, in the macOS kernel's three steps."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One look at the machine.

    battery_percent: 0 to 100.  network: whether there is a way out at all.  metered: whether it costs by the byte.
    """

    battery_percent: float | Absent | Unknown | Failed
    on_mains: bool | Absent | Unknown | Failed
    low_power: bool | Absent | Unknown | Failed
    thermal: Thermal | Absent | Unknown | Failed
    memory_pressure: Pressure | Absent | Unknown | Failed
    network: bool | Absent | Unknown | Failed
    metered: bool | Absent | Unknown | Failed


class Machine(Protocol):
    """The readers of one operating system. Each may raise: ``Sensors`` turns that into ``Failed``."""

    def battery_percent(self) -> float | Absent | Unknown:
        """Charge, 0 to 100."""

    def on_mains(self) -> bool | Absent | Unknown:
        """Whether the mains power the machine; absent where there is no battery to run on instead."""

    def low_power(self) -> bool | Absent | Unknown:
        """Whether the user asked the system to save power."""

    def thermal(self) -> Thermal | Absent | Unknown:
        """How hot it is."""

    def memory_pressure(self) -> Pressure | Absent | Unknown:
        """How short memory is."""

    def network(self) -> bool | Absent | Unknown:
        """Whether any route leads out."""

    def metered(self) -> bool | Absent | Unknown:
        """Whether the way out costs by the byte."""


class Battery:
    """The battery through psutil, where the system has no files to read."""

    def battery_percent(self) -> float | Absent | Unknown:
        """Charge, 0 to 100."""
        found = _battery()
        return found if isinstance(found, Absent) else float(found[0])

    def on_mains(self) -> bool | Absent | Unknown:
        """Whether the mains power the machine."""
        found = _battery()
        if isinstance(found, Absent):
            return found
        return Unknown("the battery does not say") if found[1] is None else found[1]


def _battery() -> tuple[float, bool | None] | Absent:
    import psutil

    found = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return Absent() if found is None else (found.percent, found.power_plugged)


class Sensors:
    """Readings with a short memory, so that asking often costs nothing."""

    def __init__(self, machine: Machine, *, now: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine
        self._now = now
        self._lock = threading.Lock()
        self._last: tuple[float, Readings] | None = None
        self._heat: tuple[float, Thermal | Absent | Unknown | Failed] | None = None

    def read(self) -> Readings:
        """Return readings at most a second old; heat, which changes slowly, at most five."""
        with self._lock:
            at = self._now()
            if self._last is None or at - self._last[0] >= _CACHE_S:
                self._last = (at, self._look(at))
            return self._last[1]

    def _look(self, at: float) -> Readings:
        machine = self._machine
        if self._heat is None or at - self._heat[0] >= _THERMAL_CACHE_S:
            self._heat = (at, _guarded(machine.thermal))
        return Readings(
            battery_percent=_guarded(machine.battery_percent),
            on_mains=_guarded(machine.on_mains),
            low_power=_guarded(machine.low_power),
            thermal=self._heat[1],
            memory_pressure=_guarded(machine.memory_pressure),
            network=_guarded(machine.network),
            metered=_guarded(machine.metered),
        )


def _guarded(reader: Callable[[], _T]) -> _T | Failed:
    try:
        return reader()
    except Exception as error:  # noqa: BLE001 - whatever broke, the reading says so and the others go on
        return Failed(type(error).__name__)


_here: Sensors | None = None
_here_lock = threading.Lock()


def read() -> Readings:
    """Return this machine's readings."""
    global _here  # noqa: PLW0603 - one short memory per process
    with _here_lock:
        if _here is None:
            _here = Sensors(_this_machine())
    return _here.read()


def _this_machine() -> Machine:
    if sys.platform == "darwin":
        from .sensors_darwin import Darwin

        return Darwin()
    from .sensors_linux import Linux

    return Linux()
