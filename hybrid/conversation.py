"""Several turns: history with its labels, hand-off in both directions, undo, save and load.

The key-value cache of a conversation stays on the device, under the conversation's own name, and is reused turn by
turn. Nothing is written to disk unless ``save`` is called; labels are saved with the text.
"""

import json
import os
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .asked import Asked
from .compose import Labelled, LabelledMessage, system_text
from .errors import ConfigurationError
from .routing.features import Conversation
from .routing.labels import LabelReason, Segment
from .routing.outgoing import accounted
from .routing.policy import Mode
from .routing.signals import Doubt
from .routing.taint import derived, reloaded
from .wire.types import MAX_SALT_BYTES, Message, Role, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .aio import AsyncClient
    from .client import Client, Stream
    from .core import Turn
    from .reply import Reply
    from .routing.decision import Decision
    from .routing.labels import Source
    from .streaming import AsyncStream

FORMAT = "hybrid-conversation-1"
PRIVATE_MODE = 0o600
ROUTE_MODES = {Route.ON_DEVICE: Mode.ONLY_ON_DEVICE, Route.PRIVATE_CLOUD: Mode.ONLY_PRIVATE_CLOUD}


@dataclass(slots=True, kw_only=True)
class Transcript:
    """What has been said, with labels. Each turn is a tuple of messages, so that ``undo`` takes back a whole one.

    partition: names its cached context on the device.  cache_salt: names it to a node's prefix cache, inside the seal;
    a new conversation, also one that was loaded, has another.  limited: the system text came from a file that gives it
    no label to leave.  asked: the last question, also one that was taken back.
    """

    system: str | None = None
    limited: bool = False
    turns: list[tuple[Labelled, ...]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    pinned: Route | None = None
    partition: str = field(default_factory=lambda: secrets.token_hex(16))
    cache_salt: bytes = field(default_factory=lambda: secrets.token_bytes(MAX_SALT_BYTES), repr=False)
    last: "Reply | None" = None
    asked: Asked | None = None

    @property
    def instructions(self) -> tuple[Labelled, ...]:
        """The system text with its label."""
        said = system_text(self.system)
        return tuple(replace(s, segments=(_limited(s.message.content),)) for s in said) if self.limited else said

    @property
    def history(self) -> tuple[Labelled, ...]:
        """Every earlier message, oldest first."""
        return tuple(labelled for turn in self.turns for labelled in turn)

    @property
    def current_route(self) -> Route | None:
        """The side the conversation is on; None before its first answer."""
        return self.routes[-1] if self.routes else None

    @property
    def doubt(self) -> Doubt | None:
        """What is held against the last answer, which was shown all the same."""
        return Doubt(code=self.last.doubt) if self.last and self.last.doubt else None

    def around(self, text: str, *, rejected: bool) -> Conversation:
        """Say what is around the next question. rejected: the last answer would not do."""
        reask = self.asked.likeness(text) if self.asked else 0.0
        return Conversation(turn=len(self.turns) + 1, reask=round(reask, 4), rejected=rejected)

    def record(self, turn: "Turn", *, at: float) -> None:
        """Take in a turn that ended, or was stopped after its answer had begun. at: Unix seconds."""
        self.last = turn.reply
        self.asked = Asked(request_id=turn.request_id, text=turn.ask.question, at=at)
        if turn.decision is None or not turn.text:
            return
        here = turn.decision.route is Route.ON_DEVICE
        said = turn.ask.held_again().turn if here else turn.ask.turn
        answer = derived(turn.text, turn.context())
        message = Message(role=Role.ASSISTANT, content=turn.text)
        self.turns.append((*said, Labelled(message=message, segments=(answer,))))
        self.routes.append(turn.decision.route)

    def undo(self) -> bool:
        """Take back the last turn, question and answer; False when there is none."""
        if not self.turns:
            return False
        self.turns.pop()
        self.routes.pop()
        self.last = None
        return True

    def clear(self) -> None:
        """Forget every turn; the system text and a pin stay."""
        self.turns, self.routes, self.last, self.asked = [], [], None, None
        self.partition = secrets.token_hex(16)
        self.cache_salt = secrets.token_bytes(MAX_SALT_BYTES)

    def messages(self) -> tuple[LabelledMessage, ...]:
        """Return the transcript as plain values with labels."""
        return tuple(_shown(labelled) for labelled in self.history)

    def to_dict(self) -> dict[str, Any]:
        """Return everything needed to go on later. Cached context is not part of it."""
        turns = [[_saved(labelled) for labelled in turn] for turn in self.turns]
        routes = [str(route) for route in self.routes]
        limit = str(Route.ON_DEVICE if self.limited else Route.PRIVATE_CLOUD)
        return {"format": FORMAT, "system": self.system, "system_max_route": limit, "turns": turns, "routes": routes}

    def take_over(self, data: Any) -> None:
        """Replace the conversation by a saved one. Text without a label is taken to be on_device.

        Raises ConfigurationError when it is not a saved conversation.
        """
        try:
            if data["format"] != FORMAT:
                raise KeyError("format")  # noqa: TRY301 - one exit for every malformed file
            turns = [tuple(_loaded(item) for item in turn) for turn in data["turns"]]
            routes = [Route(route) for route in data["routes"]]
            system = data["system"]
            limited = data.get("system_max_route") != Route.PRIVATE_CLOUD
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise ConfigurationError("this is not a saved conversation") from None  # the cause could hold text
        if len(turns) != len(routes) or not (system is None or isinstance(system, str)):
            raise ConfigurationError("this saved conversation is damaged")
        self.clear()
        self.system, self.limited, self.turns, self.routes = system, limited, turns, routes

    def save(self, path: str | Path) -> None:
        """Write it to a file only its owner may read, whole or not at all."""
        path = Path(path).expanduser()
        staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(
                os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE), "w", encoding="utf-8"
            ) as file:
                json.dump(self.to_dict(), file, ensure_ascii=False)
            staging.replace(path)
        except OSError as error:
            staging.unlink(missing_ok=True)
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None

    def load(self, path: str | Path) -> None:
        """Replace the conversation by a saved one. Raises ConfigurationError naming the file."""
        path = Path(path).expanduser()
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ConfigurationError(f"{path} is not a saved conversation") from None
        self.take_over(data)


