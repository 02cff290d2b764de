"""The node's only logger: an event from a fixed list and bounded numbers, one JSON line on stderr.

The type has no room for text, so content cannot get in. The launcher repeats only lines that ``parse`` accepts and
counts the rest, so what a library prints in a child process goes nowhere either (node design 3.10).
"""

import builtins
import json
import os
import re
from collections.abc import Mapping
from enum import Enum, StrEnum
from types import TracebackType

from hybrid.wire.errors import ErrorCode, SealedCode

MAX_FIELDS = 12
MAX_NUMBER = 2**53  # what JSON readers keep exactly
MAX_LINE = 1024  # below PIPE_BUF on every system we run on, so that one write is one line
FOREIGN = "foreign"
_FIELD = re.compile(r"[a-z][a-z_]{0,23}")
_MODULE = re.compile(r"(pcc_server|device|hybrid\.wire)(\.[a-z_0-9]{1,32}){0,3}")


class Event(StrEnum):
    """Everything the node ever says about itself while it runs."""

    PHASE = "phase"
    PUBLISHED = "published"
    REQUEST = "request"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAULT = "fault"
    LINK_LOST = "link_lost"
    WORKER_SILENT = "worker_silent"
    DRAINING = "draining"
    CHILD_ENDED = "child_ended"
    STRAY_OUTPUT = "stray_output"
    NODE_LISTED = "node_listed"
    NODE_LEFT_OUT = "node_left_out"
    HANDED_OVER = "handed_over"
    DIRECTORY = "directory"
    LOG_FAILED = "log_failed"
    WITNESS_SILENT = "witness_silent"
    ACCESS_FILE = "access_file"
    KEYS_CHANGED = "keys_changed"
    PLANNED = "planned"
    CERTIFICATES = "certificates"
    CHILD_STARTED = "child_started"
    CHILD_STALLED = "child_stalled"
    GIVEN_UP = "given_up"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload_refused"


class Phase(StrEnum):
    """Where a start-up, or an end, has got to."""

    INIT = "init"
    VERIFY_WEIGHTS = "verify_weights"
    LOAD = "load"
    WARMUP = "warmup"
    ATTEST = "attest"
    READY = "ready"
    DRAINING = "draining"
    DEGRADED = "degraded"
    STOPPED = "stopped"


class Program(StrEnum):
    """The node's processes."""

    LAUNCHER = "launcher"
    GATEWAY = "gateway"
    WORKER = "worker"


_OURS = {member.name for kind in (ErrorCode, SealedCode, Phase, Program) for member in kind}
_WORDS = _OURS | {FOREIGN} | {name for name, value in vars(builtins).items() if isinstance(value, type)}
_NAMES = frozenset(event.value for event in Event)


def emit(event: Event, **fields: int | Enum) -> None:
    """Write one line. fields: at most 12 integers, or members of our own enums (their names are shown).

    A closed stderr is no reason to stop serving.
    """
    _write(_line(event, {name: value.name if isinstance(value, Enum) else value for name, value in fields.items()}))


def fault(error: BaseException) -> None:
    """Write where an unexpected error came from: built-in class, module and line of ours, never its message."""
    kind = type(error).__name__ if vars(builtins).get(type(error).__name__) is type(error) else FOREIGN
    module, line = _origin(error.__traceback__)
    _write(_line(Event.FAULT, {"kind": kind, "module": module, "line": line}))


def _origin(trace: TracebackType | None) -> tuple[str, int]:
    module, line = FOREIGN, 0
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if _MODULE.fullmatch(name):
            module, line = name, trace.tb_lineno
        trace = trace.tb_next
    return module, line


def _line(event: Event, fields: Mapping[str, int | str]) -> bytes:
    return _encode({"event": event.value, **dict(list(fields.items())[:MAX_FIELDS])})


def _encode(value: Mapping[str, int | str]) -> bytes:
    kept = {name: _bounded(field) for name, field in value.items()}
    return json.dumps(kept, separators=(",", ":")).encode("ascii") + b"\n"


def _bounded(value: int | str) -> int | str:
    return value if isinstance(value, str) else max(-MAX_NUMBER, min(MAX_NUMBER, int(value)))


def _write(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:
        return


def parse(line: bytes) -> bool:
    """Tell whether a line, without its end, is byte for byte one that ``emit`` or ``fault`` could have written."""
    try:
        value = json.loads(line.decode("ascii")) if len(line) <= MAX_LINE else None
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or len(value) > MAX_FIELDS + 1 or str(value.get("event")) not in _NAMES:
        return False
    plain = all(_FIELD.fullmatch(name) and _plain(name, field) for name, field in value.items())
    return plain and _encode(value) == line + b"\n"


def _plain(name: str, value: object) -> bool:
    if isinstance(value, str):
        return value in _WORDS or name == "event" or (name == "module" and bool(_MODULE.fullmatch(value)))
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
