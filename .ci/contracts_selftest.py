"""Break each import contract once in a copy of the tree; lint-imports must say BROKEN each time."""

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINT = Path(sys.executable).with_name("lint-imports")
# contract name's beginning -> file, and the import to plant in it
PLANTS = {
    "floors": ("device/errors.py", "import hybrid.client"),
    "wire does no I/O": ("hybrid/wire/codec.py", "import socket"),
    "inside hybrid": ("hybrid/errors.py", "import hybrid.client"),
    "routing, trust, core": ("hybrid/routing/decide.py", "import threading"),
    "the node imports": ("pcc_server/worker.py", "import hybrid.errors"),
    "the SDK never": ("hybrid/core.py", "import pcc_server.config"),
    "grpc has four doors": ("hybrid/exchange.py", "import grpc"),
    "device has four doors": ("hybrid/client.py", "import device.engine"),
    "nobody inside": ("pcc_server/worker.py", "from hybrid import Client"),
}


def broken(plant: tuple[str, tuple[str, str]]) -> tuple[str, bool]:
    contract, (file, line) = plant
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for package in ("hybrid", "device", "pcc_server"):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        target = copy / file
        target.write_text(f"{target.read_text()}\n{line}\n")
        run = subprocess.run(
            [LINT, "--no-cache"], cwd=copy, env={"PYTHONPATH": folder}, capture_output=True, text=True, check=False
        )
    hit = [row for row in run.stdout.splitlines() if row.startswith(contract) and " BROKEN" in row]
    return contract, bool(hit)


def main() -> int:
    with ThreadPoolExecutor(max_workers=2) as pool:
        blind = [name for name, hit in pool.map(broken, PLANTS.items()) if not hit]
    for name in blind:
        print(f"contract did not notice a planted import: {name}", file=sys.stderr)
    print(f"contracts broken on purpose and noticed: {len(PLANTS) - len(blind)} of {len(PLANTS)}")
    return 1 if blind else 0


if __name__ == "__main__":
    raise SystemExit(main())
