"""What gateway and worker have in common: how a child begins, keeps quiet, and ends with its launcher."""

import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import control, events, harden
from .config import Settings
from .errors import StartFailure
from .events import Program

_PR_SET_PDEATHSIG = 1
FAULT_EXIT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the launcher gave this process: two ends of socketpairs and the settings."""

    link_fd: int
    control: socket.socket
    settings: Settings
    protection: harden.Protection


def begin(program: Program, argv: list[str]) -> Inherited:
    """Tie this process to its launcher, read its settings and give up what it will not need.

    argv: link fd, control fd, pid of the launcher. Called before anything heavy is imported.
    """
    link_fd, control_fd, parent = (int(word) for word in argv)
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # the launcher's to answer, also when a service manager tells all
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold prompts and keys
    end = socket.socket(fileno=control_fd)
    settings = Settings.from_json(_first_line(end)["settings"])
    try:
        protection = harden.stage1(program, settings)
    except StartFailure as failure:
        control.write(end, failed={"exit_code": failure.exit_code, "message": failure.message})
        os._exit(FAULT_EXIT)
    return Inherited(link_fd=link_fd, control=end, settings=settings, protection=protection)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the launcher ends; where it cannot, the control socket's end does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(FAULT_EXIT)


def _first_line(end: socket.socket) -> dict[str, Any]:
    lines = control.Lines()
    while data := end.recv(65_536):
        for message in control.messages(lines.push(data)):
            return message
    os._exit(FAULT_EXIT)


def silence() -> None:
    """Close every door through which a library could say what it holds: loggers, and hooks that print tracebacks."""
    import logging  # asyncio and the model libraries bring it anyway; here it is switched off, never used

    logging.disable(logging.CRITICAL)
    sys.excepthook = _hook
    sys.unraisablehook = lambda unraisable: _report(unraisable.exc_value)
    threading.excepthook = lambda hooked: _report(hooked.exc_value)


def _hook(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    _report(error)


def _report(error: BaseException | None) -> None:
    if error is not None:
        events.fault(error)


def run(inherited: Inherited, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a child's coroutine; tell the launcher in one sentence when it cannot start."""
    try:
        asyncio.run(_quietly(main))
    except StartFailure as failure:
        control.write(inherited.control, failed={"exit_code": failure.exit_code, "message": failure.message})
    except Exception as error:  # noqa: BLE001 - its class and line, never its message
        events.fault(error)
        os._exit(FAULT_EXIT)


async def _quietly(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: _report(context.get("exception")))
    await main()


def on_control(end: socket.socket, message: Callable[[dict[str, Any]], None], ended: Callable[[], None]) -> None:
    """Call ``message`` for what the launcher says, ``ended`` when it is gone. Needs a running loop."""
    loop, lines = asyncio.get_running_loop(), control.Lines()
    end.setblocking(False)  # noqa: FBT003 - the signature of the standard library

    def ready() -> None:
        data = end.recv(65_536)
        for one in control.messages(lines.push(data)):
            message(one)
        if not data:
            loop.remove_reader(end)
            ended()

    loop.add_reader(end, ready)
