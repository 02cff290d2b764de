"""What would leave: which segments a request is made of, and what of it the node would get to see."""

from dataclasses import dataclass, replace

from hybrid.wire.types import GenerateRequest, Message, Role

from .labels import Labels, Segment, frame, typed, unlabelled

PLACEHOLDER = "[An earlier turn was kept on the device.]"
"""What the node sees in place of a message whose label keeps it on the device."""

STOP_STRING = "stop string"
"""The source of words that end an answer, as people and records see it."""


def cover(request: GenerateRequest, labels: Labels) -> tuple[tuple[Segment, ...], ...]:
    """Say of each message which segments it is made of.

    Matches segment texts against the message from left to right, longest first and strictest among equals; only white
    space may lie between them. From the first character no segment accounts for, the rest of the message is one
    unlabelled segment. One tuple per message, in order.
    """
    known = _Known((*labels.segments, frame(PLACEHOLDER)))
    return tuple(known.parts(m.content.strip()) for m in request.messages)


def accounted(text: str, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Return the segments a text is said to be made of, and one more, unlabelled, for what they do not account for."""
    return (*segments, *(s for s in _Known(segments).parts(text.strip()) if s not in segments))


class _Known:
    """Segments by which texts are explained: the longest first, the strictest among equals."""

    def __init__(self, segments: tuple[Segment, ...]) -> None:
        pairs = ((s.text.strip(), s) for s in segments)
        self._pairs = sorted(pairs, key=lambda pair: (-len(pair[0]), pair[1].may_leave))
        self._whole: dict[str, Segment] = {}
        for text, segment in self._pairs:
            self._whole.setdefault(text, segment)

    def parts(self, content: str) -> tuple[Segment, ...]:
        """Return what a text is made of; what follows the first unknown character is one unlabelled segment."""
        if content in self._whole:
            return (self._whole[content],) if content else ()
        parts: list[Segment] = []
        at = 0
        while at < len(content):
            if content[at].isspace():
                at += 1
                continue
            match = next(((t, s) for t, s in self._pairs if t and content.startswith(t, at)), None)
            if match is None:
                return (*parts, unlabelled(content[at:]))
            parts.append(match[1])
            at += len(match[0])
        return tuple(parts)


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

    Stop strings leave with every request, so they may be no words of what must stay.
    This turn is every message after the last answer, so a source given in a message of its own belongs to it. So does
    a restricted segment that is in no message: it stands for something the text alone does not show.
    """
    covered = cover(request, labels)
    seen = {p.digest for parts in covered for p in parts}
    start = turn_start(request.messages)
    messages: list[Message] = []
    sent: list[Segment] = []
    withheld: list[Segment] = []
    unseen = (s for s in labels.segments if s.digest not in seen)
    blocking = next((s for s in (*unseen, *stop_strings(request, labels)) if not s.may_leave), None)
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


def stop_strings(request: GenerateRequest, labels: Labels) -> tuple[Segment, ...]:
    """Label the words that end an answer: the caller's own, unless they stand in something that must stay.

    Case and white space make no difference. Marks without a letter or digit, such as a blank line, say nothing.
    """
    return tuple(_stop_string(text, labels) for text in request.sampling.stop)


def _stop_string(text: str, labels: Labels) -> Segment:
    words = _folded(text)
    if not any(c.isalnum() for c in words):
        return typed(text, source=STOP_STRING)
    own = next((s for s in labels.segments if s.source == STOP_STRING and s.text == text), None)
    bound = next((s for s in labels.segments if not s.may_leave and words in _folded(s.text)), None)
    return replace(bound, text=text) if bound else own or typed(text, source=STOP_STRING)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def turn_start(messages: tuple[Message, ...]) -> int:
    """Return where this turn begins: behind the last answer."""
    answers = (i for i in range(len(messages) - 1, -1, -1) if messages[i].role is Role.ASSISTANT)
    return next(answers, -1) + 1
