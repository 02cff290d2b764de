"""The demo of ``make demo``: its items over a scripted device and a node in memory, and whole with real parts."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from hybrid.errors import IntegrityError
from hybrid.testing import FakeEngine
from tests.cli.scenes import Scene, node_scene

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples/demo.py"
REAL = dict(os.environ)  # before any fixture: the real home, with its model store
ITEMS = tomllib.loads((ROOT / "examples/data/demo.toml").read_text())["item"]


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(demo: ModuleType, scene: Scene) -> int:
    with scene.client() as client:
        return int(demo.run_items(client))


def test_four_answers_each_on_the_route_it_must_take(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    scene = node_scene()
    assert scene.node is not None
    assert run(demo, scene) == 0
    shown = capsys.readouterr().out
    assert len(scene.device.requests) == 3
    assert len(scene.node.requests) == 1
    assert "4 of 4 answered" in shown
    assert all(item["title"] in shown and item["question"] in shown for item in ITEMS)


def test_under_an_answer_made_from_a_source_stand_its_lines(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    run(demo, node_scene())
    shown = capsys.readouterr().out
    for line in ("| Dear Jonas,", "| Dear Tomas,", "Dinner with Amara"):
        assert line in shown
    assert shown.count("may travel no farther than on_device") == 3


def test_the_hand_over_shows_bytes_node_and_tier(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    run(demo, node_scene())
    shown = capsys.readouterr().out
    assert re.search(r"left this device, sealed: [\d,]+ bytes", shown)
    assert "tier 0 software, NOT private from the operator" in shown
    assert "checks passed before anything was sent" in shown


def test_mail_and_calendar_never_reach_the_node(demo: ModuleType) -> None:
    scene = node_scene()
    assert scene.node is not None
    run(demo, scene)
    sent = " ".join(m.content for request in scene.node.requests for m in request.messages)
    assert "birthday party" in sent
    assert not any(word in sent for word in ("Jonas", "Tomas", "Amara"))


def test_a_node_that_is_gone_is_said_and_fails_the_demo(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo, node_scene("no_directory")) == 1
    shown = capsys.readouterr().out
    assert "no answer in the private cloud (node unreachable); answered on the device instead" in shown
    assert "3 of 4 answered" in shown


def test_a_node_that_is_cut_off_in_mid_answer_ends_the_demo_with_an_error(demo: ModuleType) -> None:
    with pytest.raises(IntegrityError):
        run(demo, node_scene("cut_stream"))


def test_a_device_that_answers_with_nothing_of_use_changes_no_route(demo: ModuleType) -> None:
    scene = node_scene()
    scene.device = FakeEngine([""])
    assert run(demo, scene) == 0


def start_demo(env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, FILE],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_with_a_fake_engine_it_runs_whole_without_any_model() -> None:
    done = start_demo({**os.environ, "ENGINE": "fake"})
    assert done.returncode == 0, done.stderr
    assert "4 of 4 answered" in done.stdout


@pytest.mark.slow
@pytest.mark.model
def test_with_the_starter_it_runs_whole_and_asks_nothing() -> None:
    show = [sys.executable, "-c", "from hybrid.cli import main; main()", "list", "show", "starter"]
    if subprocess.run(show, env=REAL, capture_output=True, check=False).returncode:
        pytest.skip("the starter model is not in the store: hybrid pull starter")
    done = start_demo(REAL)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 answered" in done.stdout
    assert "not a clever" in done.stdout
