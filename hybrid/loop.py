"""An event loop on a thread of its own, for callers that have none."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigurationError

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
FORKED = "this client was made before the process forked"
LOOK_S = 0.25  # a signal that another thread received wakes nobody: look this often whether one has come
STOP_WAIT_S = 10.0  # for an engine to let a stopped turn go; it takes one token


class LoopThread:
    """An event loop on a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._stopped = False

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start work on the loop. Raises ConfigurationError in a forked child or after the client was closed."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._running())
        except BaseException:
            work.close()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end; Ctrl-C cancels it."""
        job = self.submit(work)
        try:
            while not wait((job,), timeout=LOOK_S).done:
                pass
            return job.result()
        except KeyboardInterrupt:
            job.cancel()
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``last``, cancel what is left, end the thread. In a forked child there is nothing to end."""
        with self._lock:
            loop, thread, self._stopped = self._loop, self._thread, True
            self._loop = None
        if loop is None or thread is None or os.getpid() != self._pid or not thread.is_alive():
            return
        ended = asyncio.run_coroutine_threadsafe(_wind_up(last), loop)
        if threading.current_thread() is not thread:
            with contextlib.suppress(TimeoutError):
                ended.result(STOP_WAIT_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP_WAIT_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._pid:
            raise ConfigurationError(FORKED, hint="make a new client in the child process")
        with self._lock:
            if self._stopped:
                raise ConfigurationError("this client was closed", hint="make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), daemon=True, name="hybrid-client")
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _wind_up(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Stop every turn, then let go of model and connection."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last()
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
