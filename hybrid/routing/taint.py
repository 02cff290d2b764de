"""Taint: the label of whatever is made from labelled text. Never wider than that of anything it was made from.

Everything a program makes from text (answers, summaries, tool calls, chunks of an index) gets its label here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybrid.wire.types import Route

from .labels import FRAME, LabelReason, Labels, Segment, strictest, typed, unlabelled

if TYPE_CHECKING:
    from .screen import Screener


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What of a tool matters to labels.

    max_route: the farthest route its results may take.  network: whether it sends its arguments anywhere itself.
    """

    name: str
    max_route: Route = Route.ON_DEVICE
    network: bool = False


class Tainted(Exception):
    """A tool that is an exit was to get text that may not leave. ``source`` names where that text came from."""

    def __init__(self, tool: str, source: str) -> None:
        """Say who was refused and why, without the text."""
        super().__init__(f"{source} may not leave the device, and the tool {tool} would send it")
        self.tool = tool
        self.source = source


def derived(text: str, context: Labels, *, source: str = "answer") -> Segment:
    """Label something made from a context: it carries the strictest label of all of it, quoted or not.

    context: every segment the maker saw, such as the labels of the whole request an answer was made from.
    """
    bound = context.binding()
    origin = f"{source} made from {bound.source}" if bound else source
    return Segment(text=text, max_route=context.strictest(), source=origin, why=LabelReason.DERIVED, kind="answer")


def summary(text: str, context: Labels) -> Segment:
    """Label a summary like any answer: by all of what was summarised."""
    return derived(text, context, source="summary")


def title(text: str, context: Labels) -> Segment:
    """Label a title, a tag or a suggested question by the whole conversation it was made for."""
    return derived(text, context, source="title")


def structured(text: str, context: Labels) -> Segment:
    """Label a structured result, as the JSON it is, by all of what it was extracted from."""
    return derived(text, context, source="structured result")


def embedding(vector: Sequence[float], context: Labels) -> Segment:
    """Label a vector like the text it stands for, which can be guessed from it; its text is a JSON array."""
    return derived(f"[{', '.join(str(float(number)) for number in vector)}]", context, source="embedding")


def retrieved(text: str, origin: Segment, query: Labels) -> Segment:
    """Label a chunk by what it was cut from and by the query that chose it: which chunks match tells the query."""
    chunk = replace(origin, text=text)
    bound = query.binding()
    if bound is None or not chunk.may_leave:
        return chunk
    return replace(derived(text, query, source=f"chunk of {origin.source}"), kind=origin.kind)


def tool_arguments(text: str, context: Labels, tool: Tool) -> Segment:
    """Label arguments a model wrote by all it had read. Raises Tainted when the tool would carry them out.

    A tool whose results may go to the private cloud and that uses the network is an exit like any other; one that is
    limited to the device, such as a search of one's own mail, was trusted with such text by whoever declared it.
    """
    arguments = derived(text, context, source=f"arguments of {tool.name}")
    if tool.network and not arguments.may_leave and strictest((tool.max_route,)) is Route.PRIVATE_CLOUD:
        bound = context.binding()
        raise Tainted(tool.name, bound.source if bound else "text without a label")
    return arguments


def tool_result(text: str, tool: Tool, arguments: Labels) -> Segment:
    """Label what a tool gave back: the strictest of its declared label and of its arguments' label.

    arguments: empty for a tool that was called without any.
    """
    declared = Segment(text=text, max_route=tool.max_route, source=tool.name, why=LabelReason.SOURCE, kind="tool")
    if not declared.may_leave or arguments.binding() is None:
        return declared
    return replace(derived(text, arguments, source=f"result of {tool.name}"), kind="tool")


def redacted(text: str, original: Segment, screener: "Screener") -> Segment:
    """Label a copy with findings taken out: a segment of its own, examined afresh.

    Only a recogniser's label can be got rid of so; what the text's origin, or a check that failed, keeps on the device
    stays there in every copy.
    """
    if not original.may_leave and original.why is not LabelReason.RECOGNISED:
        return replace(original, text=text)
    copy = replace(original, text=text, max_route=Route.PRIVATE_CLOUD, why=LabelReason.DERIVED, types=())
    return examined(copy, screener)


def forked(text: str, max_route: Route, source: str) -> Segment:
    """Label a message that is said again in another conversation as it was labelled in the first."""
    if max_route is Route.PRIVATE_CLOUD:
        return typed(text, source=source or "prompt")
    return Segment(
        text=text,
        max_route=Route.ON_DEVICE,
        source=source or "an earlier conversation",
        why=LabelReason.DERIVED,
        kind="answer",
    )


def reloaded(segment: Segment) -> Segment:
    """Label a segment as a file tells it, but for what only this process can know.

    A file may claim neither that a person let a finding go, nor that text is a fixed frame, nor a reason to stay
    together with a label to leave.
    """
    if segment.why is LabelReason.FRAME or segment.kind == FRAME:
        return unlabelled(segment.text)
    if segment.why is LabelReason.USER_CLEARED:
        return segment.held_again()
    free = {LabelReason.TYPED, LabelReason.SOURCE, LabelReason.DERIVED}
    return segment if segment.why in free else replace(segment, max_route=Route.ON_DEVICE)


def examined(segment: Segment, screener: "Screener", cleared: frozenset[str] = frozenset()) -> Segment:
    """Label a segment by what recognisers find in it now; findings that a person let go, by its source, do not bind.

    Who cleared a segment cleared what had been found by then: anything found since binds again. A screener that raises
    has not examined anything.
    """
    try:
        found = screener.segment(segment)
    except Exception:  # noqa: BLE001 - a privacy check that breaks must never let text out
        return segment.restricted(LabelReason.PRIVACY_ERROR)
    if found.why is LabelReason.RECOGNISED and _let_go(segment, found):
        return segment
    return found.cleared() if segment.source in cleared else found


def _let_go(before: Segment, found: Segment) -> bool:
    return before.why is LabelReason.USER_CLEARED and set(found.types) <= set(before.types)
