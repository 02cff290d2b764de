"""Sensors: values, and the three ways of having none; on Linux over a file tree, on a Mac over its seam."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device import sensors
from device.sensors import Absent, Failed, Pressure, Readings, Sensors, Thermal, Unknown
from device.sensors_darwin import Darwin
from device.sensors_linux import Linux


class Machine:
    """Every reader gives what the test says; an exception is raised."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = {
            "battery_percent": 80.0,
            "on_mains": True,
            "low_power": False,
            "thermal": Thermal.NOMINAL,
            "memory_pressure": Pressure.NORMAL,
            "network": True,
            "metered": False,
            **values,
        }
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def reader() -> Any:
            self.asked.append(name)
            value = self.values[name]
            if isinstance(value, Exception):
                raise value
            return value

        return reader


NAMES = ("battery_percent", "on_mains", "low_power", "thermal", "memory_pressure", "network", "metered")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [Absent(), Unknown("why")])
def test_absent_and_unknown_pass_through(name: str, value: object) -> None:
    assert getattr(Sensors(Machine(**{name: value})).read(), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_that_breaks_reads_failed_and_the_others_go_on(name: str) -> None:
    found = Sensors(Machine(**{name: OSError("secret words")})).read()
    assert getattr(found, name) == Failed("OSError")
    assert "secret" not in repr(found)
    assert all(not isinstance(getattr(found, other), Failed) for other in NAMES if other != name)


def test_asking_again_within_a_second_asks_the_machine_once_and_for_heat_every_five() -> None:
    at, machine = [0.0], Machine()
    sensor = Sensors(machine, now=lambda: at[0])
    for moment in (0.0, 0.9, 1.0, 4.9, 5.0):
        at[0] = moment
        sensor.read()
    assert machine.asked.count("network") == 3  # at 0, 1 and 4.9; 5.0 is too soon after that
    assert machine.asked.count("thermal") == 1
    at[0] = 6.0
    sensor.read()
    assert machine.asked.count("thermal") == 2


# -- Linux


def tree(root: Path, **files: str) -> Linux:
    """A file tree with names written with ``__`` for slashes."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Linux(root)


SUPPLY = "sys__class__power_supply__"


def battery(name: str = "BAT0", *, status: str = "Discharging", capacity: int = 80, **more: str) -> dict[str, str]:
    """The files of one battery, as the kernel writes them."""
    files = {"type": "Battery\n", "status": f"{status}\n", "capacity": f"{capacity}\n", "present": "1\n", **more}
    return {f"{SUPPLY}{name}__{file}": text for file, text in files.items()}


def mains(online: int, kind: str = "Mains") -> dict[str, str]:
    return {f"{SUPPLY}AC__type": kind, f"{SUPPLY}AC__online": f"{online}\n"}


@pytest.mark.parametrize(
    ("status", "plugged", "expected"),
    [
        ("Discharging", mains(0), False),
        ("Discharging", {}, False),
        ("Charging", mains(1), True),
        ("Charging", {}, True),
        ("Full", {}, True),
        ("Not charging", {}, True),
        ("Discharging", mains(1), True),
        ("Discharging", mains(1, "USB"), True),
    ],
)
def test_a_laptop_knows_its_charge_and_whether_it_is_plugged_in(
    tmp_path: Path, status: str, plugged: dict[str, str], expected: bool
) -> None:
    machine = tree(tmp_path, **battery(status=status, capacity=34), **plugged)
    assert (machine.battery_percent(), machine.on_mains()) == (34.0, expected)


def test_a_battery_that_does_not_say_whether_it_charges_is_unknown(tmp_path: Path) -> None:
    assert isinstance(tree(tmp_path, **battery(status="Unknown")).on_mains(), Unknown)


@pytest.mark.parametrize("more", [{"scope": "Device\n"}, {"present": "0\n"}])
def test_the_battery_of_a_mouse_and_an_empty_bay_are_none_of_this_machine(tmp_path: Path, more: dict[str, str]) -> None:
    machine = tree(tmp_path, **battery("hidpp_battery_0", capacity=5, **more))
    assert (machine.battery_percent(), machine.on_mains()) == (Absent(), Absent())


def test_two_batteries_count_by_how_much_they_hold(tmp_path: Path) -> None:
    small = battery("BAT0", capacity=10, energy_full="20000000\n")
    large = battery("BAT1", capacity=90, energy_full="60000000\n")
    assert tree(tmp_path, **small, **large).battery_percent() == 70.0


def test_a_battery_that_cannot_be_read_is_a_failure_not_good_news(tmp_path: Path) -> None:
    files = battery()
    del files[f"{SUPPLY}BAT0__capacity"]
    assert Sensors(tree(tmp_path, **files)).read().battery_percent == Failed("FileNotFoundError")


ZONE = "sys__class__thermal__thermal_zone0__"


def zone(root: Path, temp: str, *trips: tuple[str, int]) -> Linux:
    files = {f"{ZONE}temp": temp}
    for index, (kind, at) in enumerate(trips):
        files[f"{ZONE}trip_point_{index}_type"] = kind
        files[f"{ZONE}trip_point_{index}_temp"] = str(at)
    return tree(root, **files)


BOTH = (("critical", 100_000), ("passive", 85_000))


@pytest.mark.parametrize(
    ("temp", "trips", "expected"),
    [
        (74_999, BOTH, Thermal.NOMINAL),
        (75_000, BOTH, Thermal.FAIR),
        (84_999, BOTH, Thermal.FAIR),
        (85_000, BOTH, Thermal.SERIOUS),
        (96_999, BOTH, Thermal.SERIOUS),
        (97_000, BOTH, Thermal.CRITICAL),
        (79_999, BOTH[:1], Thermal.NOMINAL),
        (80_000, BOTH[:1], Thermal.FAIR),
        (90_000, BOTH[:1], Thermal.SERIOUS),
        (99_000, BOTH[1:], Thermal.SERIOUS),
        (50_000, (("critical", -274_000), ("passive", 85_000)), Thermal.NOMINAL),
    ],
)
def test_heat_is_measured_against_the_zones_own_trip_points(
    tmp_path: Path, temp: int, trips: tuple[tuple[str, int], ...], expected: Thermal
) -> None:
    assert zone(tmp_path, str(temp), *trips).thermal() is expected


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    machine = zone(tmp_path, "40000", *BOTH)
    shutil.copytree(tmp_path / "sys/class/thermal/thermal_zone0", tmp_path / "sys/class/thermal/thermal_zone1")
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text("86000")
    assert machine.thermal() is Thermal.SERIOUS


def test_a_machine_without_zones_or_trip_points_has_no_such_sensor(tmp_path: Path) -> None:
    assert tree(tmp_path).thermal() == Absent()
    assert zone(tmp_path, "40000").thermal() == Absent()


def test_one_zone_of_nonsense_does_not_hide_the_others(tmp_path: Path) -> None:
    machine = zone(tmp_path, "86000", *BOTH)
    shutil.copytree(tmp_path / "sys/class/thermal/thermal_zone0", tmp_path / "sys/class/thermal/thermal_zone1")
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text("hot!")
    assert machine.thermal() is Thermal.SERIOUS


def test_a_zone_that_gives_nonsense_is_a_failure_not_good_news(tmp_path: Path) -> None:
    assert Sensors(zone(tmp_path, "hot!", *BOTH)).read().thermal == Failed("ValueError")


@pytest.mark.parametrize(("profile", "low"), [("low-power\n", True), ("balanced\n", False), ("performance\n", False)])
def test_low_power_is_the_firmwares_profile(tmp_path: Path, profile: str, low: bool) -> None:
    assert tree(tmp_path, sys__firmware__acpi__platform_profile=profile).low_power() is low


def test_without_profiles_there_is_no_low_power_mode(tmp_path: Path) -> None:
    assert tree(tmp_path).low_power() == Absent()


def memory(root: Path, available: int, stall: float = 0.0, **more: str) -> Linux:
    pressure = (
        f"some avg10={stall:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    info = f"MemTotal: 1000 kB\nMemAvailable: {available} kB\nHugePages_Total: 0\n"
    return tree(root, proc__meminfo=info, proc__pressure__memory=pressure, **more)


@pytest.mark.parametrize(
    ("available", "stall", "expected"),
    [
        (500, 0.0, Pressure.NORMAL),
        (101, 9.99, Pressure.NORMAL),
        (100, 0.0, Pressure.WARN),
        (40, 0.0, Pressure.CRITICAL),
        (500, 10.0, Pressure.WARN),
        (500, 40.0, Pressure.CRITICAL),
    ],
)
def test_memory_pressure_is_the_worst_of_what_is_left_and_what_waits(
    tmp_path: Path, available: int, stall: float, expected: Pressure
) -> None:
    assert memory(tmp_path, available, stall).memory_pressure() is expected


@pytest.mark.parametrize(
    ("used", "cache", "expected"),
    [(400, 0, Pressure.NORMAL), (470, 0, Pressure.WARN), (495, 0, Pressure.CRITICAL), (495, 200, Pressure.NORMAL)],
)
@pytest.mark.parametrize("version", [2, 1])
def test_a_control_groups_limit_counts_and_its_cache_does_not(
    tmp_path: Path, version: int, used: int, cache: int, expected: Pressure
) -> None:
    base = "sys__fs__cgroup__own__" if version == 2 else "sys__fs__cgroup__memory__own__"
    limit, use = (
        ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    stat = "inactive_file" if version == 2 else "total_inactive_file"
    group = "0::/own\n" if version == 2 else "4:cpu,memory:/own\n"
    files = {
        f"{base}{limit}": "512000",
        f"{base}{use}": str(used * 1024),
        f"{base}memory.stat": f"{stat} {cache * 1024}\n",
    }
    assert memory(tmp_path, 900, proc__self__cgroup=group, **files).memory_pressure() is expected


@pytest.mark.parametrize("path", ["/own/deeper/still", "/outside/of/the/container"])
def test_a_limit_of_a_group_above_counts_too(tmp_path: Path, path: str) -> None:
    """In a container the path is often the host's, and the limit lies at the root of what can be seen."""
    place = "sys__fs__cgroup__own__" if "own" in path else "sys__fs__cgroup__"
    files = {f"{place}memory.max": "512000", f"{place}memory.current": "510000", f"{place}memory.stat": "file 0\n"}
    assert memory(tmp_path, 900, proc__self__cgroup=f"0::{path}\n", **files).memory_pressure() is Pressure.CRITICAL


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_a_group_without_a_limit_does_not_count(tmp_path: Path, limit: str) -> None:
    files = {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory.max": limit}
    assert memory(tmp_path, 900, **files).memory_pressure() is Pressure.NORMAL


def test_memory_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    assert Sensors(tree(tmp_path)).read().memory_pressure == Failed("FileNotFoundError")


HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
LOCAL = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
DEFAULT = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
ZEROS = "0" * 32
SIX = f"{ZEROS} 00 {ZEROS} 00 {'f' * 32} 00000400 00000002 00000000 00000003 "


@pytest.mark.parametrize(
    ("four", "six", "reachable"),
    [
        (HEAD + DEFAULT + LOCAL, "", True),
        (HEAD + LOCAL, "", False),
        (HEAD, SIX + "eth0\n", True),
        (HEAD, SIX + "lo\n", False),
        (HEAD + DEFAULT.replace("0003", "0002"), "", False),
    ],
)
def test_the_network_is_there_when_a_default_route_is_up(tmp_path: Path, four: str, six: str, reachable: bool) -> None:
    assert tree(tmp_path, proc__net__route=four, proc__net__ipv6_route=six).network() is reachable


def test_without_routing_tables_the_network_is_unknown(tmp_path: Path) -> None:
    assert isinstance(tree(tmp_path).network(), Unknown)


LINK = "sys__class__net__{}__uevent"


@pytest.mark.parametrize(
    ("four", "six"), [(HEAD + DEFAULT.replace("eth0", "wwan0"), ""), (HEAD, SIX + "wwan0\n")], ids=["IPv4", "IPv6"]
)
def test_a_mobile_modem_that_carries_the_default_route_is_metered(tmp_path: Path, four: str, six: str) -> None:
    modem = {LINK.format("wwan0"): "DEVTYPE=wwan\nINTERFACE=wwan0\n"}
    assert tree(tmp_path, proc__net__route=four, proc__net__ipv6_route=six, **modem).metered() is True


@pytest.mark.parametrize(("driver", "metered"), [("rndis_host", True), ("ipheth", True), ("r8152", False)])
def test_a_tethered_telephone_is_metered_and_a_network_card_is_not_known_to_be(
    tmp_path: Path, driver: str, metered: bool
) -> None:
    machine = tree(tmp_path, proc__net__route=HEAD + DEFAULT, sys__class__net__eth0__uevent="INTERFACE=eth0\n")
    (tmp_path / "sys/bus/usb/drivers" / driver).mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/device").mkdir()
    (tmp_path / "sys/class/net/eth0/device/driver").symlink_to(tmp_path / "sys/bus/usb/drivers" / driver)
    assert (machine.metered() is True) is metered
    assert metered or isinstance(machine.metered(), Unknown)


def test_a_modem_beside_the_default_route_costs_nothing(tmp_path: Path) -> None:
    files = {LINK.format("wwan0"): "DEVTYPE=wwan\n", "proc__net__route": HEAD + DEFAULT}
    assert isinstance(tree(tmp_path, **files).metered(), Unknown)


@pytest.mark.linux
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_this_machine_can_be_read_and_nothing_fails() -> None:
    found = sensors.read()
    assert isinstance(found, Readings)
    assert not [name for name in NAMES if isinstance(getattr(found, name), Failed)]
    assert isinstance(found.memory_pressure, Pressure)


CALLS = "socket,connect,sendto,sendmsg,sendmmsg,execve,clone,fork,vfork,clone3"
READ = "from device import sensors; import os; os.write(2, b'BEGIN'); print(sensors.read()); os.write(2, b'END')"
PLANTED = READ.replace("print(", "__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', 9)); print(")


def traced(program: str, path: Path) -> list[str]:
    """System calls between the two marks."""
    command = ["strace", "-f", "-o", str(path), "-e", f"trace={CALLS},write", sys.executable, "-c", program]
    subprocess.run(command, capture_output=True, check=True)
    lines = path.read_text().splitlines()
    first, last = (next(i for i, line in enumerate(lines) if mark in line) for mark in ('"BEGIN"', '"END"'))
    return [line for line in lines[first + 1 : last] if "write(1" not in line]


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_reading_opens_no_socket_and_starts_no_process(tmp_path: Path) -> None:
    assert traced(READ, tmp_path / "calm") == []
    assert any("sendto" in line for line in traced(PLANTED, tmp_path / "planted"))


# -- macOS, over the seam


class Seam:
    def __init__(self, *, low: bool = False, thermal: int = 0, pressure: int = 1, flags: int = 2) -> None:
        self.values = (low, thermal, pressure, flags)

    def low_power(self) -> bool:
        return bool(self.values[0])

    def thermal_state(self) -> int:
        return self.values[1]

    def pressure_level(self) -> int:
        return self.values[2]

    def reachability(self) -> int:
        return self.values[3]


def test_apples_steps_map_one_to_one() -> None:
    assert [Darwin(Seam(thermal=state)).thermal() for state in range(4)] == list(Thermal)
    assert [Darwin(Seam(pressure=level)).memory_pressure() for level in (1, 2, 4)] == list(Pressure)
    assert Darwin(Seam(low=True)).low_power() is True


@pytest.mark.parametrize(("flags", "reachable"), [(0, False), (2, True), (6, False), (2 | 1 << 16, True)])
def test_a_mac_is_on_the_network_when_reachable_without_a_further_connection(flags: int, reachable: bool) -> None:
    assert Darwin(Seam(flags=flags)).network() is reachable


def test_a_mac_does_not_say_whether_its_link_is_metered() -> None:
    assert isinstance(Darwin(Seam()).metered(), Unknown)


def test_a_value_apple_has_added_since_is_unknown() -> None:
    assert isinstance(Darwin(Seam(thermal=9)).thermal(), Unknown)
    assert isinstance(Darwin(Seam(pressure=3)).memory_pressure(), Unknown)


@pytest.mark.mac
@pytest.mark.skipif(sys.platform != "darwin", reason="mac: needs a Mac")
def test_a_real_mac_can_be_read_and_nothing_fails() -> None:
    found = sensors.read()
    assert not [name for name in NAMES if name != "metered" and isinstance(getattr(found, name), (Failed, Unknown))]
