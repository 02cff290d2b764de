"""One program's place in the node: who fills it now, and when the next one does."""

import socket
import time
from dataclasses import dataclass, field

from .events import Program
from .life import Restarts
from .process import Child
from .watch import Watch


@dataclass(slots=True)
class Post:
    """again_at: on the monotonic clock, while it is empty and to be filled again."""

    program: Program
    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    watch: Watch = field(default_factory=Watch)
    again_at: float | None = None

    def start(self, link: socket.socket) -> Child:
        """Fill it."""
        self.child, self.watch, self.again_at = Child.start(self.program, link), Watch(), None
        return self.child

    def ended(self, *, for_good: bool) -> float | None:
        """Note that its child ended. for_good: the node ends, too.

        Returns after how many seconds it is filled again, None when no more.
        """
        delay_s = None if for_good else self.restarts.ended()
        self.child, self.again_at = None, None if delay_s is None else time.monotonic() + delay_s
        return delay_s
