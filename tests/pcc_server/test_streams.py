"""P3: many sealed streams at once. None is lost, none is out of order, and a stream costs little memory."""

import asyncio
from pathlib import Path

import pytest

from bench._crowd import Crowd, Outcome, words
from tests.pcc_server.node_client import Node

TOKENS = 10


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def together(address: str, streams: int, watch: dict[str, int]) -> tuple[list[Outcome], dict[str, int]]:
    """Ask them all at once; returns what came, and the memory while they ran."""
    async with Crowd(address, streams=streams) as crowd:
        await asyncio.gather(*(crowd.ask(crowd.seal(tokens=1)) for _ in range(20)))
        sealed = [crowd.seal(tokens=TOKENS) for _ in range(streams)]
        tasks = [asyncio.create_task(crowd.ask(one)) for one in sealed]
        await asyncio.sleep(1.0)
        memory = {name: rss_bytes(pid) for name, pid in watch.items()}
        return await asyncio.gather(*tasks), memory


def run(streams: int) -> None:
    with Node("--max-running", str(streams), "--fake-delay-ms", "200") as node:
        watch = {name: node.pid(name) for name in ("gateway", "worker")}
        before = {name: rss_bytes(pid) for name, pid in watch.items()}
        outcomes, memory = asyncio.run(together(node.address, streams, watch))
    assert all(one.served for one in outcomes), {(one.code, one.told, one.broken) for one in outcomes}
    assert {one.text for one in outcomes} == {words(TOKENS)}
    assert {len(one.tokens_at) for one in outcomes} == {TOKENS}
    for name in watch:
        assert memory[name] - before[name] < 20e6 + streams * 256 * 1024, name
    assert memory["gateway"] < 250e6


@pytest.mark.linux
def test_two_hundred_streams_lose_nothing_and_keep_their_order() -> None:
    run(200)


@pytest.mark.linux
@pytest.mark.soak
def test_a_thousand_streams_lose_nothing_and_keep_their_order() -> None:
    run(1_000)


@pytest.mark.parametrize("fault", ["cut_stream", "reorder"])
def test_control_a_frame_that_is_lost_or_out_of_order_is_seen(fault: str) -> None:
    async def main(address: str) -> Outcome:
        async with Crowd(address) as crowd:
            return await crowd.ask(crowd.seal(tokens=40))

    with Node("--fault", fault) as node:
        outcome = asyncio.run(main(node.address))
    assert not outcome.served
    assert outcome.text != words(40)
