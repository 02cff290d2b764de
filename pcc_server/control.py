"""The socketpair between launcher and child: one JSON object a line.

Settings and drain go down, start-up news up; the worker's requests for evidence up, their answers down.
Nothing of a request crosses it. Its end is how each side learns that the other is gone.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

MAX_LINE_BYTES = 65_536


def write(end: socket.socket, **message: Any) -> None:
    """Send one message. A reader that is gone is noticed where its end of file is read, not here."""
    try:
        end.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    except OSError:
        return


class Lines:
    """Splits a byte stream into lines of bounded length."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._buffer = b""

    def push(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that data completes, without their newline; what exceeds the limit is cut."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._buffer = self._buffer[: self._limit]
        yield from (line[: self._limit] for line in lines)


def messages(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Decode lines of our own programs."""
    for line in lines:
        message = json.loads(line)
        if isinstance(message, dict):
            yield message
