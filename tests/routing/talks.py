"""Generated conversations in which every piece of text holds a canary, and the search for canaries that got out.

A person, a device model that quotes all it reads in disguise, tools, an index, files on disk, and a node that really
decrypts. Whether a canary may leave is known from where it was planted, not from what the product made of it.
"""

import base64
import json
import random
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid.aio import AsyncClient
from hybrid.conversation import AsyncSession
from hybrid.errors import HybridError, UnavailableError
from hybrid.events import Event, Handoff, Retry
from hybrid.routing import taint
from hybrid.routing.labels import LabelReason, Labels, Segment, from_source, typed
from hybrid.routing.policy import Mode
from hybrid.routing.screen import Screener
from hybrid.sources import Source
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.wire.codec import encode_request
from hybrid.wire.errors import ErrorCode, SealedCode
from hybrid.wire.types import GenerateRequest, Message, Role, Route
from tests.routing.cases import SCORER

DENIED = "operation ruby"
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru")
FAULTS = (*ErrorCode, *SealedCode, "cut_stream", "flip_bit", "no_directory")
REFUSAL = "I'm sorry, but I can't help with that."
CLOSE = 0.15  # to what these prompts score, from above: the cascade holds an answer back
A_CLIENT_LASTS = 12  # conversations; one that met a fault is left at once, since its breaker remembers


def word(number: int) -> str:
    """Spell a number in letters, so that no recogniser takes it for one."""
    return "".join(SYLLABLES[int(digit)] for digit in str(number))


def _base64(text: str) -> Iterable[str]:
    """Yield the middle of a text in Base64, at each of the three places where it can begin."""
    for shift in range(3):
        coded = base64.b64encode(b" " * shift + text.encode() + b" " * (-(shift + len(text)) % 3)).decode()
        yield coded[4 if shift else 0 : -4]


@dataclass(frozen=True)
class Canary:
    """A text planted in one place, and every form it could hide in."""

    text: str

    @cached_property
    def forms(self) -> tuple[str, ...]:
        text, quoted = self.text, urllib.parse.quote(self.text)
        return (
            text,
            text.lower(),
            text.replace(" ", ""),
            text.encode().hex(),
            text.encode().hex().upper(),
            quoted,
            urllib.parse.quote_plus(text),
            "".join(f"%{byte:02x}" for byte in text.encode()),
            *_base64(text),
            ", ".join(str(float(ord(c))) for c in text),
        )

    def within(self, text: str) -> bool:
        """Say whether a text holds it in any form."""
        return any(form in text for form in self.forms)


DISGUISES: tuple[Callable[[str], str], ...] = (
    str,
    str.lower,
    lambda text: text.replace(" ", ""),
    lambda text: text.encode().hex(),
    urllib.parse.quote,
    lambda text: base64.b64encode(text.encode()).decode(),
)


@dataclass
class World:
    """One node, one device and the dice, for many conversations. often: what to give a turn oftener than the rest."""

    folder: Path
    rng: random.Random
    node: MemoryTransport = field(default_factory=MemoryTransport)
    seen: Counter[str] = field(default_factory=Counter)
    often: "Maker | None" = None
    talk: "Talk | None" = None
    device_fails: bool = False

    def client(self) -> AsyncClient:
        """Make a client that sends whatever may leave, or one that tries the device first and doubts its answer."""
        return AsyncClient(
            engine=FakeEngine([self.quote]),
            transport=self.node,
            trust=self.node.policy,
            scorer=SCORER,
            threshold=self.rng.choice((0.0, 0.0, CLOSE)),
            max_retries=1,
            deny=(DENIED,),
            on_event=self.note,
        )

    def note(self, event: Event) -> None:
        if isinstance(event, Handoff):
            self.seen[f"to {event.to}: {event.reason}"] += 1
        elif isinstance(event, Retry):
            self.seen["retry"] += 1

    def quote(self, request: GenerateRequest) -> str:
        """Answer for the device: with every canary it read, in disguise."""
        if self.device_fails:
            raise UnavailableError("no memory", reason="not_enough_memory")
        assert self.talk is not None
        start = f"{REFUSAL} " if self.rng.random() < 0.1 else ""
        return start + "Answer: " + self.talk.quoted(" ".join(m.content for m in request.messages))


