"""What the packages import is what pyproject declares, both ways."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = {"hybrid", "device", "pcc_server"}
# distribution -> the module it brings, where the names differ
MODULES = {
    "grpcio": "grpc",
    "mlx-lm": "mlx_lm",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "recurring-ical-events": "recurring_ical_events",
}
# brought by a declared dependency that is never used without it
COMPANIONS = {"transformers": "mlx_lm", "tqdm": "huggingface_hub"}


def named(node: ast.AST) -> list[str]:
    """List the modules that one statement or one ``import_module`` call names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
        return [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant) and part.value]
    return []


def imported() -> set[str]:
    files = (file for package in OURS for file in (ROOT / package).rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    names = {name.split(".")[0] for node in nodes for name in named(node) if name[0] != "."}
    return {name for name in names if name} - OURS - set(sys.stdlib_module_names)


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
