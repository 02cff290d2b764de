"""Readings of a Linux machine, from ``/proc`` and ``/sys`` alone.

Whether a link is metered is a setting of NetworkManager, to be asked over D-Bus: that is not worth a dependency. What
the kernel knows is read here: a mobile modem, or a tethered telephone, carries the default route.
"""

from pathlib import Path

from .sensors import Absent, Pressure, Thermal, Unknown

# Degrees below the first trip point at which it is worth noticing; a zone with only a critical trip point has no
# other mark to go by, so the steps are counted down from there.
_NEAR_C = 10.0
_FAIR_BELOW_CRITICAL_C, _SERIOUS_BELOW_CRITICAL_C, _CRITICAL_BELOW_C = 20.0, 10.0, 3.0
# Share of the last ten seconds in which some task waited for memory, in percent; and memory still to be had.
_STALL_WARN, _STALL_CRITICAL = 10.0, 40.0
_FREE_WARN, _FREE_CRITICAL = 0.10, 0.04
_UP = 0x1  # RTF_UP of linux/route.h
_HOT = ("critical", "hot")
_STEPS = tuple(Thermal)
_LEVELS = tuple(Pressure)


_TETHERS = frozenset({"rndis_host", "ipheth"})  # drivers of telephones that share their connection
_CHARGED = {"Charging": True, "Full": True, "Not charging": True, "Discharging": False}


