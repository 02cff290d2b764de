"""Labels: how far each piece of text may travel, and why.

A message is made of segments. Each segment carries the farthest route it may take and the source it came from.
Labels stay outside the request: they are never sent. Whatever is made from several segments carries the strictest
of their labels; text that no segment accounts for stays on the device.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hybrid.wire.types import GenerateRequest, Message, Role, Route

PERSONAL_KINDS = frozenset({"mail", "calendar", "contacts", "index"})
"""Kinds of source that stay on the device unless their owner says otherwise."""

OPEN_KINDS = frozenset({"text", "file"})
"""Kinds of source that are not limited unless their owner says so."""

PLACEHOLDER = "[An earlier turn was kept on the device.]"
"""What the node sees in place of a message whose label keeps it on the device."""


class LabelReason(StrEnum):
    """Why a segment has its label."""

    TYPED = "typed"
    FRAME = "frame"
    SOURCE = "source"
    DERIVED = "derived"
    UNLABELLED = "unlabelled"
    UNKNOWN_LABEL = "unknown_label"
    RECOGNISED = "recognised"
    PRIVACY_ERROR = "privacy_error"
    PRIVACY_TIMEOUT = "privacy_timeout"


def strictest(routes: Iterable[Route]) -> Route:
    """Return the strictest of some labels; of none at all, the strictest there is."""
    found = tuple(routes)
    return Route.PRIVATE_CLOUD if found and all(r is Route.PRIVATE_CLOUD for r in found) else Route.ON_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A piece of context and the farthest route it may take.

    label: its name as people see it, such as a file name; never a piece of its content.
    max_route: None means the default of its kind: mail, calendar, contacts, index and every unknown kind stay on the
    device, text and other files are not limited.  path: where it was read, for citing.
    """

    label: str
    text: str = field(repr=False)
    max_route: Route | None = None
    kind: str = "text"
    path: str | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that is no route. Raises ValueError."""
        if self.max_route is not None:
            object.__setattr__(self, "max_route", Route(self.max_route))

    @property
    def limit(self) -> Route:
        """The farthest route this source may take, its kind's default included."""
        if self.max_route is not None:
            return self.max_route
        return Route.PRIVATE_CLOUD if self.kind in OPEN_KINDS else Route.ON_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a message with its label. ``digest`` is the SHA-256 of its text, so the gate can recompute it.

    source: the name people know it by.  kind: one of the kinds of `Source`, or typed, frame, answer.
    types: what detectors found in it.  A ``max_route`` that is no route counts as ``on_device``.
    """

    text: str = field(repr=False)
    max_route: Route
    source: str
    why: LabelReason
    kind: str = "typed"
    types: tuple[str, ...] = ()
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the digest and settle labels nobody knows."""
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest())
        try:
            object.__setattr__(self, "max_route", Route(self.max_route))
        except ValueError:
            object.__setattr__(self, "max_route", Route.ON_DEVICE)
            object.__setattr__(self, "why", LabelReason.UNKNOWN_LABEL)

    @property
    def may_leave(self) -> bool:
        """Whether its label allows the private cloud."""
        return self.max_route is Route.PRIVATE_CLOUD

    def restricted(self, why: LabelReason, types: tuple[str, ...] = ()) -> "Segment":
        """Return it limited to the device, for a detector's reason. A stricter reason it already has stays."""
        if not self.may_leave:
            return replace(self, types=tuple(sorted({*self.types, *types})))
        return replace(self, max_route=Route.ON_DEVICE, why=why, types=tuple(sorted({*self.types, *types})))


def typed(text: str, *, source: str = "prompt") -> Segment:
    """Label words a person typed: not limited by where they came from."""
    return Segment(text=text, max_route=Route.PRIVATE_CLOUD, source=source, why=LabelReason.TYPED)


def frame(text: str) -> Segment:
    """Label fixed words of a program around content: a heading, a separator, the system text of a template."""
    return Segment(text=text, max_route=Route.PRIVATE_CLOUD, source="frame", why=LabelReason.FRAME, kind="frame")


def from_source(source: Source) -> Segment:
    """Label the text of a source with the source's limit."""
    return Segment(
        text=source.text, max_route=source.limit, source=source.label, why=LabelReason.SOURCE, kind=source.kind
    )


def unlabelled(text: str) -> Segment:
    """Label text of unknown origin: it stays on the device."""
    return Segment(
        text=text, max_route=Route.ON_DEVICE, source="unlabelled text", why=LabelReason.UNLABELLED, kind="unlabelled"
    )


