"""Opening a client behind the prompt, so that one can type at once; the first answer waits for it, visibly."""

import threading
import time
from typing import TYPE_CHECKING

from hybrid.cli.render import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hybrid.client import Client

TICK_S = 0.1


class Opening:
    """A client that is being made on another thread.

    That thread also closes it, so that whatever was started is stopped even when the person leaves before it is ready.
    """

    def __init__(self, make: "Callable[[Callable[[str], None]], AbstractContextManager[Client]]") -> None:
        """``make`` is given what to call with each phase, and returns the client's context."""
        self.phase = "starting"
        self._make = make
        self._client: Client | None = None
        self._failure: BaseException | None = None
        self._ready, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="hybrid-opening")
        self._thread.start()

    def _hold(self) -> None:
        try:
            with self._make(self._at) as client:
                self._client = client
                self._ready.set()
                self._leave.wait()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits
            self._failure = error
        finally:
            self._ready.set()

    def _at(self, phase: str) -> None:
        self.phase = phase

    @property
    def failed(self) -> bool:
        """Whether there will never be a client."""
        return self._ready.is_set() and self._client is None

    def client(self, progress: Progress) -> "Client":
        """Return the client, waiting for it with the phase shown. Raises what kept it from opening."""
        begun = time.monotonic()
        while not self._ready.wait(TICK_S):
            progress.show(f"… {self.phase}, {time.monotonic() - begun:.0f} s")
        progress.clear()
        if self._client is None:
            assert self._failure is not None  # noqa: S101 - one of the two is set before ready
            raise self._failure
        return self._client

    def close(self) -> None:
        """Stop what was started and wait until it is gone. Calling it again is harmless."""
        self._leave.set()
        self._thread.join()