class Linux:
    """Readers over the file tree under ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._sys = root / "sys"

    def battery_percent(self) -> float | Absent | Unknown:
        """Charge, 0 to 100, of all batteries that power the machine; those of mice and keyboards do not count."""
        found = self._batteries()
        if not found:
            return Absent()
        sizes = [_full(battery) for battery in found]
        weights = [1.0] * len(sizes) if None in sizes else [size or 0.0 for size in sizes]
        charges = [float((battery / "capacity").read_text()) for battery in found]
        return sum(w * c for w, c in zip(weights, charges, strict=True)) / sum(weights)

    def on_mains(self) -> bool | Absent | Unknown:
        """Whether the mains power the machine: a supply is plugged in, or no battery is being drained."""
        found = self._batteries()
        if not found:
            return Absent()
        supplies = [s for s in self._supplies() if _text(s / "type") in {"Mains", "USB"} and (s / "online").exists()]
        if any(_text(supply / "online") not in {"", "0"} for supply in supplies):
            return True
        states = [_CHARGED.get(_text(battery / "status")) for battery in found]
        if False in states:
            return False
        return True if True in states else Unknown("the battery does not say")

    def _supplies(self) -> list[Path]:
        return sorted((self._sys / "class/power_supply").glob("*"))

    def _batteries(self) -> list[Path]:
        return [
            supply
            for supply in self._supplies()
            if _text(supply / "type") == "Battery"
            and _text(supply / "scope") != "Device"
            and _text(supply / "present") != "0"
        ]

    def low_power(self) -> bool | Absent | Unknown:
        """Whether the firmware's power profile is the saving one; absent where the firmware has no profiles."""
        profile = self._sys / "firmware/acpi/platform_profile"
        return profile.read_text().strip() == "low-power" if profile.exists() else Absent()

    def thermal(self) -> Thermal | Absent | Unknown:
        """Return the hottest zone's step; absent where no zone has both a temperature and a trip point."""
        zones = [
            zone for zone in sorted((self._sys / "class/thermal").glob("thermal_zone*")) if (zone / "temp").exists()
        ]
        steps, failures = [], []
        for zone in zones:
            try:
                step = _zone(zone)
            except (OSError, ValueError) as error:  # a zone that is switched off answers with an error or nonsense
                failures.append(error)
            else:
                steps += [] if step is None else [step]
        if failures and not steps:
            raise failures[0]
        return max(steps, key=_STEPS.index) if steps else Absent()

    def memory_pressure(self) -> Pressure | Absent | Unknown:
        """Return the worst of: stalls, memory still available, room in the control group."""
        available = self._meminfo()
        shares = [available["MemAvailable"] / available["MemTotal"], *self._group_shares(available["MemTotal"])]
        levels = [_below(min(shares), _FREE_WARN, _FREE_CRITICAL)]
        stalls = self._proc / "pressure/memory"
        if stalls.exists():
            some = next(line for line in stalls.read_text().splitlines() if line.startswith("some "))
            average = float(some.split("avg10=")[1].split()[0])
            levels.append(_below(-average, -_STALL_WARN, -_STALL_CRITICAL))
        return max(levels, key=_LEVELS.index)

    def network(self) -> bool | Absent | Unknown:
        """Whether a default route exists, by IPv4 or IPv6. Nothing is sent to find out."""
        if not any((self._proc / "net" / name).exists() for name in ("route", "ipv6_route")):
            return Unknown("this system shows no routes")
        return bool(self._default_links())

    def metered(self) -> bool | Absent | Unknown:
        """Whether a mobile modem or a telephone carries a default route; what else it may be, no file says."""
        links = [self._sys / "class/net" / name for name in self._default_links()]
        if any(_mobile(link) for link in links):
            return True
        return Unknown("the system does not say it in a file")

    def _default_links(self) -> set[str]:
        four, six = (self._rows(name) for name in ("route", "ipv6_route"))
        return {row[0] for row in four if _default_four(row)} | {row[9] for row in six if _default_six(row)}

    def _rows(self, name: str) -> list[list[str]]:
        table = self._proc / "net" / name
        return [line.split() for line in table.read_text().splitlines()] if table.exists() else []

    def _meminfo(self) -> dict[str, int]:
        lines = (line.split(":") for line in (self._proc / "meminfo").read_text().splitlines())
        return {name: int(value.split()[0]) * 1024 for name, value in lines}

    def _group_shares(self, total: int) -> list[float]:
        """Shares of memory left under the control group's limit, version 2 or 1; empty where there is none."""
        base, own = self._sys / "fs/cgroup", self._proc / "self/cgroup"
        rows = [line.split(":", 2) for line in own.read_text().splitlines()] if own.exists() else []
        shares = []
        for _, controllers, path in rows:
            if controllers == "":
                shares += _groups(base, path, "memory.max", "memory.current", total)
            elif "memory" in controllers.split(","):
                shares += _groups(base / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", total)
        return shares


def _text(file: Path) -> str:
    """Return the words of a file that need not be there."""
    return file.read_text().strip() if file.exists() else ""


def _full(battery: Path) -> float | None:
    """Return how much a battery holds, in its own unit; None when it does not say."""
    found = next((battery / name for name in ("energy_full", "charge_full") if (battery / name).exists()), None)
    return float(found.read_text()) if found else None


def _mobile(link: Path) -> bool:
    driver = link / "device/driver"
    return "DEVTYPE=wwan" in _text(link / "uevent").split() or (driver.exists() and driver.resolve().name in _TETHERS)


def _zone(zone: Path) -> Thermal | None:
    """Return one zone's step, None when it has no usable trip point."""
    celsius = int((zone / "temp").read_text()) / 1000
    trips: dict[str, float] = {}
    for kind in zone.glob("trip_point_*_type"):
        name = kind.read_text().strip()
        at = int(kind.with_name(kind.name.replace("_type", "_temp")).read_text()) / 1000
        if at > 0:  # firmware writes zero or less for a trip point that is not in use
            trips[name] = min(at, trips.get(name, at))
    critical = min((trips[name] for name in _HOT if name in trips), default=None)
    passive = trips.get("passive")
    if critical is None and passive is None:
        return None
    if critical is not None and celsius >= critical - _CRITICAL_BELOW_C:
        return Thermal.CRITICAL
    if passive is None and critical is not None:
        serious, fair = critical - _SERIOUS_BELOW_CRITICAL_C, critical - _FAIR_BELOW_CRITICAL_C
    else:
        serious, fair = passive or 0.0, (passive or 0.0) - _NEAR_C
    if celsius >= serious:
        return Thermal.SERIOUS
    return Thermal.FAIR if celsius >= fair else Thermal.NOMINAL


def _below(value: float, warn: float, critical: float) -> Pressure:
    if value <= critical:
        return Pressure.CRITICAL
    return Pressure.WARN if value <= warn else Pressure.NORMAL


def _groups(base: Path, path: str, limit_name: str, use_name: str, total: int) -> list[float]:
    """Shares left in a group and all above it. In a container the outside path is not there, but its root is."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    levels = [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return [share for level in levels for share in _group(level, limit_name, use_name, total)]


def _group(group: Path, limit_name: str, use_name: str, total: int) -> list[float]:
    limit_file = group / limit_name
    if not limit_file.exists() or not (text := limit_file.read_text().strip()).isdecimal() or int(text) >= total:
        return []
    limit = int(text)
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    cache = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # given back when somebody needs it
    used = max(0, int((group / use_name).read_text()) - cache)
    return [max(0.0, 1 - used / limit)]


def _default_four(row: list[str]) -> bool:
    """Fields of ``/proc/net/route``: interface, destination, gateway, flags, three counters, mask."""
    return len(row) > 7 and row[1] == "00000000" == row[7] and bool(int(row[3], 16) & _UP)  # noqa: PLR2004


def _default_six(row: list[str]) -> bool:
    """Fields of ``/proc/net/ipv6_route``: destination, its length, six others, flags, interface."""
    return len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" and bool(int(row[8], 16) & _UP)  # noqa: PLR2004
