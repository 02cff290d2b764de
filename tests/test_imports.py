"""Importing does nothing: no heavy library, no thread, no file of ours opened, no environment read."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("mlx", "mlx_lm", "grpc", "numpy", "transformers", "pydantic", "huggingface_hub", "icalendar", "tokenizers")
ASK = """
import hybrid
from hybrid.testing import FakeEngine
with hybrid.Client(engine=FakeEngine()) as client:
    client.explain("plan step by step")
    client.ask("hello")
"""


def loaded_after(program: str, *, root: Path = ROOT) -> set[str]:
    """Run a program in a fresh interpreter and return the top-level modules it has loaded."""
    end = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    words = [sys.executable, "-c", program + end]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["hybrid", "hybrid.cli", "hybrid.client", "hybrid.aio", "device", "hybrid.testing"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}") & set(HEAVY) == set()


def test_import_hybrid_loads_one_module_of_ours() -> None:
    program = "import hybrid, sys; assert [n for n in sys.modules if n.startswith('hybrid')] == ['hybrid']"
    assert "hybrid" in loaded_after(program)


def test_asking_a_fake_engine_and_explaining_load_neither_mlx_nor_grpc() -> None:
    assert loaded_after(ASK) & {"mlx", "mlx_lm", "grpc", "numpy", "transformers", "pydantic"} == set()


def test_an_import_starts_no_thread_and_reads_no_environment() -> None:
    program = """
import os, threading
class Closed(dict):
    def _look(self, key, other=None):
        assert not key.startswith(("HYBRID", "PCC")), "read " + key
        return other
    get = __getitem__ = _look
    __contains__ = lambda self, key: bool(self._look(key))
kept, os.environ = os.environ, Closed()
import hybrid, hybrid.client, hybrid.aio, hybrid.config
os.environ = kept
assert threading.active_count() == 1
"""
    assert "hybrid" in loaded_after(program)


def test_the_check_notices_an_eager_import(tmp_path: Path) -> None:
    copy = tmp_path / "hybrid"
    copy.mkdir()
    (copy / "__init__.py").write_text("import numpy\n" + (ROOT / "hybrid" / "__init__.py").read_text())
    assert "numpy" in loaded_after("import hybrid", root=tmp_path)


@pytest.mark.parametrize("name", ["device.py", "device/__init__.py"])
def test_a_foreign_device_module_is_named_and_not_executed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("print('executed')\n")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from hybrid.client import Client
from hybrid.errors import ConfigurationError
try:
    Client().ask("hi")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    )
    assert "executed" not in done.stdout
    assert "device" in done.stdout
    assert "stands before" in done.stdout
