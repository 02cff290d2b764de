"""What happens during one turn, in the order it happens.

Grammar: ``RouteDecided`` first and once; then any of the others; one ``UsageUpdate`` and one ``Done`` last. The
``TextDelta``s after the last ``Handoff(restart=True)`` concatenate to ``reply.text``. A failure raises from the
iterator with ``.partial`` and nothing follows. Everything any door shows is derived from these values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reply import Reply, Timing
    from .routing.decision import Decision
    from .wire.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDecided:
    """Who will answer, and why. Before any token."""

    decision: "Decision"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One named check of the node's evidence. status: pass, warn, skip or fail."""

    name: str
    status: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerified:
    """A node passed every required check; content may be sealed to it.

    node: its address.  tier: 0 software, 1 measured, 2 confidential.  tier_words: what that means to a person.
    """

    node: str
    tier: int
    tier_words: str
    measurement: str
    model: str
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProgress:
    """How much of the prompt has been read, in tokens."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The exchange with the node starts again, sealed anew. after_s: seconds waited. cause: an error's name."""

    attempt: int
    after_s: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """New text of the answer."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The turn, or the conversation, changes sides.

    reason: a stable word.  sent, withheld: names of sources, never their text.
    restart: the text shown so far is void and the answer begins again.
    decision: the new decision when this one changed it.
    """

    from_: str
    to: str
    reason: str
    sent: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    plan_id: str = ""
    restart: bool = False
    decision: "Decision | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageUpdate:
    """Token counts and times of the answering route."""

    usage: "Usage"
    timing: "Timing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The whole reply; always the last event."""

    reply: "Reply"


Event = RouteDecided | NodeVerified | PromptProgress | Retry | TextDelta | Handoff | UsageUpdate | Done

NAMES: Mapping[type, str] = {
    RouteDecided: "route_decided",
    NodeVerified: "node_verified",
    PromptProgress: "prompt_progress",
    Retry: "retry",
    TextDelta: "text_delta",
    Handoff: "handoff",
    UsageUpdate: "usage_update",
    Done: "done",
}


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return one event as plain values, ``event`` naming its kind: a line of ``hybrid ask --jsonl``."""
    fields = {name.rstrip("_"): _plain(getattr(event, name)) for name in event.__slots__}
    return {"event": NAMES[type(event)], **fields}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__slots__") and not isinstance(value, str | int | float):
        return {name: _plain(getattr(value, name)) for name in value.__slots__}
    return value
