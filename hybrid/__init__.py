"""hybrid: the open Private Cloud Compute for Python.

Answers on the device, hands over sealed when it must, and says why::

    import hybrid
    hybrid.ask("What is 17 * 23?")

Public are the names below and the modules ``hybrid.errors``, ``hybrid.trust`` and ``hybrid.testing``; everything else
may change without notice. Importing this package does nothing: every name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .client import Client, Stream
    from .compose import LabelledMessage
    from .conversation import AsyncSession, Session
    from .errors import HybridError
    from .events import Done, Event, Handoff, NodeVerified, PromptProgress, Retry, RouteDecided, TextDelta, UsageUpdate
    from .exchange import Timeout
    from .gate import HandoffPlan
    from .one import ask, explain, stream
    from .own_node import OwnNode
    from .reply import Attempt, Egress, Reply, Timing
    from .routing.decision import Decision, Reason
    from .routing.policy import Mode
    from .routing.signals import Availability
    from .sources import Source
    from .streaming import AsyncStream
    from .trust.policy import Policy
    from .wire.types import Message, Role, Route, Usage

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "aio",
    "AsyncSession": "conversation",
    "AsyncStream": "streaming",
    "Attempt": "reply",
    "Availability": "routing.signals",
    "Client": "client",
    "Decision": "routing.decision",
    "Done": "events",
    "Egress": "reply",
    "Event": "events",
    "Handoff": "events",
    "HandoffPlan": "gate",
    "HybridError": "errors",
    "LabelledMessage": "compose",
    "Message": "wire.types",
    "Mode": "routing.policy",
    "NodeVerified": "events",
    "OwnNode": "own_node",
    "Policy": "trust.policy",
    "PromptProgress": "events",
    "Reason": "routing.decision",
    "Reply": "reply",
    "Retry": "events",
    "Role": "wire.types",
    "Route": "wire.types",
    "RouteDecided": "events",
    "Session": "conversation",
    "Source": "sources",
    "Stream": "client",
    "TextDelta": "events",
    "Timeout": "exchange",
    "Timing": "reply",
    "Usage": "wire.types",
    "UsageUpdate": "events",
    "ask": "one",
    "explain": "one",
    "stream": "one",
}

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "Attempt",
    "Availability",
    "Client",
    "Decision",
    "Done",
    "Egress",
    "Event",
    "Handoff",
    "HandoffPlan",
    "HybridError",
    "LabelledMessage",
    "Message",
    "Mode",
    "NodeVerified",
    "OwnNode",
    "Policy",
    "PromptProgress",
    "Reason",
    "Reply",
    "Retry",
    "Role",
    "Route",
    "RouteDecided",
    "Session",
    "Source",
    "Stream",
    "TextDelta",
    "Timeout",
    "Timing",
    "Usage",
    "UsageUpdate",
    "ask",
    "explain",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
