"""Every example runs as it is shipped, as a program of its own, and is short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LINES = 40
ON_THE_STARTER = {
    "ask.py": ("Paris", "route: on_device", "left the device: nothing"),
    "stream.py": ("[on_device]", "tokens"),
    "explain.py": ("on_device: score", "threshold"),
    "device_only.py": ("made from: ", "as far as: on_device"),
}


def has_starter() -> bool:
    from hybrid.errors import UnavailableError
    from hybrid.local import DeviceModel

    try:
        return DeviceModel.find("starter") is not None
    except UnavailableError:
        return False


def output(name: str, *words: str, home: Path) -> str:
    """Run an example with settings of nobody and the models of this machine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HYBRID_")} | {"XDG_CONFIG_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=home,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
@pytest.mark.skipif(not has_starter(), reason="the starter is not in the store: hybrid pull starter")
@pytest.mark.parametrize("name", list(ON_THE_STARTER))
def test_an_example_on_the_starter(name: str, tmp_path: Path) -> None:
    text = output(name, home=tmp_path)
    for words in ON_THE_STARTER[name]:
        assert words in text


def test_the_own_node_example_with_the_fake_engine(tmp_path: Path) -> None:
    text = output("own_node.py", "fake", home=tmp_path)
    assert "NOT private from the operator" in text
    assert "from: prompt" in text


@pytest.mark.model
@pytest.mark.skipif(not has_starter(), reason="the starter is not in the store: hybrid pull starter")
def test_the_own_node_example_with_the_starter(tmp_path: Path) -> None:
    assert "tier 0" in output("own_node.py", home=tmp_path)


@pytest.mark.parametrize("name", [*ON_THE_STARTER, "own_node.py"])
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < LINES
