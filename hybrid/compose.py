"""From the parts of a call to a request and its labels; and how large a request is. Pure.

Text never travels without its labels: a message is made of segments, each with its own.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import ConfigurationError, ContextOverflowError
from .routing.labels import Labels, Segment, Source, from_source, strictest, typed
from .routing.policy import Mode
from .wire.types import GenerateRequest, Message, Role, Route, Sampling

BYTES_PER_TOKEN = 4
FRAME_TOKENS = 4  # what a chat template puts around one message, about
ESTIMATE_ERROR = 0.25
BETWEEN = "\n\n"  # what lies between a source and the next, and before the question


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A message and the segments it is made of: text never travels without its labels."""

    message: Message
    segments: tuple[Segment, ...]

    @property
    def max_route(self) -> Route:
        """The strictest label of its segments."""
        return strictest(segment.max_route for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call, as values.

    history: system text and earlier turns, oldest first.  wished: the sampling fields the caller named; the others are
    the answering model's own.  partition: whose cached context may be reused on the device.
    cache_salt: names it to a node's cache; empty where no turn follows.
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

    @property
    def labels(self) -> Labels:
        """Every segment of the whole request."""
        return Labels(tuple(s for labelled in (*self.history, *self.turn) for s in labelled.segments))

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
    return (_plain(Message(role=Role.SYSTEM, content=system)),) if system and system.strip() else ()


def compose(prompt: str | tuple[Message, ...], sources: tuple[Source, ...]) -> tuple[Labelled, ...]:
    """Turn the parts of a call into labelled messages.

    The text of every source comes first, in the order given, then a blank line and the question: models answer better
    when the question is the last thing they read. Messages are taken as they are, sources going before the last one.
    Raises ConfigurationError when nothing is asked.
    """
    messages = (Message(role=Role.USER, content=prompt),) if isinstance(prompt, str) else prompt
    for name, text in (*(("the prompt", m.content) for m in messages), *((s.label, s.text) for s in sources)):
        _check_text(name, text)
    if not messages or messages[-1].role is not Role.USER:
        raise ConfigurationError("the last message must be the user's", hint="end the messages with what is asked")
    parts = [from_source(source) for source in sources if source.text.strip()]
    if not messages[-1].content.strip() and not parts:
        raise ConfigurationError("the prompt is empty", hint="ask something")
    return (*(_plain(m) for m in messages[:-1]), _asked(messages[-1], parts))


def _check_text(name: str, text: str) -> None:
    """Refuse what no encoding can carry. Raises ConfigurationError naming the place, never the text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{name} is not text: character {error.start} is half of a pair", hint="decode the input as UTF-8 first"
        ) from None


def _plain(message: Message) -> Labelled:
    source = "system text" if message.role is Role.SYSTEM else "prompt"
    return Labelled(message=message, segments=(typed(message.content, source=source),))


def _asked(message: Message, parts: list[Segment]) -> Labelled:
    if message.content.strip():
        parts = [*parts, typed(message.content)]
    content = BETWEEN.join(part.text.strip() for part in parts) if len(parts) > 1 else parts[0].text
    return Labelled(message=dataclasses.replace(message, content=content), segments=tuple(parts))


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
