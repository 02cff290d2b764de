"""The one place where a failure becomes a sentence, a hint and an exit code.

No message here ever holds prompt or answer text: what is not ours is named by its type alone.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import click

from hybrid.cli.terminal import safe, talk
from hybrid.errors import HybridError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def guarded(call: Callable[[], Any]) -> int:
    """Run a command and return its exit code; what click raises to end it passes through."""
    code = _code_of(call)
    if code == EXIT_INTERRUPTED:
        next_one_kills()
    return code


def next_one_kills() -> None:
    """Let one more Ctrl-C end the process at once, instead of leaving a clean-up half-way; a private node notices."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _code_of(call: Callable[[], Any]) -> int:
    try:
        return int(call() or 0)
    except click.UsageError as error:
        return misused(error)
    except (click.exceptions.Exit, click.ClickException):
        raise
    except (KeyboardInterrupt, click.Abort):
        talk("stopped")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _failed(error)


def _failed(error: Exception) -> int:
    if isinstance(error, HybridError):
        return report(error)
    if isinstance(error, BrokenPipeError):
        return hush()
    if isinstance(error, OSError):
        where = f": {safe(str(error.filename))}" if error.filename else ""
        talk(f"error: {error.strerror or type(error).__name__}{where}")
        return EXIT_ERROR
    return crash(error)


def report(error: HybridError) -> int:
    """Say what happened and what to do; return the error's exit code."""
    talk(f"error: {safe(str(error))}")
    if error.hint:
        talk(f"hint: {safe(error.hint)}")
    return error.exit_code


def misused(error: click.UsageError) -> int:
    """Say what is wrong with the words of the command line, and where its options are listed."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        talk(safe(error.format_message()))
        return error.exit_code
    message = safe(error.format_message()).rstrip(".")
    talk(f"error: {message[:1].lower()}{message[1:]}")
    if error.ctx is not None:
        talk(f"hint: {error.ctx.command_path} --help lists what it takes")
    return error.exit_code


def crash(error: Exception) -> int:
    """Say that this is a defect, without the traceback: its values could hold what was asked."""
    if os.environ.get("HYBRID_DEBUG") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
        return EXIT_ERROR
    talk(f"error: something went wrong inside hybrid ({type(error).__name__})")
    talk("hint: HYBRID_DEBUG=1 shows the traceback, which may hold parts of what you asked")
    return EXIT_ERROR


def hush() -> int:
    """End quietly when the reader of our output has gone: it has had what it wanted.

    Points stdout at the null device, since Python flushes it once more on its way out.
    """
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is no real file, or closed
        pass
    return 0
