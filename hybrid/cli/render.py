"""What is said about an answer: the one-line badge and the live progress line.

Pure text from a ``Reply`` or a ``Decision``; ``Progress`` alone writes, and only to stderr. Nothing here holds
prompt or answer text.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hybrid.cli.terminal import CLEAR_LINE, Screen, safe, talk
from hybrid.wire.types import Route

if TYPE_CHECKING:
    from hybrid.events import Event, Handoff
    from hybrid.reply import Egress, Reply
    from hybrid.routing.decision import Decision

ON_DEVICE = ("●", "on device", "green")
PRIVATE_CLOUD = ("▲", "private cloud", "blue")
KEPT = ("■", "kept on device", "yellow")
PRIVATE_TIER = 2  # below it nobody may read "private from the operator" without NOT
REDRAW_S = 0.1
KILO = 1000
ROUTE_NAMES = {"on_device": "on the device", "private_cloud": "in the private cloud"}


def size(count: float) -> str:
    """Bytes as people read them: 812 B, 3.1 kB, 1.7 GB."""
    for unit in ("B", "kB", "MB"):
        if count < KILO:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"  # noqa: PLR2004
        count /= KILO
    return f"{count:.1f} GB"


def badge(reply: "Reply", screen: Screen, *, verbose: bool = False) -> str:
    """Say in one line who answered, how fast, what left and why; glyph and word, never colour alone."""
    glyph, word, colour = _mark(reply)
    parts = [screen.paint(f"{glyph} {word}", colour), reply.model, *_figures(reply), _tail(reply)]
    lines = ["  ".join(safe(part) if i else part for i, part in enumerate(parts) if part)]
    if verbose:
        lines.append(screen.paint(_more(reply), "dim"))
    return "\n".join(lines)


def _mark(reply: "Reply") -> tuple[str, str, str]:
    if reply.route == Route.PRIVATE_CLOUD:
        return PRIVATE_CLOUD
    return KEPT if kept(reply.decision) else ON_DEVICE


def kept(decision: "Decision") -> bool:
    """Tell whether a label or a person kept on the device what would otherwise have gone."""
    if decision.route != Route.ON_DEVICE:
        return False
    other = decision.counterfactual
    codes = {reason.code for reason in decision.reasons}
    return "declined" in codes or (other is not None and other.change == "label")


def _figures(reply: "Reply") -> list[str]:
    timing = reply.timing
    speed = f"{timing.decode_tps:.0f} tok/s" if timing.decode_tps else ""
    first = f"{timing.ttft:.2f} s" if timing.ttft is not None else ""
    return [speed, first, f"{reply.usage.output} tok"]


def _tail(reply: "Reply") -> str:
    parts = []
    if reply.egress:
        parts.append(sent(reply.egress) + ("" if reply.route == Route.PRIVATE_CLOUD else ", but it did not answer"))
    parts.append(why(reply.decision))
    if reply.finish_reason in ("length", "cancelled"):
        parts.append("cut at max_tokens" if reply.finish_reason == "length" else "stopped by you")
    return " · ".join(part for part in parts if part)


def sent(egress: "Egress") -> str:
    """Say what left and to whom, with the tier in words."""
    return f"sent {size(egress.bytes_wire)} to {egress.node} · {tier(egress.tier, egress.tier_words)}"


def tier(number: int, words: str) -> str:
    """Say a tier in words; below tier 2 always with NOT private from the operator."""
    promise = "private from the operator"
    if number < PRIVATE_TIER and f"NOT {promise}" not in words:
        words = f"{words.replace(promise, '').rstrip(' ,')}, NOT {promise}"
    return f"tier {number} {words}"


def why(decision: "Decision") -> str:
    """Give the reasons in one line, binding one first."""
    text = ", ".join(reason.text for reason in decision.reasons)
    return f"{text}; quality may be lower" if kept(decision) else text


def _more(reply: "Reply") -> str:
    timing, usage = reply.timing, reply.usage
    receipt = f"  receipt {reply.egress.receipt_id[:16]}" if reply.egress and reply.egress.receipt_id else ""
    return (
        f"  prompt {usage.input} tok ({usage.cached_input} from cache) at {timing.prefill_tps:.0f} tok/s"
        f"  queue {timing.queue:.2f} s  attest {timing.attest:.2f} s  network {timing.network:.2f} s"
        f"  total {timing.total:.2f} s  {reply.finish_reason}  {reply.request_id}{receipt}"
    )


class Progress:
    """One line on stderr that says what is being waited for; gone as soon as there is an answer.

    On a terminal that can redraw it is one changing line; anywhere else it says nothing.
    """

    def __init__(self, screen: Screen, *, now: Callable[[], float] = time.monotonic) -> None:
        self._live = screen.live
        self._now = now
        self._drawn_at: float | None = None

    def show(self, text: str, *, force: bool = False) -> None:
        """Replace the line, at most ten times a second unless forced."""
        if not self._live:
            return
        now = self._now()
        if not force and self._drawn_at is not None and now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        talk(CLEAR_LINE + safe(text).replace("\n", " ")[:100], end="")

    def clear(self) -> None:
        """Take the line away."""
        if self._live and self._drawn_at is not None:
            talk(CLEAR_LINE, end="")
            self._drawn_at = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def progress_text(event: "Event") -> str:
    """Say what an event means for someone who waits; empty when it means nothing to them."""
    from hybrid.events import Handoff, NodeVerified, PromptProgress, Retry, RouteDecided

    match event:
        case RouteDecided():
            return "… asking the node" if event.decision.route == Route.PRIVATE_CLOUD else "… waiting for the model"
        case NodeVerified():
            return f"… {event.node} verified, {tier(event.tier, event.tier_words)}"
        case PromptProgress() if event.total:
            return f"… reading the prompt, {100 * event.done // event.total} %"
        case Retry():
            return f"… again, attempt {event.attempt} ({event.cause})"
        case Handoff():
            return _change_of_sides(event)
        case _:
            return ""


def warnings_of(event: "Event") -> list[str]:
    """Say which checks of a node held only because the trust policy says so, or look odd."""
    from hybrid.events import NodeVerified

    if not isinstance(event, NodeVerified):
        return []
    return [f"{check.name}: {check.detail}" for check in event.checks if check.status == "warn"]


def _change_of_sides(event: "Handoff") -> str:
    """Say who answers now; where a route failed first, that and why."""
    to, reason = ROUTE_NAMES[event.to], event.reason.replace("_", " ")
    if event.decision is None:
        return f"… going on {to} ({reason})"
    return f"note: no answer {ROUTE_NAMES[event.from_]} ({reason}); answered {to} instead"
