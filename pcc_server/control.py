"""The socketpair between launcher and child: one JSON object a line, and descriptors beside those that say so.

Settings, start-up news, drain and reload go down; phases, beats and the worker's requests for evidence go up, their
answers down. Nothing of a request crosses it. Its end is how each side learns that the other is gone.
A message with ``"with_fd": true`` brings one descriptor with it (SCM_RIGHTS); both keep their order.
"""

import json
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

MAX_LINE_BYTES = 65_536
READ_BYTES = 65_536
_FD_BYTES = 4
_ROOM = socket.CMSG_SPACE(8 * _FD_BYTES)  # for the descriptors of one read; Linux hands out one message's at a time
_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def write(end: socket.socket, fd: int | None = None, **message: Any) -> bool:
    """Send one message, and a duplicate of ``fd`` with it. Returns whether it has left.

    A reader that is gone is noticed where its end of file is read, not here. One that does not read loses messages, on
    an end that does not block at once: a short message leaves whole or not at all.
    """
    if fd is not None:
        message["with_fd"] = True
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    try:
        sent = 0 if fd is None else socket.send_fds(end, [data], [fd])
        end.sendall(data[sent:])
    except OSError:
        return False
    return True


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


def messages(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Decode lines of our own programs; what is no message is left out."""
    for line in lines:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict):
            yield message


class Inbox:
    """What arrives on a child's end, with descriptors: read it whenever the end is readable."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lines = Lines()
        self._fds: deque[int] = deque()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that one read completes; ``fd`` of those that bring one is the reader's to close.

        Raises EOFError when there will be no more.
        """
        try:
            data, ancillary, _, _ = self._end.recvmsg(READ_BYTES, _ROOM, _FLAGS)
        except BlockingIOError:
            return
        except ConnectionError:
            data, ancillary = b"", []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._fds.extend(memoryview(payload[: len(payload) // _FD_BYTES * _FD_BYTES]).cast("i"))
        for message in messages(self._lines.push(data)):
            if message.pop("with_fd", False):
                if not self._fds:
                    continue  # the kernel had no room for it: the message means nothing without
                message["fd"] = self._fds.popleft()
            yield message
        if not data:
            self._close_rest()
            raise EOFError

    def _close_rest(self) -> None:
        while self._fds:
            os.close(self._fds.popleft())