def _shown(labelled: Labelled) -> LabelledMessage:
    binding = next((s for s in labelled.segments if not s.may_leave), None)
    return LabelledMessage(
        role=str(labelled.message.role),
        content=labelled.message.content,
        max_route=str(labelled.max_route),
        source=binding.source if binding else "",
        segments=labelled.segments,
    )


def _saved(labelled: Labelled) -> dict[str, Any]:
    segments = [
        {
            "text": s.text,
            "max_route": str(s.max_route),
            "source": s.source,
            "why": str(s.why),
            "kind": s.kind,
            "types": list(s.types),
        }
        for s in labelled.segments
    ]
    return {"role": str(labelled.message.role), "content": labelled.message.content, "segments": segments}


def _loaded(item: dict[str, Any]) -> Labelled:
    content = item["content"]
    if not isinstance(content, str):
        raise TypeError("content")
    segments = tuple(_segment(entry) for entry in item.get("segments", ()))
    segments = accounted(content, segments) if segments else (_limited(content),)
    return Labelled(message=Message(role=Role(item["role"]), content=content), segments=segments)


def _segment(entry: dict[str, Any]) -> Segment:
    if "max_route" not in entry:
        return _limited(entry["text"])
    claimed = Segment(
        text=entry["text"],
        max_route=entry["max_route"],  # anything that is no route counts as on_device
        source=str(entry["source"]),
        why=LabelReason(entry["why"]),
        kind=str(entry["kind"]),
        types=tuple(str(kind) for kind in entry["types"]),
    )
    return reloaded(claimed)


def _limited(text: str) -> Segment:
    return Segment(
        text=text,
        max_route=Route.ON_DEVICE,
        source="a saved conversation",
        why=LabelReason.UNLABELLED,
        kind="unlabelled",
    )


