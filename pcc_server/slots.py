"""How many calls are inside at once, whoever makes them: the next is told to come back."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Busy

RETRY_MS = 1_000


class Slots:
    """Bounded concurrency. most: how many may be inside."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place inside. Raises Busy when all are taken."""
        if self.inside >= self._most:
            raise Busy(RETRY_MS)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
