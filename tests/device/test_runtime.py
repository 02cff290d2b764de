import ast
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import device
from device.cores import usable_cores
from device.runtime import ThreadGuard

ROOT = Path(device.__file__).parent
MODULES = sorted(".".join(("device", *p.relative_to(ROOT).with_suffix("").parts)) for p in ROOT.rglob("*.py"))
SWITCHES = {"HF_HUB_OFFLINE", "MLX_DISABLE_COMPILE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
IMPORT_ALL = """
import importlib, json, os, sys, threading
before = dict(os.environ)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
heavy = [m for m in ("mlx", "mlx_lm", "transformers", "huggingface_hub") if m in sys.modules]
print(json.dumps([heavy, threading.active_count(), dict(os.environ) == before]))
"""
DESCRIBE = """
import json, os, resource, sys
{first}
from device import runtime
before = set(os.environ)
path = runtime.describe()
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
runtime.mlx_lm()
import mlx.core as mx
kept = resource.getrlimit(resource.RLIMIT_NOFILE) == limit
new = sorted(set(os.environ) - before)
print(json.dumps([path.path, path.why, path.faster_hint, path.threads, kept, new]))
"""


def _python(program: str, *arguments: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
        env={name: value for name, value in os.environ.items() if name not in SWITCHES},
    )
    value: list[object] = json.loads(done.stdout)
    return value


def test_importing_every_module_loads_nothing_heavy_and_changes_nothing() -> None:
    names = [name for name in MODULES if not name.endswith("__init__")]
    assert _python(IMPORT_ALL, json.dumps(names)) == [[], 1, True]


def test_the_import_check_sees_a_planted_import() -> None:
    assert _python(IMPORT_ALL, json.dumps(["device.fit", "mlx"])) == [["mlx"], 1, True]


def _mlx_imports(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return [name for name in names if name.split(".")[0] in {"mlx", "mlx_lm"}]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_mlx_past_the_door(path: Path) -> None:
    assert _mlx_imports(path.read_text("utf-8")) == []


def test_the_door_check_sees_a_planted_import() -> None:
    planted = (ROOT / "fit.py").read_text("utf-8") + "\ndef late() -> None:\n    import mlx.core\n"
    assert _mlx_imports(planted) == ["mlx.core"]


@pytest.mark.mlx
@pytest.mark.linux
def test_the_path_is_named_and_the_file_limit_survives() -> None:
    path, why, hint, threads, kept, new = _python(DESCRIBE.format(first=""))
    if path == "cpu-openblas":
        assert threads in {usable_cores(), usable_cores() - 1}
        assert hint == ""
    else:
        assert hint
        assert "no fast BLAS was found" in str(why)  # one that was loaded is used
    assert why
    assert kept is True
    assert set(new) == SWITCHES  # type: ignore[call-overload]


@pytest.mark.mlx
@pytest.mark.linux
def test_mlx_imported_by_somebody_else_is_slow_and_says_why() -> None:
    path, why, hint, *_ = _python(DESCRIBE.format(first="import mlx.core"))
    assert (path, why) == ("cpu-slow", "mlx was imported first")
    assert "LD_PRELOAD" in str(hint)


@pytest.mark.mlx
@pytest.mark.linux
def test_without_a_fast_library_the_path_is_slow_and_names_the_package() -> None:
    first = "from device import blas\nblas.OPENBLAS = blas.MKL = ()"
    path, _, hint, threads, *_ = _python(DESCRIBE.format(first=first))
    assert (path, threads) == ("cpu-slow", 0)
    assert "libopenblas0-pthread" in str(hint)


@pytest.mark.mlx
@pytest.mark.linux
def test_a_library_that_mlx_does_not_use_is_found_out() -> None:
    """A library loaded out of MLX's sight is mapped, yet computes nothing."""
    first = (
        "import ctypes\nfrom device import blas\n"
        "real = ctypes.CDLL\n"
        "blas._open = lambda name: None if 'mkl' in name or 'iomp' in name else real(name, mode=ctypes.RTLD_LOCAL)\n"
        "try:\n    real('libopenblas.so.0', mode=ctypes.RTLD_LOCAL)\n"
        'except OSError:\n    print(\'["cpu-slow", "does not use it", "", 0, true, []]\'); sys.exit()\n'
    )
    path, why, *_ = _python(DESCRIBE.format(first=first))
    assert path == "cpu-slow"
    assert "does not use it" in str(why)


def _system(tmp_path: Path, siblings: list[str]) -> Path:
    for cpu, text in enumerate(siblings):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return tmp_path


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cores._affinity", lambda: [0, 1, 2, 3])
    system = _system(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert usable_cores(system=system, quota_files=()) == 2


def test_a_quota_bounds_the_cores_in_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.cores._affinity", lambda: list(range(8)))
    two, one = tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"
    two.write_text("250000 100000\n")
    assert usable_cores(system=tmp_path, quota_files=[two]) == 2
    one.write_text("50000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(system=tmp_path, quota_files=[one]) == 1
    two.write_text("max 100000\n")
    assert usable_cores(system=tmp_path, quota_files=[two]) == 8


def test_the_guard_refuses_every_other_thread() -> None:
    guard, caught = ThreadGuard(), []

    def check() -> None:
        try:
            guard.check()
        except RuntimeError as error:
            caught.append(error)

    guard.check()
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert len(caught) == 1
