"""From the parts of a call to a request and its labels; and how large a request is. Pure.

Text never travels without its labels: a message is made of segments, each with its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .errors import ConfigurationError, ContextOverflowError
from .routing.features import Conversation
from .routing.labels import Labels, Segment, Source, from_source, strictest, typed, unlabelled
from .routing.outgoing import STOP_STRING, accounted, turn_start
from .routing.policy import Mode
from .routing.signals import Doubt, Person
from .routing.taint import examined, forked
from .wire.types import GenerateRequest, Message, Role, Route, Sampling

if TYPE_CHECKING:
    from .routing.screen import Screener

BYTES_PER_TOKEN = 4
FRAME_TOKENS = 4  # what a chat template puts around one message, about
ESTIMATE_ERROR = 0.25
BETWEEN = "\n\n"  # what lies between a source and the next, and before the question
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A message and the segments it is made of: text never travels without its labels."""

    message: Message
    segments: tuple[Segment, ...]

    @property
    def max_route(self) -> Route:
        """The strictest label of its segments."""
        return strictest(segment.max_route for segment in self.segments)

    def held_again(self) -> "Labelled":
        """Return it without what a person let go for one call."""
        return replace(self, segments=tuple(segment.held_again() for segment in self.segments))

    @property
    def is_system(self) -> bool:
        """Whether it is the system text, which belongs to every turn."""
        return self.message.role is Role.SYSTEM


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledMessage:
    """One message of a transcript as callers see it. source: what its label comes from, empty when it has no limit.

    Passed to another call, as a fork of a conversation does, it keeps its labels. segments: those it is made of; a
    message without any has one label for all of it.
    """

    role: str
    content: str = field(repr=False)
    max_route: str
    source: str = ""
    segments: tuple[Segment, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call, as values.

    history: system text and earlier turns, oldest first.  wished: the sampling fields the caller named; the others are
    the answering model's own.  partition: whose cached context may be reused on the device.
    cache_salt: names it to a node's cache; empty where no turn follows.  stops: the stop strings, once examined.
    conversation, doubt, person: what the router is told of the turns before, and of who chose the route.
    again: the last question, asked again because its answer would not do.
    """

    turn: tuple[Labelled, ...]
    history: tuple[Labelled, ...] = ()
    sources: tuple[Source, ...] = ()
    mode: Mode = Mode.AUTO
    sampling: Sampling = field(default_factory=Sampling)
    wished: frozenset[str] = frozenset()
    threshold: float | None = None
    current_route: Route | None = None
    partition: str = "default"
    cache_salt: bytes = field(default=b"", repr=False)
    stops: tuple[Segment, ...] = ()
    conversation: Conversation = field(default_factory=Conversation)
    doubt: Doubt | None = None
    person: Person = ""
    again: bool = False

    @property
    def question(self) -> str:
        """The last message, sources and all."""
        return self.turn[-1].message.content

    @property
    def labels(self) -> Labels:
        """Every segment of the whole request."""
        messages = (s for labelled in (*self.history, *self.turn) for s in labelled.segments)
        return Labels((*messages, *self.stops))

    def screened(self, screener: "Screener", cleared: frozenset[str] = frozenset()) -> "Ask":
        """Return it with every segment examined, so that what recognisers find binds like any label.

        cleared: names of sources of this turn, system text included, whose findings a person let go. Earlier turns
        keep what was said of them in their own call; a clearing too, where the node answered.
        """
        start = turn_start(tuple(each.message for each in self.turn))
        stops = (typed(text, source=STOP_STRING) for text in self.sampling.stop)
        return replace(
            self,
            turn=(*_screened(self.turn[:start], screener, cleared), *_now(self.turn[start:], screener, cleared)),
            history=_screened(self.history, screener, cleared),
            stops=tuple(examined(stop, screener, cleared) for stop in stops),
        )

    def held_again(self) -> "Ask":
        """Return it without what a person let go for this call: in its turn, the system text and the stop strings."""
        return replace(
            self,
            turn=tuple(each.held_again() for each in self.turn),
            history=tuple(each.held_again() if each.is_system else each for each in self.history),
            stops=tuple(stop.held_again() for stop in self.stops),
        )

    @property
    def request(self) -> GenerateRequest:
        """The whole request, as the device may read it. Raises ConfigurationError when nothing is asked."""
        messages = tuple(labelled.message for labelled in (*self.history, *self.turn))
        try:
            return GenerateRequest(messages=messages, sampling=self.sampling, cache_salt=self.cache_salt)
        except ValueError as error:
            raise ConfigurationError(str(error), hint="ask something") from None


def system_text(system: str | None) -> tuple[Labelled, ...]:
    """Return the system message of a conversation, if it has one."""
    _check_text("the system text", system or "")
    return (_said(Message(role=Role.SYSTEM, content=system)),) if system and system.strip() else ()


def compose(prompt: str | tuple[Message | LabelledMessage, ...], sources: tuple[Source, ...]) -> tuple[Labelled, ...]:
    """Turn the parts of a call into labelled messages.

    The text of every source comes first, in the order given, then a blank line and the question: models answer better
    when the question is the last thing they read. Messages are taken as they are, sources going before the last one.
    Raises ConfigurationError when nothing is asked.
    """
    messages = (Message(role=Role.USER, content=prompt),) if isinstance(prompt, str) else prompt
    for name, text in (*(("the prompt", m.content) for m in messages), *((s.label, s.text) for s in sources)):
        _check_text(name, text)
    said = tuple(_said(message) for message in messages)
    if not said or said[-1].message.role is not Role.USER:
        raise ConfigurationError("the last message must be the user's", hint="end the messages with what is asked")
    parts = [from_source(source) for source in sources if source.text.strip()]
    if not said[-1].message.content.strip() and not parts:
        raise ConfigurationError("the prompt is empty", hint="ask something")
    return (*said[:-1], _asked(said[-1], parts))


def _check_text(name: str, text: str) -> None:
    """Refuse what no encoding can carry. Raises ConfigurationError naming the place, never the text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{name} is not text: character {error.start} is half of a pair", hint="decode the input as UTF-8 first"
        ) from None


