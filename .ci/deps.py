"""What the packages import is what pyproject declares, both ways."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = {"hybrid", "device", "pcc_server"}
# distribution -> the module it brings, where the names differ
MODULES = {"grpcio": "grpc", "protobuf": "google", "mlx-lm": "mlx_lm", "recurring-ical-events": "recurring_ical_events"}
# brought by a declared dependency that is never used without it
COMPANIONS = {"transformers": "mlx_lm", "tqdm": "huggingface_hub"}


def imported() -> set[str]:
    found: set[str] = set()
    for file in (f for package in OURS for f in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def declared() -> set[str]:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in lines}
    return {MODULES.get(name, name) for name in names}


def main() -> int:
    used, said = imported(), declared()
    used = {COMPANIONS.get(name, name) for name in used}
    for name in sorted(used - said):
        print(f"imported but not declared: {name}", file=sys.stderr)
    for name in sorted(said - used):
        print(f"declared but not imported: {name}", file=sys.stderr)
    return 1 if used ^ said else 0


if __name__ == "__main__":
    raise SystemExit(main())
