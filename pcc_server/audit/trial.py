"""A process in the place of one of the node's: as open as this user is, or closed by the very same steps.

``python -m pcc_server.audit.trial HOW PROGRAM``, settings and a canary as one JSON line on stdin. HOW is ``open`` or
``closed`` (try every forbidden act and print what came of each), ``die-open`` or ``die-closed`` (hold the canary and
wait for a signal).
"""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pcc_server import harden
from pcc_server.config import Settings
from pcc_server.environment import environment
from pcc_server.errors import StartFailure
from pcc_server.events import Program
from pcc_server.harden.probe import PROBES

WAIT_S = 60
_SETTINGS, _CANARY = "settings", "canary"


def begin(
    how: str, program: Program, settings: Settings, *, canary: str = "", folder: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a trial, with the environment that the real process has. folder: where it stands."""
    words = [sys.executable, "-P", "-s", "-B", "-m", "pcc_server.audit.trial", how, program]
    pipe = subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603 - our own program
        words, env=environment(program), cwd=folder, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None  # noqa: S101 - asked for above
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps({_SETTINGS: settings.to_json(), _CANARY: canary}).encode() + b"\n")
        process.stdin.flush()
    return process


def main(argv: list[str]) -> None:
    """Run one trial."""
    how, program = argv[0], Program(argv[1])
    given = json.loads(sys.stdin.readline())
    settings = replace(Settings.from_json(given[_SETTINGS]), protect="available")  # what is missing is to be told
    if how.startswith("die"):
        _allow_cores()
    told = _closed(program, settings) if how.endswith("closed") else {"main": attempts()}
    if how.startswith("die"):
        told = {"ready": len(given[_CANARY])}
    print(json.dumps(told), flush=True)  # noqa: T201 - this is what it is for
    if how.startswith("die"):
        sys.stdin.readline()


def attempts() -> dict[str, str]:
    """Try every forbidden act; return name -> the error's name, empty where it succeeded."""
    return {name: _attempt(name) for name in PROBES}


def _attempt(name: str) -> str:
    try:
        PROBES[name]()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "unknown")
    return ""


def _closed(program: Program, settings: Settings) -> dict[str, Any]:
    """Close the sandbox, and try from the main thread and from one that was there before the filter."""
    found: dict[str, Any] = {}
    try:
        first = harden.stage1(program, settings)
        go, thread = threading.Event(), dict[str, str]()
        early = threading.Thread(target=lambda: (go.wait(), thread.update(attempts())))
        early.start()
        try:
            second = harden.stage2(program, settings)
            found["main"] = attempts()
        finally:
            go.set()
            early.join()
        found["thread"] = thread
        found["protection"] = {"first": asdict(first), "second": asdict(second)}
    except StartFailure as failure:
        found["failure"] = failure.message
    return found


def _allow_cores() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if os.geteuid() == 0:
        hard = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