class _SessionState:
    """What both sessions share: everything but waiting."""

    def __init__(self, *, system: str | None, policy: Mode | str | None) -> None:
        self._transcript = Transcript(system=system)
        self._policy = policy

    @property
    def messages(self) -> tuple[LabelledMessage, ...]:
        """The transcript so far, each message with its label."""
        return self._transcript.messages()

    @property
    def last(self) -> "Reply | None":
        """The last reply, also a stopped one; None after an error or an undo."""
        return self._transcript.last

    @property
    def system(self) -> str | None:
        """The system text of the conversation."""
        return self._transcript.system

    @system.setter
    def system(self, text: str | None) -> None:
        self._transcript.system, self._transcript.limited = text, False

    @property
    def pinned(self) -> Route | None:
        """The route every turn takes, if one is pinned."""
        return self._transcript.pinned

    def undo(self) -> bool:
        """Take back the last turn, question and answer; False when there is none."""
        return self._transcript.undo()

    def clear(self) -> None:
        """Forget every turn."""
        self._transcript.clear()

    def save(self, path: str | Path) -> None:
        """Write the conversation with its labels to a file only its owner may read."""
        self._transcript.save(path)

    def load(self, path: str | Path) -> None:
        """Go on with a saved conversation; text without a label stays on the device."""
        self._transcript.load(path)

    def _call(self, more: dict[str, Any]) -> dict[str, Any]:
        pinned = self._transcript.pinned
        given = more.pop("policy", None)
        if pinned and not given:
            return {**more, "policy": ROUTE_MODES[pinned], "person": "pinned", "transcript": self._transcript}
        return {**more, "policy": given or self._policy, "transcript": self._transcript}


class AsyncSession(_SessionState):
    """A conversation on an ``AsyncClient``. One turn at a time."""

    def __init__(self, client: "AsyncClient", *, system: str | None = None, policy: Mode | str | None = None) -> None:
        super().__init__(system=system, policy=policy)
        self._client = client

    def pin(self, route: Route | str | None) -> None:
        """Send every following turn to one route, within policy and labels; None decides afresh again.

        Raises PolicyError when the client's ceiling forbids it.
        """
        self._transcript.pinned = self._client._pinnable(route)  # noqa: SLF001 - two halves of one thing

    async def ask(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "Reply":
        """Answer one turn; takes what ``AsyncClient.ask`` takes, less ``system``."""
        async with self.stream(prompt, sources=sources, **more) as stream:
            return await stream.final()

    def stream(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "AsyncStream":
        """Stream one turn; takes what ``AsyncClient.stream`` takes, less ``system``."""
        return self._client._stream(prompt, sources=sources, **self._call(more))  # noqa: SLF001

    async def explain(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "Decision":
        """Say who would answer this turn, and why; sends nothing and changes nothing."""
        return await self._client._explain(prompt, sources=sources, **self._call(more))  # noqa: SLF001


class Session(_SessionState):
    """A conversation on a ``Client``. One turn at a time."""

    def __init__(self, client: "Client", *, system: str | None = None, policy: Mode | str | None = None) -> None:
        super().__init__(system=system, policy=policy)
        self._client = client

    def pin(self, route: Route | str | None) -> None:
        """Send every following turn to one route, within policy and labels; None decides afresh again.

        Raises PolicyError when the client's ceiling forbids it.
        """
        self._transcript.pinned = self._client._async._pinnable(route)  # noqa: SLF001 - two halves of one thing

    def ask(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "Reply":
        """Answer one turn; takes what ``Client.ask`` takes, less ``system``."""
        with self.stream(prompt, sources=sources, **more) as stream:
            return stream.final()

    def stream(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "Stream":
        """Stream one turn; takes what ``Client.stream`` takes, less ``system``."""
        return self._client._stream(prompt, sources=sources, **self._call(more))  # noqa: SLF001

    def explain(self, prompt: str, *, sources: "Sequence[Source]" = (), **more: Any) -> "Decision":
        """Say who would answer this turn, and why; sends nothing and changes nothing."""
        return self._client._explain(prompt, sources=sources, **self._call(more))  # noqa: SLF001
