"""The checks of ``hybrid doctor``. Each looks at this machine and returns a ``Check``; none uses the network."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from hybrid.cli.models import RECOMMENDED, STARTER_ID, Shelf
from hybrid.cli.render import size
from hybrid.errors import HybridError

Status = Literal["ok", "warn", "fail"]
NODE_PACKAGES = ("grpcio", "protobuf", "cryptography", "psutil")
LOW_DISK_BYTES = 2_000_000_000  # room for a 3B model and its staging copy
LOW_MEMORY_BYTES = 1_500_000_000  # the starter as f32, its context and the interpreter
LOW_BATTERY_PERCENT = 20.0
STARTER_WHY = "; the starter shows the machinery, it is not a clever model"
SENSED = ("low_power", "thermal", "memory_pressure", "network")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. what: what is there.  why: why it matters.  fix: a command or a sentence, empty when all is well."""

    name: str
    status: Status
    what: str
    why: str
    fix: str = ""


def run_checks() -> list[Check]:
    """Run every check; one that cannot run is itself a finding."""
    return [_guarded(name, check) for name, check in CHECKS.items()]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except HybridError as error:
        return Check(name=name, status="fail", what=str(error), why="this check could not finish", fix=error.hint)
    except Exception as error:  # noqa: BLE001 - a broken library must not hide the other findings
        what = f"{type(error).__name__}: {error}"
        return Check(name=name, status="fail", what=what, why="this check could not finish", fix="reinstall hybrid-pcc")


def _python() -> Check:
    wide = sys.maxsize > 2**32
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        name="python",
        status="ok" if wide else "fail",
        what=what,
        why="the engine runs on 64-bit Python 3.11 and newer",
        fix="" if wide else "install a 64-bit Python",
    )


def _mlx() -> Check:
    from hybrid.local import runtime_path

    path = runtime_path()
    fast = path.path != "cpu-slow"
    threads = f", {path.threads} threads" if path.threads else ""
    return Check(
        name="mlx path",
        status="ok" if fast else "warn",
        what=f"mlx {_version('mlx')}: {path.path}{threads}; {path.why}",
        why="it decides how fast answers on the device come",
        fix=path.faster_hint,
    )


def _store() -> Check:
    shelf = Shelf.open()
    models = shelf.installed()
    names = ", ".join(model.entry.id for model in models) or "empty"
    total = sum(model.size_bytes for model in models)
    return Check(
        name="store",
        status="ok" if models else "warn",
        what=f"{names} ({size(total)}) in {shelf.store.root}",
        why="the device answers with a model from here",
        fix="" if models else "hybrid pull starter",
    )


def _default_model() -> Check:
    default = Shelf.open().default()
    if default is None:
        what, fix = "none: the device cannot answer yet", "hybrid pull starter"
        return Check(name="default model", status="fail", what=what, why="nothing else can answer", fix=fix)
    starter = default.entry.id == STARTER_ID
    return Check(
        name="default model",
        status="warn" if starter else "ok",
        what=f"{default.entry.id}, {default.entry.context_tokens:,} tokens of context",
        why="it answers when none is named"
        + ("; the starter shows the machinery, it is not clever" if starter else ""),
        fix=f"hybrid pull {RECOMMENDED}" if starter else "",
    )


def _disk() -> Check:
    folder = _existing(Shelf.open().store.root)
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    low = free < LOW_DISK_BYTES
    return Check(
        name="disk",
        status="fail" if not writable else "warn" if low else "ok",
        what=f"{size(free)} free at {folder}" + ("" if writable else ", not writable"),
        why="a 3B model takes 1.7 GB, and as much again while it arrives",
        fix=f"make {folder} writable" if not writable else "hybrid list rm ID frees space" if low else "",
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    low = memory.available < LOW_MEMORY_BYTES
    return Check(
        name="memory",
        status="warn" if low else "ok",
        what=f"{size(memory.available)} of {size(memory.total)} available",
        why="a model and its context must fit",
        fix="close programs, or choose a smaller model: hybrid list" if low else "",
    )


def _node_packages() -> Check:
    missing = [name for name in NODE_PACKAGES if _version(name) == "missing"]
    if importlib.util.find_spec("pcc_server") is None:
        missing.append("pcc_server")
    what = ", ".join(f"{name} {_version(name)}" for name in NODE_PACKAGES)
    return Check(
        name="node packages",
        status="fail" if missing else "ok",
        what=what if not missing else f"missing: {', '.join(missing)}",
        why="sealing, and a private node of your own: hybrid chat --local-node",
        fix="python -m pip install --force-reinstall hybrid-pcc" if missing else "",
    )


def _log() -> Check:
    from hybrid.seen import LogMemory

    found = LogMemory(_memory_folder()).contradictions()
    return Check(
        name="log",
        status="fail" if found else "ok",
        what=f"{len(found)} contradiction(s), kept in {found[0].parent}" if found else "no contradiction was ever seen",
        why="a log that shows two histories hides something from somebody",
        fix="stop using that deployment, and show the files to its operator and witnesses" if found else "",
    )


def _nodes() -> Check:
    from hybrid.bias import judge
    from hybrid.shares import read_all

    books = read_all(_memory_folder())
    skews = [f"{name}: {skew.words}" for name, counts in books.items() for skew in judge(counts) if skew.alarm]
    total = sum(count.answered for counts in books.values() for count in counts.values())
    return Check(
        name="nodes",
        status="warn" if skews else "ok",
        what="; ".join(skews) or f"{total} private answers, no skew found among {len(books)} deployment(s)",
        why="answers that gather at one node are how steering shows; this says nothing about any node's privacy",
        fix="hybrid verify that deployment, and ask its operator" if skews else "",
    )


def _receipts() -> Check:
    from hybrid.receipts import ReceiptStore

    folder = _memory_folder()
    writable = os.access(_existing(folder), os.W_OK)
    return Check(
        name="receipts",
        status="ok" if writable else "warn",
        what=f"{len(ReceiptStore(folder).list())} kept in {folder}" + ("" if writable else ", not writable"),
        why="hybrid verify checks them again without a network; they hold no content",
        fix="" if writable else f"make {folder} writable, or set receipts = 'off'",
    )


def _memory_folder() -> Path:
    from hybrid.config import load
    from hybrid.state import default_folder

    return load().state or default_folder()


def _battery() -> Check:
    from hybrid.machine import readings

    now = readings()
    percent, mains = now.battery_percent, now.on_mains
    low = isinstance(percent, int | float) and percent < LOW_BATTERY_PERCENT and mains is not True
    others = ", ".join(
        f"{n.replace('_', ' ')} {_reading(getattr(now, n))}"
        for n in ("low_power", "thermal", "memory_pressure", "network")
    )
    return Check(
        name="readings",
        status="warn" if low else "ok",
        what=f"battery {_reading(percent)}, on mains {_reading(mains)}, {others}",
        why="an empty battery or a hot machine makes the node the better place",
        fix="plug it in" if low else "",
    )


def _reading(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f} %"
    if isinstance(value, str):
        return str(value)
    reason = getattr(value, "reason", "")
    return type(value).__name__.lower() + (f" ({reason})" if reason else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


CHECKS: dict[str, Callable[[], Check]] = {
    "python": _python,
    "mlx path": _mlx,
    "store": _store,
    "default model": _default_model,
    "disk": _disk,
    "memory": _memory,
    "node packages": _node_packages,
    "readings": _battery,
    "receipts": _receipts,
    "nodes": _nodes,
    "log": _log,
}