class Talk:
    """Plays one conversation and keeps what it planted: canaries that must stay, and canaries that may leave."""

    def __init__(self, world: World, client: AsyncClient, number: int) -> None:
        self.world, self.client, self.rng = world, client, world.rng
        self.number = number
        self.held: list[Canary] = []
        self.free: list[Canary] = []
        self.exits: list[str] = []  # what tools were given that would carry it out themselves
        self.session = self.start()
        self.screener = Screener(deny=(DENIED,))
        self.last: tuple[str, Canary | None] = ("", None)
        self.faulty = False

    # --- canaries ---

    def plant(self, *, held: bool, form: str = "Vault {} ruby") -> str:
        """Make a canary of its own for one place."""
        canary = Canary(form.format(word(1000 * self.number + len(self.held) + len(self.free))))
        (self.held if held else self.free).append(canary)
        return canary.text

    def release(self, canary: Canary | None) -> None:
        """Note that a person let it go."""
        if canary in self.held:
            self.held.remove(canary)
            self.free.append(canary)

    def quoted(self, text: str) -> str:
        """Return the canaries of a text, each in a disguise."""
        return " ".join(self.rng.choice(DISGUISES)(c.text) for c in (*self.held, *self.free) if c.within(text))

    def leaks(self, read: str) -> list[str]:
        """Return the canaries that got out and must not have."""
        out = "\n".join((read, *self.exits))
        return [canary.text for canary in self.held if canary.within(out)]

    # --- the conversation ---

    def start(self) -> AsyncSession:
        return self.client.session(system=self.rng.choice((None, None, "Be brief.")))

    async def play(self, turns: int) -> None:
        for number in range(turns):
            self.change(self.rng.choices(list(CHANGES), weights=list(CHANGES.values()))[0])
            self.world.device_fails = self.rng.random() < 0.05
            self.world.node.fault = self.rng.choice(FAULTS) if self.rng.random() < 0.06 else None
            self.faulty = self.faulty or self.world.node.fault is not None
            await self.turn(number)

    async def turn(self, number: int) -> None:
        prompt, canary = self.prompt(number)
        more: dict[str, Any] = {"policy": self.rng.choice((None, None, *Mode)), "stop": self.stops()}
        makers = self.rng.sample(list(MAKERS), self.rng.choice((0, 0, 1, 1, 2)))
        if self.world.often is not None and self.rng.random() < 0.6:
            makers = [self.world.often]
        sources = [made for maker in makers if (made := maker(self)) is not None]
        self.last = prompt, canary
        if self.rng.random() < 0.1:
            more["cleared"] = (self.rng.choice(("prompt", "prompt", "doctor.eml", "file", "answer")),)
            self.release(canary if more["cleared"] == ("prompt",) else None)
        await self.ask(prompt, sources=sources, **more)

    async def ask(self, prompt: str, **more: Any) -> None:
        with suppress(HybridError):
            if self.session.messages and self.rng.random() < 0.15:
                self.world.seen["fork"] += 1
                messages = [*self.session.messages, Message(role=Role.USER, content=prompt)]
                await self.client.ask(messages, **more)
            else:
                reply = await self.session.ask(prompt, **more)
                self.world.seen[f"answered {reply.route}"] += 1

    def prompt(self, number: int) -> tuple[str, Canary | None]:
        """Type a question: plain, with an identifier, or with words of the deny-list."""
        die, words = self.rng.random(), f"Turn {word(number)}, please."
        if die < 0.15:
            return f"{words} Write to {self.plant(held=True, form='ann.{}@rubyvault.com')} today.", self.held[-1]
        if die < 0.22:
            return f"{words} What of {self.plant(held=True, form='Operation Ruby {}')}?", self.held[-1]
        return f"{words} {self.plant(held=False)}", None

    def stops(self) -> tuple[str, ...]:
        """Choose stop strings: now and then words of something in the conversation that must stay."""
        die, said = self.rng.random(), self.context_text.lower()
        known = [canary.text for canary in self.held if canary.text.lower() in said]
        if die < 0.08 and known:
            return ("\n\n", self.rng.choice((str, str.lower, str.upper))(self.rng.choice(known)))
        if die < 0.1:
            return (self.plant(held=True, form="ann.{}@rubyvault.com"),)
        return ("END",) if die < 0.2 else ()

    def change(self, what: str) -> None:
        self.world.seen[what] += 1
        if what == "undo":
            self.session.undo()
        elif what == "pin":
            self.session.pin(self.rng.choice((None, *Route)))
        elif what in EDITS:
            path = self.world.folder / "talk.json"
            self.session.save(path)
            data = json.loads(path.read_text())
            EDITS[what](data, self)
            path.write_text(json.dumps(data))
            self.session = self.client.session()
            self.session.load(path)

    # --- what a program makes from text, each carried into the next turn as a source ---

    @property
    def context(self) -> Labels:
        """Every segment of the conversation so far."""
        history = self.session._transcript.history
        return Labels(tuple(segment for labelled in history for segment in labelled.segments))

    @property
    def context_text(self) -> str:
        return " ".join(message.content for message in self.session.messages)

    def carried(self, segment: Segment) -> Source:
        return Source(label=segment.source, text=segment.text, max_route=segment.max_route)

    def open_file(self) -> Source:
        return Source.text(f"Notes. {self.plant(held=False)}", label="file")

    def held_file(self) -> Source:
        return Source.text(f"Notes. {self.plant(held=True)}", label="file", max_route="on_device")

    def personal(self) -> Source:
        kind = self.rng.choice(("mail", "calendar", "contacts", "index", "something new"))
        return Source(label="doctor.eml", text=f"Dear Ann. {self.plant(held=True)}", kind=kind)

    def same_text(self) -> Source | None:
        """Give text that must stay a second time, under a label that would let it go."""
        held = [s for s in self.context.segments if s.why is LabelReason.SOURCE and not s.may_leave]
        return Source.text(self.rng.choice(held).text, label="copy") if held else None

    def file_with_identifier(self) -> Source:
        return Source.text(f"Call list. {self.plant(held=True, form='bob.{}@rubyvault.com')}", label="list.txt")

    def made(self) -> Source | None:
        """Make a summary, a title, a structured result or an embedding of the conversation."""
        if not self.session.messages:
            return None
        quoted = self.quoted(self.context_text) or "nothing"
        what = self.rng.choice(("summary", "title", "structured", "embedding"))
        if what == "embedding":
            quoted = "".join(c.text for c in (*self.held, *self.free) if c.within(self.context_text))
            return self.carried(taint.embedding([ord(c) for c in quoted], self.context))
        maker = {"summary": taint.summary, "title": taint.title, "structured": taint.structured}[what]
        return self.carried(maker(quoted, self.context))

    def tool_call(self) -> Source | None:
        """Let a model call a tool with what it read; give its result to the next turn."""
        if not self.session.messages:
            return None
        tool = taint.Tool(name="tool", max_route=self.rng.choice(list(Route)), network=self.rng.random() < 0.5)
        try:
            arguments = taint.tool_arguments(self.quoted(self.context_text), self.context, tool)
        except taint.Tainted:
            self.world.seen["tool refused"] += 1
            return None
        if tool.network and tool.max_route is Route.PRIVATE_CLOUD:
            self.exits.append(arguments.text)
        result = f"{self.plant(held=tool.max_route is Route.ON_DEVICE)} for {arguments.text}"
        return self.carried(taint.tool_result(result, tool, Labels((arguments,))))

    def chunk(self) -> Source:
        """Look something up in an index, in words typed or made from what was read; the chunk shows the query."""
        held = self.rng.random() < 0.5
        origin = from_source(Source(label="index", text="…", kind="index" if held else "file"))
        if self.session.messages and self.rng.random() < 0.5:
            query = taint.derived(self.quoted(self.context_text), self.context, source="query")
        else:
            query = typed("weather")
        return self.carried(taint.retrieved(f"{self.plant(held=held)} for {query.text}", origin, Labels((query,))))

    def redacted(self) -> Source:
        """Take an identifier out of a text: the rest of it may leave only if nothing but the identifier bound it."""
        held = self.rng.random() < 0.5
        rest, identifier = self.plant(held=held), self.plant(held=True, form="eve.{}@rubyvault.com")
        source = Source(label="letter", text=f"{rest} {identifier}", kind="mail" if held else "text")
        original = self.screener.segment(from_source(source))
        words = f"{rest} [e-mail]" if self.rng.random() < 0.7 else f"{rest} {identifier}"  # or it was missed
        return self.carried(taint.redacted(words, original, self.screener))


