"""Stopping: the engine lets go, the partial text stays, nothing more is emitted."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.aio import AsyncClient
from hybrid.client import Client, Stream
from hybrid.errors import APITimeoutError, ConfigurationError, GenerationCancelled
from hybrid.events import TextDelta
from hybrid.gate import HandoffPlan
from hybrid.testing import FakeEngine, MemoryTransport, Wait
from tests.support import Bench

LONG = [["one ", "two ", Wait(30), "three"]]
MODES = ["only_on_device", "only_private_cloud"]


def slow() -> Bench:
    """Both routes stop to think for half a minute after two words."""
    return Bench(device=FakeEngine(LONG), node=MemoryTransport(FakeEngine(LONG, model_id="fake")))


def running(bench: Bench) -> int:
    engine = bench.node.engine
    assert isinstance(engine, FakeEngine)
    return bench.device.running + engine.running


def settles(condition: Callable[[], bool], within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def two_words(stream: Stream) -> None:
    for event in stream:
        if isinstance(event, TextDelta) and event.text == "two ":
            return


@pytest.mark.parametrize("mode", MODES)
def test_cancel_frees_the_slot_and_keeps_the_text(mode: str) -> None:
    bench = slow()
    with Client(**bench.options(policy=mode)) as client:
        stream = client.stream("count")
        two_words(stream)
        assert running(bench) == 1
        stream.cancel()
        assert running(bench) == 0
        assert stream.text == "one two "
        assert stream.reply is not None
        assert (stream.reply.finish_reason, stream.reply.text) == ("cancelled", "one two ")
        assert list(stream) == []
        with pytest.raises(GenerationCancelled) as caught:
            stream.final()
    assert (caught.value.partial, caught.value.exit_code) == ("one two ", 130)


@pytest.mark.parametrize("mode", MODES)
def test_leaving_the_block_frees_the_slot(mode: str) -> None:
    bench = slow()
    with Client(**bench.options(policy=mode)) as client:
        with client.stream("count") as stream:
            two_words(stream)
        assert running(bench) == 0


def test_a_stream_nobody_holds_any_more_frees_the_slot() -> None:
    bench = slow()
    with Client(**bench.options(policy="only_on_device")) as client:
        stream = client.stream("count")
        two_words(stream)
        del stream
        gc.collect()
        assert settles(lambda: running(bench) == 0)


def test_closing_the_client_stops_what_runs() -> None:
    bench = slow()
    client = Client(**bench.options(policy="only_on_device"))
    stream = client.stream("count")
    two_words(stream)
    client.close()
    assert running(bench) == 0
    with pytest.raises(GenerationCancelled):
        list(stream)
    with pytest.raises(ConfigurationError, match="closed"):
        client.ask("again")
    client.close()


@pytest.mark.parametrize("mode", MODES)
def test_cancelling_the_task_passes_through_and_frees_the_slot(mode: str) -> None:
    bench = slow()

    async def stop_early() -> None:
        async with AsyncClient(**bench.options(policy=mode)) as client:
            task = asyncio.create_task(client.ask("count"))
            await asyncio.to_thread(settles, lambda: running(bench) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert running(bench) == 0

    asyncio.run(stop_early())


def test_the_asynchronous_stream_can_be_cancelled_from_beside() -> None:
    bench = slow()

    async def stop_early() -> None:
        async with AsyncClient(**bench.options(policy="only_on_device")) as client:
            stream = client.stream("count")
            async for event in stream:
                if isinstance(event, TextDelta) and event.text == "two ":
                    break
            await stream.cancel()
            assert running(bench) == 0
            assert (stream.text, stream.reply and stream.reply.finish_reason) == ("one two ", "cancelled")
            with pytest.raises(GenerationCancelled):
                await stream.final()

    asyncio.run(stop_early())


def test_a_stopped_turn_of_a_session_is_kept_as_far_as_it_was_shown() -> None:
    bench = slow()
    with Client(**bench.options(policy="only_on_device")) as client:
        session = client.session()
        stream = session.stream("count")
        two_words(stream)
        stream.cancel()
        assert [m.content for m in session.messages] == ["count", "one two "]
        assert session.last is not None
        assert session.last.finish_reason == "cancelled"


def test_ctrl_c_stops_the_turn_and_goes_on_up() -> None:
    bench = slow()
    with Client(**bench.options(policy="only_on_device")) as client:
        stream = client.stream("count")
        two_words(stream)
        threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert running(bench) == 0
        assert stream.text == "one two "


def test_stopping_while_a_person_is_asked_counts_as_a_no() -> None:
    bench = slow()
    asked = threading.Event()

    def ponder(_: HandoffPlan) -> bool:
        asked.set()
        raise KeyboardInterrupt

    with Client(**bench.options(policy="only_private_cloud", on_handoff=ponder)) as client:
        with pytest.raises(KeyboardInterrupt):
            client.ask("count")
        assert asked.is_set()
        assert bench.node.sealed == []


def test_too_slow_on_the_device_is_a_timeout_and_frees_the_slot() -> None:
    bench = slow()
    with Client(**bench.options(policy="only_on_device")) as client:
        with pytest.raises(APITimeoutError) as caught:
            client.ask("count", timeout=0.2)
        assert running(bench) == 0
    assert (caught.value.phase, caught.value.left_device, caught.value.partial) == ("total", "no", "one two ")


def test_too_slow_on_the_node_is_a_timeout_and_never_another_answer() -> None:
    bench = slow()
    with Client(**bench.options(policy="prefer_private_cloud")) as client:
        with pytest.raises(APITimeoutError) as caught:
            client.ask("count", timeout=0.3)
        assert running(bench) == 0
    assert (caught.value.left_device, caught.value.partial) == ("yes", "one two ")


def test_twenty_threads_share_one_client() -> None:
    bench = Bench()
    texts: list[str] = []
    with Client(**bench.options()) as client:
        threads = [threading.Thread(target=lambda: texts.append(client.ask("hi").text)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert texts == ["an answer from the device"] * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_an_error_instead_of_a_hang() -> None:
    program = """
import os, sys
from hybrid.client import Client
from hybrid.errors import ConfigurationError
from hybrid.testing import FakeEngine
client = Client(engine=FakeEngine())
client.ask("hi")
pid = os.fork()
if pid == 0:
    code = 1
    for call in (lambda: client.ask("hi"), lambda: client.explain("hi"), client.availability):
        try:
            call()
        except ConfigurationError as error:
            code = 0 if "forked" in str(error) else 2
    client.close()
    assert Client(engine=FakeEngine(["from the child"])).ask("hi").text == "from the child"
    os._exit(code)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0


def test_a_program_that_never_closes_its_client_still_ends() -> None:
    program = """
from hybrid.client import Client
from hybrid.testing import FakeEngine
client = Client(engine=FakeEngine())
client.ask("hi")
stream = client.stream("hi")
next(stream)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], timeout=30, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
