"""For programs that use hybrid: the whole path without a Mac, a GPU, weights or a network.

``FakeEngine`` scripts the device, ``FakeNode`` is the true node with a fake engine, ``MemoryTransport`` opens and
seals with the real protocol in this process and remembers what it decrypted.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import FakeEngine, Wait
    from .memory import MemoryTransport
    from .node import FakeNode

_HOMES = {"FakeEngine": "engine", "FakeNode": "node", "MemoryTransport": "memory", "Wait": "engine"}

__all__ = ["FakeEngine", "FakeNode", "MemoryTransport", "Wait"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
