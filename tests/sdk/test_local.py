"""The door to the device: what readings mean, and what happens when the engine isn't there."""

import asyncio
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device.sensors import Absent, Failed, Pressure, Readings, Thermal, Unknown
from hybrid.client import Client
from hybrid.errors import ConfigurationError, NoRouteError, UnavailableError
from hybrid.local import DeviceModel, open_store, runtime_path
from hybrid.machine import machine_signals
from hybrid.routing.signals import WORST_BATTERY, WORST_MEMORY, WORST_THERMAL, MemoryPressure
from hybrid.sources import Source
from hybrid.testing import FakeEngine
from tests.support import HARD, Bench

NAMES = ("battery_percent", "on_mains", "low_power", "thermal", "memory_pressure", "network", "metered")


def read(**changes: Any) -> Readings:
    quiet: dict[str, Any] = dict.fromkeys(NAMES, Absent())
    return Readings(**{**quiet, **changes})


@pytest.mark.parametrize("nothing", [Absent(), Unknown("not here")])
def test_a_sensor_that_is_not_there_is_neutral(nothing: Absent | Unknown) -> None:
    signals = machine_signals(Readings(**dict.fromkeys(NAMES, nothing)))  # type: ignore[arg-type]
    assert (signals.battery, signals.on_mains, signals.low_power, signals.offline) == (None, True, False, False)
    assert signals.metered is False
    assert (signals.thermal, signals.memory) == ("nominal", "normal")


def test_a_reading_that_failed_takes_its_worst_soft_value() -> None:
    signals = machine_signals(Readings(**dict.fromkeys(NAMES, Failed("OSError"))))  # type: ignore[arg-type]
    assert (signals.battery, signals.thermal, signals.memory) == (WORST_BATTERY, WORST_THERMAL, WORST_MEMORY)
    assert (signals.on_mains, signals.low_power, signals.offline, signals.metered) == (False, True, True, True)


def test_readings_become_plain_numbers() -> None:
    signals = machine_signals(
        read(battery_percent=42.0, on_mains=False, thermal=Thermal.SERIOUS, memory_pressure=Pressure.WARN, network=True)
    )
    assert (signals.battery, signals.on_mains, signals.offline) == (0.42, False, False)
    assert (signals.thermal, signals.memory) == ("serious", MemoryPressure.WARNING)


def test_every_step_of_heat_and_pressure_has_its_word() -> None:
    assert [machine_signals(read(thermal=step)).thermal for step in Thermal] == list(map(str, Thermal))
    steps = [machine_signals(read(memory_pressure=step)).memory for step in Pressure]
    assert steps == list(MemoryPressure)


def test_without_mlx_the_device_is_unavailable_and_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if open_store().default(is_mac=False) is None:
        pytest.skip("the starter is not in the store: hybrid pull starter")
    monkeypatch.setitem(sys.modules, "mlx", None)
    with pytest.raises(UnavailableError) as caught:
        DeviceModel.find("starter")
    assert (caught.value.reason, caught.value.exit_code) == ("engine_missing", 4)
    assert "install" in caught.value.hint
    bench, held = Bench(), Source.text("canary", max_route="on_device")
    with Client(transport=bench.node, trust=bench.node.policy) as client:
        with pytest.raises(NoRouteError) as refused:
            client.ask(HARD, sources=[held])
        assert client.ask(HARD).route == "private_cloud"
    assert refused.value.per_route["on_device"] == "engine_missing"
    assert "canary" not in bench.node_read


def test_a_model_that_is_known_and_absent_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        DeviceModel.find("starter", tmp_path)
    assert caught.value.hint.startswith("hybrid pull smollm2-135m")


def test_an_unknown_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="starter"):
        DeviceModel.find("starterr", tmp_path)


def test_catalogue_and_runtime_answer_without_a_model() -> None:
    assert open_store().known.find("starter").id == "smollm2-135m"
    assert runtime_path().why


def test_a_client_closed_while_its_model_loads_keeps_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, began, go = [], threading.Event(), threading.Event()

    def slowly(_: DeviceModel) -> FakeEngine:
        began.set()
        assert go.wait(10)
        opened.append(FakeEngine())
        return opened[0]

    async def close_in_between(model: DeviceModel) -> None:
        load = asyncio.create_task(model.load())
        await asyncio.to_thread(began.wait)
        load.cancel()
        closing = asyncio.create_task(model.close())
        await asyncio.sleep(0.05)
        go.set()
        await closing
        with pytest.raises(ConfigurationError, match="closed"):
            await model.load()

    monkeypatch.setattr(DeviceModel, "_opened", slowly)
    entry = SimpleNamespace(id="tiny", context_tokens=1)
    model = DeviceModel(None, SimpleNamespace(path=Path("nowhere"), entry=entry))  # type: ignore[arg-type]
    asyncio.run(close_in_between(model))
    assert [engine.closed for engine in opened] == [True]
    assert not any(key.model_id == "tiny" for key in DeviceModel._open)
