"""``hybrid.ask``, ``stream`` and ``explain``: one client for the whole program, made when it is first needed."""

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import Prompt
    from .client import Client, Stream
    from .reply import Reply
    from .routing.decision import Decision

_lock = threading.Lock()
_made: "dict[int, Client]" = {}  # by process id: a forked child makes its own


def ask(prompt: "Prompt", **how: Any) -> "Reply":
    """Answer once; takes what ``Client.ask`` takes. Settings come from files and environment."""
    return _client().ask(prompt, **how)


def stream(prompt: "Prompt", **how: Any) -> "Stream":
    """Stream one answer; takes what ``Client.stream`` takes."""
    return _client().stream(prompt, **how)


def explain(prompt: "Prompt", **how: Any) -> "Decision":
    """Say who would answer, and why; sends nothing and loads no model."""
    return _client().explain(prompt, **how)


def _client() -> "Client":
    from .client import Client

    with _lock:
        if os.getpid() not in _made:
            _made[os.getpid()] = Client.from_env()
        return _made[os.getpid()]


os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))
