"""What gateway and worker have in common: how a child begins, keeps quiet, and ends with its launcher."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from . import control, events, harden
from .audit import own
from .config import Settings
from .errors import StartFailure
from .events import Event, Phase, Program

_PR_SET_PDEATHSIG = 1
FAULT_EXIT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the launcher gave this process: two ends of socketpairs, the settings, and what goes with them.

    extra: of the worker's line: ``signer`` (seed of the directory signer, hexadecimal) and ``after`` (epochs and
    the numbers that directories of this node used last in them).
    """

    link_fd: int
    control: socket.socket
    settings: Settings
    protection: harden.Protection
    extra: dict[str, Any] = field(default_factory=dict, repr=False)


def begin(program: Program, argv: list[str]) -> Inherited:
    """Tie this process to its launcher, read its settings and give up what it will not need.

    argv: link fd, control fd, pid of the launcher. Called before anything heavy is imported.
    """
    link_fd, control_fd, parent = (int(word) for word in argv)
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the launcher's, also when all are told
        signal.signal(number, signal.SIG_IGN)
    harden.hide()  # before the first line: it may bring a secret
    end = socket.socket(fileno=control_fd)
    extra = _first_line(end)
    settings = Settings.from_json(extra.pop("settings"))
    try:
        protection = harden.stage1(program, settings)
    except StartFailure as failure:
        control.write(end, failed={"exit_code": failure.exit_code, "message": failure.message})
        os._exit(FAULT_EXIT)
    return Inherited(link_fd=link_fd, control=end, settings=settings, protection=protection, extra=extra)


def close_sandbox(inherited: Inherited, program: Program) -> None:
    """Forbid what only loading or binding needed, and tell the launcher what holds. Raises StartFailure."""
    before, after = inherited.protection, harden.stage2(program, inherited.settings)
    told: dict[str, Any] = {"held": [*before.held, *after.held], "missing": {**before.missing, **after.missing}}
    told |= own.describe()
    control.write(inherited.control, protection=told)


def die_with(parent: int) -> None:
    """Have the kernel end this process when the launcher ends; where it cannot, the control socket's end does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(FAULT_EXIT)


def _first_line(end: socket.socket) -> dict[str, Any]:
    with end.makefile("rb", buffering=0) as lines:  # unbuffered: what follows may carry a descriptor
        for message in control.messages([lines.readline(control.MAX_LINE_BYTES)]):
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


def enter(end: socket.socket, phase: Phase, pct: int = 0) -> None:
    """Tell the launcher of a phase of the start-up, or of progress within it. pct: 0 to 100; any thread may call it."""
    control.write(end, phase=phase.value, pct=pct)
    if not pct:
        events.emit(Event.PHASE, phase=phase)


def run(inherited: Inherited, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a child's coroutine; tell the launcher in one sentence when it cannot start."""
    try:
        asyncio.run(_quietly(main))
    except StartFailure as failure:
        control.write(inherited.control, failed={"exit_code": failure.exit_code, "message": failure.message})
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its class and line, never its message
        events.fault(error)
        os._exit(FAULT_EXIT)


async def _quietly(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: _report(context.get("exception")))
    await main()


def on_control(end: socket.socket, message: Callable[[dict[str, Any]], None], ended: Callable[[], None]) -> None:
    """Call ``message`` for what the launcher says, ``ended`` when it is gone. Needs a running loop.

    A message that brought a descriptor has it as ``message["fd"]``; whoever takes the message closes it.
    """
    loop, inbox = asyncio.get_running_loop(), control.Inbox(end)
    end.setblocking(False)  # noqa: FBT003 - the signature of the standard library

    def ready() -> None:
        try:
            told = list(inbox.read())
        except EOFError:
            loop.remove_reader(end)
            ended()
            return
        except Exception as error:  # noqa: BLE001 - which descriptor belongs to which message is not known any more
            events.fault(error)
            os._exit(FAULT_EXIT)
        for one in told:
            try:
                message(one)
            except Exception as error:  # noqa: BLE001 - the messages behind it count, too
                events.fault(error)

    loop.add_reader(end, ready)
