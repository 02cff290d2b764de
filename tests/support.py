"""What the SDK's tests share: both clients behind one face, a bench with both routes, events in words."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from hybrid.aio import AsyncClient
from hybrid.client import Client
from hybrid.events import Event
from hybrid.reply import Reply
from hybrid.routing.decision import Decision
from hybrid.testing import FakeEngine, MemoryTransport

# Between what the shipped weights make of HARD and of any few words: where a test says nothing else, it is about what
# follows from a route, and a retrained router must not change that.
CLEAR = 0.93
# Long, many steps, code, numbers, constraints.
HARD = (
    "Plan step by step, then prove each step: first compare options A) B) C), second derive 3x^2 + 2x = 17 and "
    "explain why, third write a Python function `def solve(x): return x ** 2` with tests, fourth estimate the cost of "
    "12 servers at 340 euros for 36 months, at most 500 words, must not exceed 10 steps, exactly 3 tables. "
) * 4
EASY = "hello"


class Face(Protocol):
    """The calls both clients have, without waiting."""

    def ask(self, prompt: Any, **how: Any) -> Reply: ...
    def events(self, prompt: Any, **how: Any) -> list[Event]: ...
    def explain(self, prompt: Any, **how: Any) -> Decision: ...


@dataclass
class SyncFace:
    """``Client``."""

    client: Client

    def ask(self, prompt: Any, **how: Any) -> Reply:
        return self.client.ask(prompt, **how)

    def events(self, prompt: Any, **how: Any) -> list[Event]:
        with self.client.stream(prompt, **how) as stream:
            return list(stream)

    def explain(self, prompt: Any, **how: Any) -> Decision:
        return self.client.explain(prompt, **how)


@dataclass
class AsyncFace:
    """``AsyncClient``, each call driven to its end on one loop."""

    client: AsyncClient
    runner: asyncio.Runner

    def ask(self, prompt: Any, **how: Any) -> Reply:
        return self.runner.run(self.client.ask(prompt, **how))

    def events(self, prompt: Any, **how: Any) -> list[Event]:
        async def collect() -> list[Event]:
            async with self.client.stream(prompt, **how) as stream:
                return [event async for event in stream]

        return self.runner.run(collect())

    def explain(self, prompt: Any, **how: Any) -> Decision:
        return self.runner.run(self.client.explain(prompt, **how))


@contextmanager
def sync_face(**given: Any) -> Iterator[SyncFace]:
    """Open a ``Client``."""
    with Client(**given) as client:
        yield SyncFace(client)


@contextmanager
def async_face(**given: Any) -> Iterator[AsyncFace]:
    """Open an ``AsyncClient`` on a loop of its own."""
    with asyncio.Runner() as runner:
        client = AsyncClient(**given)
        try:
            yield AsyncFace(client, runner)
        finally:
            runner.run(client.close())


Opener = Callable[..., AbstractContextManager[Face]]
FACES: dict[str, Opener] = {"sync": sync_face, "async": async_face}


@dataclass
class Bench:
    """A scripted device and a node in memory that remembers what it decrypted."""

    device: FakeEngine = field(default_factory=lambda: FakeEngine(["an answer from the device"]))
    node: MemoryTransport = field(default_factory=MemoryTransport)

    def options(self, **more: Any) -> dict[str, Any]:
        """Return what a client takes to have both routes."""
        parts = {"engine": self.device, "transport": self.node, "trust": self.node.policy}
        return {**parts, "threshold": CLEAR, **more}

    @property
    def node_read(self) -> str:
        """Every word the node has decrypted."""
        return "\n".join(m.content for request in self.node.requests for m in request.messages)


def kinds(events: list[Event]) -> list[str]:
    """Name events by their type."""
    return [type(event).__name__ for event in events]
