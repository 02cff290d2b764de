"""One writer at a time, over processes. The kernel drops the lock of a process that is killed."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import FetchFailed

WAIT_S = 900.0  # another pull of a small model ends well within it; behind a larger one the user tries again later
_LOOK_S = 0.2


@contextlib.contextmanager
def writing(
    path: Path, waiting: Callable[[], None], *, wait_s: float = WAIT_S, now: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hold the lock file ``path``; call ``waiting`` again and again while another process holds it.

    Raises FetchFailed when it is held for more than ``wait_s`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        until = now() + wait_s
        while not _taken(lock.fileno()):
            if now() > until:
                raise FetchFailed("another process has been writing to the model store for a long time")
            waiting()
            time.sleep(_LOOK_S)
        yield


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
