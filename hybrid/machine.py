"""The machine's readings as the plain numbers the router looks at."""

from typing import TYPE_CHECKING

from .local import mapped, part
from .routing.signals import WORST_BATTERY, WORST_MEMORY, WORST_THERMAL, MemoryPressure, Signals, Thermal

if TYPE_CHECKING:
    from device.sensors import Readings

PRESSURES = {"normal": MemoryPressure.NORMAL, "warn": MemoryPressure.WARNING, "critical": MemoryPressure.CRITICAL}


def readings() -> "Readings":
    """Read battery, heat, memory and link."""
    with mapped():
        return part("sensors").read()  # type: ignore[no-any-return]


def machine_signals(now: "Readings | None" = None) -> Signals:
    """Return the machine's readings, fresh ones unless given, as what the router looks at.

    A sensor that does not exist, or a system that does not say, is neutral. A reading that failed takes the worst value
    of its soft range; a link that cannot be read is offline.
    """
    now = now or readings()
    battery = now.battery_percent
    on_battery = isinstance(battery, int | float) or _failed(battery)
    return Signals(
        battery=_battery(battery),
        on_mains=now.on_mains if isinstance(now.on_mains, bool) else not on_battery,
        low_power=now.low_power is True or _failed(now.low_power),
        thermal=_thermal(now.thermal),
        memory=_memory(now.memory_pressure),
        offline=now.network is False or _failed(now.network),
        metered=now.metered is True or _failed(now.metered),
    )


def _failed(reading: object) -> bool:
    return isinstance(reading, part("sensors").Failed)


def _battery(reading: object) -> float | None:
    if isinstance(reading, int | float):
        return reading / 100
    return WORST_BATTERY if _failed(reading) else None


def _thermal(reading: object) -> Thermal:
    if isinstance(reading, str):
        return Thermal(reading)
    return WORST_THERMAL if _failed(reading) else Thermal.NOMINAL


def _memory(reading: object) -> MemoryPressure:
    if isinstance(reading, str):
        return PRESSURES[reading]
    return WORST_MEMORY if _failed(reading) else MemoryPressure.NORMAL
