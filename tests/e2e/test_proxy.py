"""A way that rewrites statuses, reorders, delays, doubles or drops, before the true node, over true gRPC.

Never plaintext, never a wrong answer shown as verified, never more than the attempts the protocol allows.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from hybrid.cloud import CloudEngine, GrpcTransport
from hybrid.errors import HybridError, IntegrityError, ProtocolError, RemoteError
from hybrid.events import Retry
from hybrid.gate import Gate
from hybrid.remote import CloudEvent, CloudResult
from hybrid.routing.labels import Labels, typed
from hybrid.testing import FakeNode
from hybrid.trust.policy import Policy
from hybrid.trust.verify import Verifier
from hybrid.wire.codec import decode_invoke_reply
from hybrid.wire.constants import MAX_ATTEMPTS
from hybrid.wire.types import Chunk, Sampling
from tests.e2e.conftest import NodeOf
from tests.e2e.deployment import Bend, Hostile, hostile
from tests.trust.maker import asked, decision

CANARY = "plan-the-marmalade-7391"
WORDS = 8
ANSWER = "fake engine: " + "".join(f"token {n} " for n in range(1, WORDS + 1))
STATUSES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]
DAMAGE = (IntegrityError, ProtocolError)

Change = Callable[[list[bytes]], list[bytes]]


@pytest.fixture(scope="module")
def node(node_of: NodeOf) -> FakeNode:
    return node_of(None)


def through(node: FakeNode, bend: Bend, **given: Any) -> tuple[Hostile, list[CloudEvent], HybridError | None]:
    """Ask one question through a hostile way, with the usual retries but no waiting between them."""
    events: list[CloudEvent] = []
    with hostile([node.address], bend, **given) as way:
        error = asyncio.run(_ask(way.address, node.key, events))
    assert len(way.requests) <= MAX_ATTEMPTS
    assert len(set(way.requests)) == len(way.requests)  # the same bytes are never sent twice
    for word in (CANARY, "fake engine", "token 1"):
        assert word.encode() not in way.seen
    return way, events, error


async def _ask(address: str, key: str, events: list[CloudEvent]) -> HybridError | None:
    async def at_once(_: float) -> None: ...

    transport = GrpcTransport(address)
    engine = CloudEngine(transport, Verifier(Policy.pinned(key)), Gate(), sleep=at_once)
    try:
        nodes = await engine.nodes()
        request = asked(CANARY, sampling=Sampling(max_tokens=WORDS))
        cleared = engine.gate.clear(request, Labels((typed(CANARY),)), decision(), nodes)
        async for event in engine.stream(cleared):
            events.append(event)  # noqa: PERF401 - what came before an error counts
    except HybridError as error:
        return error
    finally:
        await engine.close()
    return None


def text_of(events: list[CloudEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk))


def verified(events: list[CloudEvent]) -> bool:
    return any(isinstance(event, CloudResult) for event in events)


def changed(change: Change = list, *, status: grpc.StatusCode | None = None, pause_s: float = 0.0) -> Bend:
    """Carry the whole reply, changed; end it with a status of the proxy's own, and words in it."""

    async def bend(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for message in change(await way.asked(way.targets[0], request)):
            await asyncio.sleep(pause_s)
            yield message
        if status is not None:
            await context.abort(status, f"send it in plaintext please {CANARY}"[:24])

    return bend


def test_the_control_an_unbent_way_gives_the_answer(node: FakeNode) -> None:
    way, events, error = through(node, changed())
    assert (error, text_of(events), verified(events)) == (None, ANSWER, True)
    assert len(way.requests) == 1


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_a_status_in_place_of_a_reply_is_a_typed_error_after_at_most_three_attempts(
    node: FakeNode, status: grpc.StatusCode
) -> None:
    way, events, error = through(node, changed(lambda _: [], status=status))
    assert isinstance(error, RemoteError)
    assert "plaintext" not in f"{error} {error.hint}"  # nobody's words but ours
    assert error.left_device == "ciphertext"
    assert text_of(events) == ""
    assert not verified(events)
    assert len(way.requests) == 1 + len([event for event in events if isinstance(event, Retry)])


@pytest.mark.parametrize("status", [None, *STATUSES], ids=lambda status: status.name if status else "OK")
def test_a_status_in_the_middle_of_a_reply_is_a_cut_reply_whatever_it_says(
    node: FakeNode, status: grpc.StatusCode | None
) -> None:
    way, events, error = through(node, changed(lambda m: m[: len(m) // 2], status=status))
    assert isinstance(error, IntegrityError)
    assert error.left_device == "yes"
    assert error.partial == text_of(events)
    assert ANSWER.startswith(text_of(events))
    assert not verified(events)
    assert len(way.requests) == 1  # a node has read it: no second attempt


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_a_status_after_a_whole_reply_takes_nothing_from_it(node: FakeNode, status: grpc.StatusCode) -> None:
    way, events, error = through(node, changed(status=status))
    assert (error, text_of(events), verified(events)) == (None, ANSWER, True)
    assert len(way.requests) == 1


def test_a_delayed_reply_is_the_same_reply(node: FakeNode) -> None:
    _, events, error = through(node, changed(pause_s=0.05))
    assert (error, text_of(events), verified(events)) == (None, ANSWER, True)


def shuffled(seed: int) -> Change:
    def change(messages: list[bytes]) -> list[bytes]:
        out = list(messages)
        random.Random(seed).shuffle(out)  # noqa: S311 - a test repeats itself
        return out

    return change


CHANGES: dict[str, Change] = {
    **{f"shuffled {seed}": shuffled(seed) for seed in range(8)},
    "reversed": lambda m: m[::-1],
    "all doubled": lambda m: [one for message in m for one in (message, message)],
    "first doubled": lambda m: [m[0], *m],
    "last doubled": lambda m: [*m, m[-1]],
    "first dropped": lambda m: m[1:],
    "second dropped": lambda m: [m[0], *m[2:]],
    "last dropped": lambda m: m[:-1],
    "every other dropped": lambda m: m[::2],
    "empty message": lambda m: [m[0], b"", *m[1:]],
    "all twice": lambda m: [*m, *m],
}


@pytest.mark.parametrize("name", CHANGES)
def test_messages_moved_doubled_or_dropped_never_make_a_verified_answer(node: FakeNode, name: str) -> None:
    taken: list[list[bytes]] = []

    def noted(messages: list[bytes]) -> list[bytes]:
        taken.append(messages)
        return CHANGES[name](messages)

    way, events, error = through(node, changed(noted))
    assert CHANGES[name](taken[0]) != taken[0]
    assert isinstance(error, DAMAGE)
    assert not verified(events)
    assert ANSWER.startswith(text_of(events))
    assert len(way.requests) == 1


def test_a_request_sent_on_twice_runs_once_and_its_second_answer_is_a_refusal(node: FakeNode) -> None:
    second: list[grpc.StatusCode] = []

    async def bend(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        first = await way.asked(way.targets[0], request)
        try:
            await way.asked(way.targets[0], request)
        except grpc.aio.AioRpcError as error:
            second.append(error.code())
        for message in first:
            yield message

    _, events, error = through(node, bend)
    assert second == [grpc.StatusCode.ALREADY_EXISTS]
    assert (error, text_of(events), verified(events)) == (None, ANSWER, True)


def test_the_reply_to_another_request_is_never_shown(node: FakeNode) -> None:
    kept: list[list[bytes]] = []

    async def bend(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        kept.append(await way.asked(way.targets[0], request))
        for message in kept[0]:
            yield message

    with hostile([node.address], bend) as way:
        first: list[CloudEvent] = []
        second: list[CloudEvent] = []
        assert asyncio.run(_ask(way.address, node.key, first)) is None
        assert isinstance(asyncio.run(_ask(way.address, node.key, second)), IntegrityError)
    assert text_of(first) == ANSWER
    assert text_of(second) == ""
    assert decode_invoke_reply(kept[1][0]).head  # the control: it did have a reply of its own


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda parts: parts[:-1],
        lambda parts: [*parts, *parts],
        lambda parts: [bytes([parts[0][0], *parts[0][1:-1], parts[0][-1] ^ 1]), *parts[1:]],
        lambda _: [b"send it in plaintext please"],
    ],
    ids=["nothing", "cut", "doubled", "a bit flipped", "words"],
)
def test_a_directory_that_was_bent_ends_before_anything_is_sealed(node: FakeNode, change: Change) -> None:
    way, events, error = through(node, changed(), directory=change)
    assert isinstance(error, RemoteError)
    assert error.left_device == "no"
    assert (way.requests, events) == ([], [])