@dataclass(frozen=True, slots=True)
class Labels:
    """The segments a request is made of, in any order."""

    segments: tuple[Segment, ...] = ()

    def strictest(self) -> Route:
        """Return the strictest label of all segments; of no segments, ``on_device``."""
        return strictest(s.max_route for s in self.segments)

    def binding(self) -> Segment | None:
        """Return the first segment that keeps the whole on the device, if one does."""
        return next((s for s in self.segments if not s.may_leave), None)

    def plus(self, *segments: Segment) -> "Labels":
        """Return these labels with more segments; labels are never taken away."""
        return Labels((*self.segments, *segments))


def derived(text: str, context: Labels, *, source: str = "answer") -> Segment:
    """Label something made from a context: it carries the strictest label of all of it, quoted or not.

    context: every segment the maker saw, such as the labels of the whole request an answer was made from.
    """
    bound = context.binding()
    origin = f"{source} made from {bound.source}" if bound else source
    return Segment(text=text, max_route=context.strictest(), source=origin, why=LabelReason.DERIVED, kind="answer")


def cover(request: GenerateRequest, labels: Labels) -> tuple[tuple[Segment, ...], ...]:
    """Say of each message which segments it is made of.

    Matches segment texts against the message from left to right, longest first and strictest among equals; only white
    space may lie between them. From the first character no segment accounts for, the rest of the message is one
    unlabelled segment. One tuple per message, in order.
    """
    known = sorted(
        ((s.text.strip(), s) for s in (*labels.segments, frame(PLACEHOLDER))),
        key=lambda pair: (-len(pair[0]), pair[1].may_leave),
    )
    whole: dict[str, Segment] = {}
    for text, segment in known:
        whole.setdefault(text, segment)
    return tuple(_parts(m.content.strip(), whole, known) for m in request.messages)


def _parts(content: str, whole: dict[str, Segment], known: list[tuple[str, Segment]]) -> tuple[Segment, ...]:
    if not content:
        return ()
    if content in whole:
        return (whole[content],)
    parts: list[Segment] = []
    at = 0
    while at < len(content):
        if content[at].isspace():
            at += 1
            continue
        match = next(((t, s) for t, s in known if t and content.startswith(t, at)), None)
        if match is None:
            return (*parts, unlabelled(content[at:]))
        parts.append(match[1])
        at += len(match[0])
    return tuple(parts)


def forbidden(request: GenerateRequest, labels: Labels) -> tuple[Segment, ...]:
    """Return every segment of exactly this request that may not leave the device; empty means all of it may."""
    return tuple(s for parts in cover(request, labels) for s in parts if not s.may_leave)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What of a request the node would get to see.

    request: messages whose label forbids the node replaced by `PLACEHOLDER`.  segments: what it is made of.
    withheld: the segments that stay.  blocking: the segment without which the turn makes no sense and which may not
    leave; while there is one, nothing may be sent.  turn: the segments of this turn, system text apart.
    """

    request: GenerateRequest
    segments: tuple[Segment, ...]
    withheld: tuple[Segment, ...]
    blocking: Segment | None
    turn: tuple[Segment, ...]

    @property
    def labels(self) -> Labels:
        """The labels of what is sent: an answer made from it is labelled by these."""
        return Labels(self.segments)


def outgoing(request: GenerateRequest, labels: Labels) -> Outgoing:
    """Work out what would be sent to the node: earlier turns may be withheld, this turn and system text may not.

    This turn is every message after the last answer, so a source given in a message of its own belongs to it. So does
    a restricted segment that is in no message: it stands for something the text alone does not show.
    """
    covered = cover(request, labels)
    seen = {p.digest for parts in covered for p in parts}
    start = _turn_start(request.messages)
    messages: list[Message] = []
    sent: list[Segment] = []
    withheld: list[Segment] = []
    blocking = next((s for s in labels.segments if not s.may_leave and s.digest not in seen), None)
    for index, (message, parts) in enumerate(zip(request.messages, covered, strict=True)):
        held = next((p for p in parts if not p.may_leave), None)
        if held is None:
            messages.append(message)
            sent.extend(parts)
            continue
        if blocking is None and (index >= start or message.role is Role.SYSTEM):
            blocking = held
        messages.append(replace(message, content=PLACEHOLDER))
        sent.append(frame(PLACEHOLDER))
        withheld.extend(parts)
    return Outgoing(
        request=replace(request, messages=tuple(messages)),
        segments=tuple(sent),
        withheld=tuple(withheld),
        blocking=blocking,
        turn=tuple(
            p
            for message, parts in zip(request.messages[start:], covered[start:], strict=True)
            for p in parts
            if message.role is not Role.SYSTEM
        ),
    )


def _turn_start(messages: tuple[Message, ...]) -> int:
    answers = (i for i in range(len(messages) - 1, -1, -1) if messages[i].role is Role.ASSISTANT)
    return next(answers, -1) + 1
