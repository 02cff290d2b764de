"""Nothing labelled ever reaches what the node decrypts: random conversations, modes, faults, reloads and retries."""

import base64
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.client import Client
from hybrid.conversation import Session
from hybrid.errors import HybridError, UnavailableError
from hybrid.routing.policy import Mode
from hybrid.sources import Source
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.wire.errors import ErrorCode, SealedCode
from hybrid.wire.types import GenerateRequest
from tests.support import HARD, Bench

CASES = 700  # each a conversation of one to six turns: more than 2,000 turns a run


@dataclass(frozen=True, kw_only=True)
class Step:
    """One turn of a generated conversation."""

    hard: bool
    held: bool
    open: bool
    mode: Mode | None
    fault: Any
    device_fails: bool
    before: str


STEPS = st.builds(
    Step,
    hard=st.booleans(),
    held=st.booleans(),
    open=st.booleans(),
    mode=st.sampled_from([None, *Mode]),
    fault=st.sampled_from([None, None, None, *ErrorCode, *SealedCode, "cut_stream", "flip_bit", "no_directory"]),
    device_fails=st.integers(0, 9).map(lambda number: number == 0),
    before=st.sampled_from(["", "", "", "undo", "reload", "pin", "unpin"]),
)


@dataclass
class Talk:
    """Plays a conversation and keeps the canaries it planted."""

    folder: Path
    forbidden: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    failing: bool = False

    def device(self, request: GenerateRequest) -> str:
        """Answer with a copy of everything read: a model that quotes is the worst case."""
        if self.failing:
            raise UnavailableError("no memory", reason="not_enough_memory")
        return " ".join(message.content for message in request.messages)

    def play(self, client: Client, node: MemoryTransport, steps: list[Step]) -> None:
        session = client.session()
        for number, step in enumerate(steps):
            session = self.prepare(client, session, step.before)
            node.fault, self.failing = step.fault, step.device_fails
            with suppress(HybridError):
                session.ask(*self.prompt(number, step), sources=self.sources(number, step), policy=step.mode)

    def prepare(self, client: Client, session: Session, what: str) -> Session:
        if what == "undo":
            session.undo()
        elif what == "reload":
            session.save(self.folder / "talk.json")
            session = client.session()
            session.load(self.folder / "talk.json")
        elif what:
            session.pin("private_cloud" if what == "pin" else None)
        return session

    def prompt(self, number: int, step: Step) -> tuple[str]:
        return (f"turn {number}. {HARD if step.hard else 'hello'}",)

    def sources(self, number: int, step: Step) -> list[Source]:
        found = []
        if step.open:
            self.allowed.append(f"Open-Canary {number} blue")
            found.append(Source.text(self.allowed[-1], label=f"open {number}"))
        if step.held:
            self.forbidden.append(f"Held-Canary {number} red")
            found.append(Source.text(self.forbidden[-1], label=f"held {number}", max_route="on_device"))
        return found


def disguises(canary: str) -> Iterator[str]:
    """Yield a text in the forms it could hide in."""
    yield canary
    yield canary.lower()
    yield canary.replace(" ", "")
    yield canary.encode().hex()
    yield urllib.parse.quote(canary)
    yield base64.b64encode(canary.encode()).decode().rstrip("=")[:-1]


def found(canaries: list[str], text: str) -> list[str]:
    return [canary for canary in canaries if any(form in text for form in disguises(canary))]


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=6), retries=st.integers(0, 19).map(lambda n: int(n == 0)))
def test_no_canary_under_a_label_is_ever_decrypted_by_the_node(tmp_path: Path, steps: list[Step], retries: int) -> None:
    talk = Talk(tmp_path)
    bench = Bench(device=FakeEngine([talk.device]))
    with Client(**bench.options(max_retries=retries)) as client:
        talk.play(client, bench.node, steps)
    assert found(talk.forbidden, bench.node_read) == []


def test_the_search_finds_what_may_leave(tmp_path: Path) -> None:
    step = Step(hard=True, held=False, open=True, mode=None, fault=None, device_fails=False, before="")
    talk = Talk(tmp_path)
    bench = Bench(device=FakeEngine([talk.device]))
    with Client(**bench.options()) as client:
        talk.play(client, bench.node, [step])
    assert found(talk.allowed, bench.node_read) == talk.allowed != []


@pytest.mark.parametrize("form", list(disguises("Held-Canary 3 red")))
def test_the_search_finds_every_disguise(form: str) -> None:
    assert found(["Held-Canary 3 red"], f"before {form} after") == ["Held-Canary 3 red"]