def _said(message: Message | LabelledMessage) -> Labelled:
    """Label one message: as a transcript did, else by who speaks. Raises ConfigurationError for an unknown role."""
    if isinstance(message, Message):
        return Labelled(message=message, segments=(_unmarked(message),))
    try:
        plain = Message(role=Role(message.role), content=message.content)
    except ValueError:
        raise ConfigurationError(f"there is no role {message.role!r}", hint="user, assistant or system") from None
    return Labelled(message=plain, segments=_kept(message))


def _unmarked(message: Message) -> Segment:
    """Label a message that came without one: as its caller's own words, but for what some tool said."""
    if message.role is Role.TOOL:
        return unlabelled(message.content)
    return typed(message.content, source="system text" if message.role is Role.SYSTEM else "prompt")


def _kept(message: LabelledMessage) -> tuple[Segment, ...]:
    """Return what a transcript said a message is made of, or the label it shows where that is stricter.

    What a person let go was for its own call.
    """
    segments = accounted(message.content, message.segments) if message.segments else ()
    limited = message.max_route != Route.PRIVATE_CLOUD
    if segments and limited == any(not segment.may_leave for segment in segments):
        return tuple(segment.held_again() for segment in segments)
    ends = Route.ON_DEVICE if limited or segments else Route.PRIVATE_CLOUD
    return (forked(message.content, ends, message.source),)


def _now(said: tuple[Labelled, ...], screener: "Screener", cleared: frozenset[str]) -> tuple[Labelled, ...]:
    return tuple(replace(each, segments=tuple(examined(s, screener, cleared) for s in each.segments)) for each in said)


def _screened(said: tuple[Labelled, ...], screener: "Screener", cleared: frozenset[str]) -> tuple[Labelled, ...]:
    """Examine what was said before: of that, a person can clear the system text alone, which belongs to every turn."""
    return tuple(each for one in said for each in _now((one,), screener, cleared if one.is_system else NOTHING))


def _asked(said: Labelled, parts: list[Segment]) -> Labelled:
    if said.message.content.strip():
        parts = [*parts, *said.segments]
    content = BETWEEN.join(part.text.strip() for part in parts) if len(parts) > 1 else parts[0].text
    return Labelled(message=replace(said.message, content=content), segments=tuple(parts))


def overflow(*, needed: int, limit: int) -> ContextOverflowError:
    """Return the error for a request that fits nowhere. tokens; ``needed`` is an estimate where nothing could count."""
    return ContextOverflowError(
        f"the request needs about {needed} tokens and the model's context holds {limit}; nothing was cut or sent",
        limit=limit,
        needed=needed,
        hint="shorten the input, or ask about a part of it",
    )


def estimate_tokens(request: GenerateRequest) -> int:
    """Estimate the framed request: four UTF-8 bytes a token, as English text and most code have; more for others."""
    return 1 + sum(
        len(m.content.encode("utf-8", "replace")) // BYTES_PER_TOKEN + FRAME_TOKENS for m in request.messages
    )


def settle_tokens(estimate: int, windows: Sequence[int], counted: int | None) -> int:
    """Return what the router may rely on: a count; else the estimate; else, where it is too close to call, a fit.

    An estimate can be a quarter off. Just above a window it doesn't refuse: the engine counts before it reads a token.
    """
    if counted is not None:
        return counted
    close = [window for window in windows if window < estimate <= window * (1 + ESTIMATE_ERROR)]
    return min(close, default=estimate)
