"""R6 on a real node: four times what it can serve is refused, not suffered. Fairness and deadlines beside it."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from bench._crowd import Crowd, Outcome, share
from hybrid.wire.errors import SealedCode
from pcc_server.access import AccessKey, digest_of
from tests.pcc_server.node_client import Client, Node, ask, until

T = TypeVar("T")
ROWS, TOKENS, DELAY_MS = 8, 10, 50
RATE = ROWS / (TOKENS * DELAY_MS / 1000)  # a second, at most: 16


def together(node: Node, main: Callable[[Crowd], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with Crowd(node.address, streams=400) as crowd:
            return await main(crowd)

    return asyncio.run(run())


async def closed(crowd: Crowd, seconds: float) -> float:
    """Keep every row busy and nobody waiting; returns answers a second: the peak."""
    end = time.monotonic() + seconds
    ended: list[float] = []

    async def client() -> None:
        while time.monotonic() < end:
            outcome = await crowd.ask(crowd.seal(tokens=TOKENS))
            assert outcome.served
            ended.append(outcome.ended)

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(ROWS)))
    return len(ended) / (max(ended) - begun)


async def offered(crowd: Crowd, per_s: float, seconds: float) -> list[Outcome]:
    """Send at random moments, whatever comes back."""
    rng = random.Random(3)  # noqa: S311 - a test's arrivals
    end = time.monotonic() + seconds
    tasks = []
    while time.monotonic() < end:
        tasks.append(asyncio.create_task(crowd.ask(crowd.seal(tokens=TOKENS))))
        await asyncio.sleep(rng.expovariate(per_s))
    return await asyncio.gather(*tasks)


def rate(outcomes: list[Outcome], *, after_s: float, seconds: float) -> float:
    """Answers a second between two moments of the run; the first rows only fill up."""
    begun = min(outcome.sent for outcome in outcomes)
    return sum(after_s <= one.ended - begun < seconds for one in outcomes if one.served) / (seconds - after_s)


def overload(node: Node, queue_s: float, seconds: float) -> None:
    async def main(crowd: Crowd) -> tuple[float, list[Outcome]]:
        return await closed(crowd, seconds / 2), await offered(crowd, 4 * RATE, seconds)

    peak, outcomes = together(node, main)
    served = [one for one in outcomes if one.served]
    refused = [one for one in outcomes if one.code]
    inside = [one for one in outcomes if one.told]
    assert len(served) + len(refused) + len(inside) == len(outcomes)
    assert {one.code for one in refused} == {"BUSY"}
    assert {one.told for one in inside} <= {SealedCode.OVERLOADED.name}
    assert all(0 < one.retry_ms <= 30_000 and one.has_details and not one.head for one in refused)
    assert len(refused) > len(outcomes) / 2  # three of four
    assert len(inside) < len(served) / 5
    assert share((one.waited_s for one in served), 0.99) <= 1.1 * queue_s  # as seen from outside, on a busy machine
    took = [statistics.median(one.ended - one.sent for one in some) for some in (refused, served)]
    assert took[0] < took[1] / 10
    assert rate(outcomes, after_s=1.0, seconds=seconds) >= 0.9 * peak


def test_four_times_what_can_be_served_is_refused_and_not_suffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCC_LIMITS_MAX_QUEUE_S", "1.5")
    with Node("--max-running", str(ROWS), "--max-queue", "200", "--fake-delay-ms", str(DELAY_MS)) as node:
        overload(node, 1.5, 6.0)


@pytest.mark.soak
def test_a_minute_of_four_times_what_can_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with Node("--max-running", str(ROWS), "--max-queue", "200", "--fake-delay-ms", str(DELAY_MS)) as node:
        overload(node, 8.0, 60.0)


# --- fairness ----------------------------------------------------------------------------------------------


def key_file(folder: Path, *tokens: bytes) -> Path:
    keys = [
        AccessKey(id=f"key{number}", digest=digest_of(token), per_minute=60_000, at_once=100, tokens=10**8 - 1).encode()
        for number, token in enumerate(tokens)
    ]
    file = folder / "keys"
    file.write_text("\n".join(keys) + "\n")
    return file


def test_one_request_beside_fifty_of_another_key_is_next(tmp_path: Path) -> None:
    """The control: with the key of the fifty it waits its turn among them."""
    many, one = b"pcc_" + b"m" * 43, b"pcc_" + b"o" * 43
    access = ("--access", "keys", "--access-keys", str(key_file(tmp_path, many, one)))

    async def main(address: str, token: bytes) -> tuple[Outcome, list[Outcome]]:
        async with Crowd(address, token=many) as crowd, Crowd(address, token=token) as beside:
            fifty = [asyncio.create_task(crowd.ask(crowd.seal(tokens=8))) for _ in range(50)]
            await asyncio.sleep(0.5)
            only = await beside.ask(beside.seal(tokens=8))
            return only, await asyncio.gather(*fifty)

    patient = tmp_path / "node.toml"  # a busy machine must not make the fifty wait too long
    patient.write_text("[limits]\nmax_queue_s = 60.0\n")
    options = ("--max-running", "4", "--max-queue", "60", "--fake-delay-ms", "20", "--config", str(patient))
    with Node(*options, *access) as node:
        for token, is_next in ((one, True), (many, False)):
            only, fifty = asyncio.run(main(node.address, token))
            assert only.served
            assert all(one.served for one in fifty)
            after = sum(one.first_frame > only.first_frame for one in fifty)
            assert (after > 20) is is_next


# --- deadlines and cancels ---------------------------------------------------------------------------------


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_in_the_open() -> None:
    with (
        Node("--max-running", "1", "--fake-delay-ms", "200") as node,
        Client(node) as client,
    ):
        client.ask("x" * 20, max_tokens=10)  # two seconds: from then on the node knows
        running = client.send(client.encode(client.seal(ask("x" * 100, max_tokens=100))[0]))
        next(running)
        call = client.send(client.encode(client.seal(ask("x" * 20, max_tokens=10))[0]), timeout=1.5)
        with pytest.raises(grpc.RpcError):
            next(call)
        assert (call.code(), call.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")  # not the client's own
        running.cancel()


def test_who_hangs_up_while_waiting_leaves_at_once() -> None:
    with Node("--max-running", "1", "--fake-delay-ms", "100") as node, Client(node) as client:
        running = client.send(client.encode(client.seal(ask("x" * 200, max_tokens=200))[0]))
        next(running)
        waiting = client.send(client.encode(client.seal(ask("hello"))[0]))
        next(waiting)  # its head: it is in the queue
        before = len(node.events("cancelled"))
        waiting.cancel()
        until(lambda: len(node.events("cancelled")) > before)
        assert running.is_active()
        running.cancel()
        assert client.ask("hello").receipt
