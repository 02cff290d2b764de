"""The worker's side of dialling: asks the launcher for a connection to the engine and awaits its descriptor.

``{"dial": id}`` up; ``{"dialled": id}`` with a descriptor, or ``{"dialled": id, "error": sentence}`` down.
"""

import asyncio
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from . import control, dial
from .config import Settings

TIMEOUT_S = 5.0  # for the launcher to answer

Dial = Callable[[], Awaitable[socket.socket]]


class DialFailure(Exception):
    """No connection to the engine can be had now."""


class Dialled:
    """Connections from the launcher. Give every control message to ``hear``; call it from any loop."""

    def __init__(self, end: socket.socket, settings: Settings) -> None:
        self._end = end
        self._family = socket.AF_UNIX if settings.engine_uds else socket.AF_INET
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[int]] = {}

    async def __call__(self) -> socket.socket:
        """Return a connection, perhaps still connecting. Raises DialFailure."""
        number, waiting = next(self._ids), Future[int]()
        self._waiting[number] = waiting
        control.write(self._end, dial=number)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                fd = await asyncio.wrap_future(waiting)
        except TimeoutError:
            raise DialFailure("the launcher does not answer") from None
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                os.close(waiting.result())  # it arrived while the request was cancelled
            raise
        finally:
            del self._waiting[number]
        return socket.socket(self._family, socket.SOCK_STREAM, 0, fileno=fd)  # named: nothing needs to be looked up

    def hear(self, message: dict[str, Any]) -> None:
        """Take one message of the launcher; those that are no answer are left alone."""
        if "dialled" not in message:
            return
        waiting = self._waiting.get(message["dialled"])
        if waiting is None or not waiting.set_running_or_notify_cancel():
            if "fd" in message:
                os.close(message["fd"])
        elif "fd" in message:
            waiting.set_result(message["fd"])
        else:
            waiting.set_exception(DialFailure(str(message.get("error"))))


def direct(settings: Settings) -> Dial:
    """Return what dials by itself: for a command that runs outside the sandbox, such as ``audit``."""

    async def connect() -> socket.socket:
        try:
            return dial.begin(settings)
        except OSError as error:
            raise DialFailure(str(error.strerror)) from None

    return connect
