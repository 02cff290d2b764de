"""What a transport must survive: names and roots that are nonsense, a close in mid-stream, a name that moves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from hybrid.cloud import CloudEngine, GrpcTransport
from hybrid.errors import APIConnectionError, APITimeoutError, ConfigurationError, IntegrityError
from hybrid.exchange import Timeout
from hybrid.peers import Address, peers_of
from hybrid.remote import CloudEvent
from tests.sdk.grpc_node import GrpcNode
from tests.sdk.test_cloud import engine_for, events_of, text_of
from tests.trust.maker import ANSWER, FakeWorker, live


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", "."])
def test_a_name_no_resolver_can_take_is_a_connection_error(name: str) -> None:
    with pytest.raises(APIConnectionError, match="leads to no address"):
        asyncio.run(peers_of(Address.parse(f"{name}:1")))


@pytest.mark.parametrize("roots", [b"", b"no certificate", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_roots_that_are_no_certificates_are_a_configuration_error(roots: bytes) -> None:
    with pytest.raises(ConfigurationError, match="root certificates"):
        GrpcTransport("127.0.0.1:1", root_certificates=roots)


@contextlib.asynccontextmanager
async def hanging(after: int, **kw: Any) -> AsyncGenerator[tuple[CloudEngine, "asyncio.Task[list[CloudEvent]]"], None]:
    """Ask a node that falls silent after so many messages; enters when the client has read all of them."""
    worker, events = FakeWorker(live()), list[CloudEvent]()
    async with GrpcNode(worker, hang_after=after).serving() as node:
        engine = engine_for(GrpcTransport(node.address), worker.maker, max_retries=0, **kw)
        task = asyncio.ensure_future(events_of(engine, events))
        while not (node.running and text_of(events) == "".join(ANSWER[: max(0, after - 1)])):  # noqa: ASYNC110 - the node tells nobody
            await asyncio.sleep(0.005)
        yield engine, task
        await engine.close()


@pytest.mark.parametrize(("after", "kind"), [(0, APIConnectionError), (2, IntegrityError)])
def test_closing_the_connection_in_mid_call_is_a_typed_error_and_no_cancellation(
    after: int, kind: type[Exception]
) -> None:
    async def run() -> None:
        async with hanging(after) as (engine, task):
            await engine.close()
            with pytest.raises(kind):
                await task

    asyncio.run(run())


@pytest.mark.parametrize("after", [0, 2])
def test_a_cancelled_task_stays_cancelled_over_grpc(after: int) -> None:
    async def run() -> None:
        async with hanging(after) as (_, task):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


@pytest.mark.parametrize(("after", "phase"), [(0, "first_token"), (2, "idle")])
def test_a_silent_node_is_a_timeout_over_grpc_too(after: int, phase: str) -> None:
    async def run() -> None:
        async with hanging(after, timeout=Timeout(first_token=1, idle=1)) as (_, task):
            with pytest.raises(APITimeoutError) as caught:
                await task
            assert caught.value.phase == phase

    asyncio.run(run())


def test_a_name_that_was_this_machine_is_never_followed_to_another_one() -> None:
    leads_to = ["127.0.0.1"]

    async def moving(_host: str, _port: int) -> Sequence[str]:
        return list(leads_to)

    async def run() -> None:
        worker = FakeWorker(live())
        async with GrpcNode(worker).serving() as node:
            transport = GrpcTransport(f"node.example:{node.port}", Timeout(connect=2), resolver=moving)
            assert await transport.directory()
            assert transport.peer_is_loopback
            await transport.close()
            assert await transport.directory()  # still here: reached again
            await transport.close()
            leads_to[:] = ["192.0.2.1"]
            with pytest.raises(APIConnectionError, match="no longer leads to this machine"):
                await transport.directory()

    asyncio.run(run())
