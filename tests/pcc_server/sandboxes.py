"""Helpers of the sandbox tests: disposable hosts, nodes with other children, an unprivileged user, what threads say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pcc_server.environment import environment
from tests.pcc_server.node_client import COMMAND

HOST = Path(__file__).with_name("sandbox_host.py")
NOBODY, OTHER = 65_534, 65_533  # users that own nothing here
# Read from outside: no process says more about itself than the kernel does.
FIELDS = ("Seccomp", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
CONFINED = {"Seccomp": "2", "NoNewPrivs": "1", **dict.fromkeys(FIELDS[2:], "0" * 16)}


def need_root() -> None:
    """Say plainly what is missing: the kernel shows a confined process to nobody else."""
    assert os.geteuid() == 0, "run these tests as root: they look into processes that refuse everybody else"


def host(program: str, what: str, *, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``sandbox_host.py`` as a child of the node would be run."""
    scrubbing = {**environment("worker"), "PYTHONPATH": str(Path.cwd())}
    words = [*before, sys.executable, "-P", "-s", "-B", str(HOST), program, what]
    return subprocess.run(words, env=scrubbing, capture_output=True, text=True, check=False, timeout=60)


def told(program: str, what: str) -> dict[str, Any]:
    """Return the object that a host prints."""
    done = host(program, what)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def threads(pid: int) -> list[dict[str, str]]:
    """Return what the kernel says about every thread of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        found.append({name: lines[name] for name in FIELDS})
    return found


def filters(pid: int) -> set[int]:
    """Return how many filters lie over each thread of a process."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {int(status.partition("Seccomp_filters:")[2].split()[0]) for status in statuses}


def with_children(code: str, *, launcher: str = "") -> tuple[str, ...]:
    """Words that start a node whose gateway and worker run ``code`` and then their own program.

    In ``code`` the name ``program`` is ``gateway`` or ``worker``.  launcher: code that the launcher runs first.
    """
    child = (
        "import runpy, sys\n"
        "program = sys.argv.pop(1).rpartition('.')[2]\n"
        f"{code}\n"
        "runpy.run_module(f'pcc_server.{program}', None, '__main__')"
    )
    patched = (
        "import subprocess, pcc_server.process as process\n"
        f"real, child = subprocess.Popen, {child!r}\n"
        "def start(words, **more):\n"
        "    at = words.index('-m')\n"
        "    return real([*words[:at], '-c', child, *words[at + 1:]], **more)\n"
        "process.subprocess.Popen = start\n"
        f"{launcher}\n"
        "from pcc_server.cli import main; main()"
    )
    return (sys.executable, "-P", "-c", patched)


def as_user(number: int, *words: str) -> tuple[str, ...]:
    """Words that run a program as a user without rights, in a view of the files that lets it reach our interpreter."""
    opened = "".join(_opening(folder, kept) for folder, kept in _blocked())
    script = f'set -e; {opened}exec setpriv --reuid {number} --regid {number} --clear-groups "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh", *words)


def _blocked() -> set[tuple[Path, Path]]:
    """Folders that only their owner may pass, with what in them leads to interpreter and packages."""
    found = set()
    for way in (Path(sys.executable), Path(sys.executable).resolve(), Path.cwd() / "pcc_server"):
        folders = [folder for folder in reversed(way.parents) if not folder.stat().st_mode & 0o001]
        found |= {(folders[0], folders[0] / way.relative_to(folders[0]).parts[0])} if folders else set()
    return found


def _opening(folder: Path, kept: Path) -> str:
    """Commands that put an empty folder in place of one, with one thing of it."""
    return (
        f"aside=$(mktemp -d); mount --bind {kept} $aside; mount -t tmpfs -o mode=755 none {folder}; mkdir -p {kept}; "
        f"mount --move $aside {kept}; rmdir $aside; "
    )


def command_as(number: int) -> tuple[str, ...]:
    """Words that start a node as such a user."""
    return as_user(number, *COMMAND)