def _every_segment(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [segment for turn in data["turns"] for item in turn for segment in item["segments"]]


def _bare(data: dict[str, Any], _: Talk) -> None:
    for turn in data["turns"]:
        for item in turn:
            item.pop("segments")


def _edited(data: dict[str, Any], talk: Talk) -> None:
    """Change a file in ways that would let text go, short of writing over its label."""
    for segment in _every_segment(data):
        if segment["max_route"] == "on_device":
            segment.update(talk.rng.choice(CLAIMS))
    for item in (item for turn in data["turns"] for item in turn):
        if talk.rng.random() < 0.2:
            item["content"] += f" {talk.plant(held=True)}"  # words that no segment accounts for


CLAIMS: tuple[Mapping[str, Any], ...] = (
    {"why": "user_cleared", "max_route": "private_cloud"},
    {"why": "frame", "kind": "frame", "max_route": "private_cloud"},
    {"why": "recognised", "max_route": "private_cloud"},
    {"max_route": "everywhere"},
    {"max_route": None},
)
EDITS: Mapping[str, Callable[[dict[str, Any], Talk], None]] = {
    "reload": lambda _data, _talk: None,
    "reload without labels": _bare,
    "reload edited": _edited,
}
CHANGES = {"nothing": 55, "undo": 8, "pin": 6, "reload": 10, "reload without labels": 3, "reload edited": 6}
Maker = Callable[[Talk], Source | None]
MAKERS: tuple[Maker, ...] = (
    *(Talk.open_file, Talk.held_file, Talk.personal, Talk.same_text, Talk.file_with_identifier),
    *(Talk.made, Talk.tool_call, Talk.chunk, Talk.redacted),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of some conversations. leaks: canaries that got out, with the number of their conversation."""

    conversations: int
    leaks: tuple[tuple[int, str], ...]
    free: int
    free_seen: int
    requests: int
    seen: Counter[str]


async def play(folder: Path, numbers: Iterable[int], *, often: Maker | None = None, until_leak: bool = False) -> Result:
    """Play conversations, each with dice of its own, and search what the node decrypted after each."""
    world = World(folder, random.Random(0), often=often)  # noqa: S311 - a test's own dice, seeded anew below
    client, age, played, free, free_seen, requests = world.client(), 0, 0, 0, 0, 0
    leaks: list[tuple[int, str]] = []
    for number in numbers:
        world.rng.seed(number)
        talk = world.talk = Talk(world, client, number)
        await talk.play(world.rng.randint(1, 5))
        read = "\n".join(encode_request(request).decode("utf-8", "replace") for request in world.node.requests)
        requests += len(world.node.requests)
        world.node.requests.clear()
        world.node.sealed.clear()
        played += 1
        leaks += [(number, text) for text in talk.leaks(read)]
        free += len(talk.free)
        free_seen += sum(canary.within(read) for canary in talk.free)
        if leaks and until_leak:
            break
        age += 1
        if talk.faulty or age == A_CLIENT_LASTS:
            await client.close()
            client, age = world.client(), 0
    await client.close()
    return Result(
        conversations=played, leaks=tuple(leaks), free=free, free_seen=free_seen, requests=requests, seen=world.seen
    )
