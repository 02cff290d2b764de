"""Fatal signals to a process closed as the worker is: no core may appear. An open one must leave one (S3)."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path

from pcc_server.config import Settings
from pcc_server.events import Program

from . import trial
from .report import Check, Found, Row, Unseen, good, wrong

SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGQUIT)
CORES = Check("canary.cores", "no core file for any fatal signal", "a crash leaves a file with prompts and keys")


def row(settings: Settings) -> Row:
    """Try it: first the control."""
    return CORES.look(lambda: _tried(settings))


def _tried(settings: Settings) -> Found:
    canary = secrets.token_hex(16)
    try:
        with tempfile.TemporaryDirectory() as folder:
            control = dumped("die-open", settings, canary, Path(folder), SIGNALS[:1])
            holds = any(canary.encode() in file.read_bytes() for file in Path(folder).iterdir())
        with tempfile.TemporaryDirectory() as folder:
            found = dumped("die-closed", settings, canary, Path(folder), SIGNALS)
            files = [*Path(folder).iterdir()]
    except OSError as error:
        raise Unseen(f"the trial needs a folder to leave a core in: {error.strerror}") from None
    if found or files:
        return wrong(f"{', '.join(found) or 'a signal'} left a core")
    if not control:
        raise Unseen("an open process leaves no core here either: raise the hard core limit, or run the audit as root")
    return good(f"none for {len(SIGNALS)} signals; an open process left one{' with its canary' if holds else ''}")


def dumped(how: str, settings: Settings, canary: str, folder: Path, signals: tuple[signal.Signals, ...]) -> list[str]:
    """Start a process for each signal and send it; return the signals for which the kernel says it dumped a core."""
    begun = [trial.begin(how, Program.WORKER, settings, canary=canary, folder=folder) for _ in signals]
    found = []
    for process, number in zip(begun, signals, strict=True):
        if _dumps(process, number):
            found.append(number.name)
    return found


def _dumps(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    assert process.stdout is not None  # noqa: S101 - begin() asks for it
    try:
        told = process.stdout.readline()
        if "ready" not in _object(told):
            raise Unseen("the trial did not begin")
        process.send_signal(number)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        with contextlib.suppress(OSError):
            process.kill()
        process.communicate()
    return os.WIFSIGNALED(status) and os.WCOREDUMP(status)


def _object(line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
