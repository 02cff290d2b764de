"""An engine of others behind the node: what it is asked, what becomes of its answers, and how a request ends."""

import asyncio
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from hybrid.wire.errors import SealedCode
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Message, Role, Sampling, Usage
from pcc_server import control, dial
from pcc_server.config import Settings
from pcc_server.dialled import DialFailure, Dialled, direct
from pcc_server.engines import Loaded, open_engine
from pcc_server.engines.http import Patience
from pcc_server.engines.openai import OpenAIEngine, Served
from pcc_server.engines.openai_kinds import KINDS
from pcc_server.errors import Sealed, StartFailure
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.node_client import Client, Node, ask, until
from tests.pcc_server.scripted_engine import CONTEXT, MODEL, WORDS
from tests.pcc_server.worker_build import worker_after

HASTY = Patience(connect_s=2.0, reply_s=2.0, first_s=0.4, idle_s=0.4)


@pytest.fixture(scope="module")
def vllm() -> Iterator[EngineProcess]:
    with EngineProcess("vllm", "--delay-s", "0.005") as process:
        yield process


@pytest.fixture(scope="module")
def loaded(vllm: EngineProcess) -> Loaded:
    return open_engine(vllm.settings())


def engine_of(process: EngineProcess, patience: Patience = HASTY) -> OpenAIEngine:
    """An engine without any look at its settings."""
    return OpenAIEngine(KINDS[process.kind], Served(MODEL, CONTEXT), direct(process.settings()), patience=patience)


def answer(engine: object, request: GenerateRequest, partition: str = "") -> list[Chunk]:
    async def run() -> list[Chunk]:
        return [chunk async for chunk in engine.generate(request, partition=partition)]  # type: ignore[attr-defined]

    return asyncio.run(run())


def told(run: Callable[[], object]) -> SealedCode:
    with pytest.raises(Sealed) as raised:
        run()
    return raised.value.code


# --- answers ---------------------------------------------------------------------------------------


def test_an_answer_streams_with_counts_and_without_reasoning(loaded: Loaded) -> None:
    chunks = answer(loaded.engine, ask("one two three", max_tokens=100))
    assert "".join(chunk.text for chunk in chunks) == "".join(f"word{n} " for n in range(WORDS))
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage == Usage(input=3, output=WORDS)
    assert sum(chunk.tokens for chunk in chunks) == WORDS
    assert [chunk.progress for chunk in chunks if chunk.progress] == [(0, 3), (3, 3)]
    assert chunks[-1].timing
    assert chunks[-1].timing.decode_s > 0


def test_a_cut_answer_says_length(loaded: Loaded) -> None:
    last = answer(loaded.engine, ask("one", max_tokens=4))[-1]
    assert (last.finish_reason, last.usage) == (FinishReason.LENGTH, Usage(input=1, output=4))


def test_every_sampling_field_is_sent_so_that_no_default_of_the_engine_decides(
    vllm: EngineProcess, loaded: Loaded
) -> None:
    sampling = Sampling(max_tokens=7, temperature=0.5, top_p=0.9, repetition_penalty=1.1, seed=2**40, stop=("END",))
    message = Message(role=Role.USER, content="x")
    last = answer(loaded.engine, GenerateRequest(messages=(message,), sampling=sampling))[-1]
    sent = vllm.asked[-1]
    salt = sent.pop("cache_salt")
    assert len(salt) == 64
    assert sent == {
        "model": MODEL,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "seed": 2**40,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": -1,
        "min_p": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert last.params == {
        "max_tokens": 7,
        "temperature": "0.5",
        "top_p": "0.9",
        "repetition_penalty": "1.1",
        "seed": 2**40,
        "stop": '["END"]',
    }


def test_a_field_an_engine_does_not_have_is_refused_never_dropped() -> None:
    request = dataclasses.replace(ask("x"), sampling=Sampling(repetition_penalty=1.2))
    with EngineProcess("ollama") as process:
        assert told(lambda: answer(engine_of(process), request)) is SealedCode.BAD_REQUEST
        assert answer(engine_of(process), ask("x"))[-1].finish_reason  # control


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("vllm", 3), ("llama.cpp", 3), ("sglang", 64 + 13), ("ollama", 64 + 13), ("llama-cpp-python", 64 + 3)],
)
def test_a_prompt_is_counted_by_the_engine_or_bounded_from_above(kind: str, tokens: int) -> None:
    with EngineProcess(kind) as process:
        assert asyncio.run(engine_of(process).count_tokens(ask("one two three"))) == tokens


def test_a_prompt_beyond_the_context_is_told_with_both_numbers(loaded: Loaded) -> None:
    with pytest.raises(Sealed) as raised:
        answer(loaded.engine, ask("word " * 5000))
    assert (raised.value.code, raised.value.first) == (SealedCode.CONTEXT_LENGTH, CONTEXT)
    assert raised.value.second == 5001


def test_an_answer_never_asks_for_more_than_the_context_holds(vllm: EngineProcess, loaded: Loaded) -> None:
    answer(loaded.engine, ask("word " * (CONTEXT - 10), max_tokens=100))
    assert vllm.asked[-1]["max_tokens"] == 10


def test_an_engine_that_counts_no_stream_is_counted_by_the_node() -> None:
    with EngineProcess("llama-cpp-python") as process:
        last = answer(engine_of(process), ask("one two three", max_tokens=5))[-1]
        assert last.usage == Usage(input=67, output=5)


def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    with EngineProcess("vllm", "--uds", str(tmp_path / "engine.sock")) as process:
        assert answer(open_engine(process.settings()).engine, ask("one"))[-1].finish_reason


# --- ends ------------------------------------------------------------------------------------------


def test_a_reader_that_goes_ends_the_engines_work_at_once(vllm: EngineProcess, loaded: Loaded) -> None:
    before = vllm.cancelled

    async def run() -> None:
        chunks: AsyncIterator[Chunk] = loaded.engine.generate(ask("long", max_tokens=4000))
        async for chunk in chunks:
            if chunk.text:
                break
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    until(lambda: vllm.cancelled == before + 1)


def test_no_connection_is_a_model_that_is_not_there() -> None:
    with EngineProcess("vllm") as process:
        engine = engine_of(process)
        assert answer(engine, ask("x"))
    assert told(lambda: answer(engine, ask("x"))) is SealedCode.MODEL_UNAVAILABLE


def test_a_hundred_answers_at_once_keep_apart(loaded: Loaded) -> None:
    async def one(words: int) -> tuple[int, int]:
        chunks = [chunk async for chunk in loaded.engine.generate(ask("w " * words, max_tokens=6))]
        usage = chunks[-1].usage
        return (words, usage.input) if usage else (words, -1)

    async def run() -> list[tuple[int, int]]:
        return await asyncio.gather(*(one(n) for n in range(1, 101)))

    assert all(asked == counted for asked, counted in asyncio.run(run()))


# --- dialling --------------------------------------------------------------------------------------


def test_the_worker_gets_descriptors_and_sentences_and_closes_what_comes_too_late() -> None:
    async def run() -> None:
        launcher, end = socket.socketpair()
        engine, near = socket.socketpair()
        with launcher, end, engine:
            dialled = Dialled(end, Settings(engine="openai", engine_kind="vllm", engine_port=1))
            waiting = asyncio.create_task(dialled())
            await asyncio.sleep(0)
            dialled.hear({"dialled": 1, "fd": near.detach()})
            with await waiting as connection:
                assert connection.send(b"x") == 1
            waiting = asyncio.create_task(dialled())
            await asyncio.sleep(0)
            dialled.hear({"dialled": 2, "error": "no"})
            with pytest.raises(DialFailure):
                await waiting
            assert engine.recv(2) == b"x"
            assert engine.recv(1) == b""  # ours was closed
            one, other = socket.socketpair()
            with one:
                dialled.hear({"dialled": 99, "fd": other.detach()})  # nobody waits any more
                assert one.recv(1) == b""

    asyncio.run(run())


# --- a whole node ----------------------------------------------------------------------------------


def test_a_node_answers_through_an_engine_and_cancels_it(tmp_path: Path) -> None:
    with (
        EngineProcess("vllm", "--delay-s", "0.01") as process,
        Node(*process.options(tmp_path), engine="openai") as node,
        Client(node) as client,
    ):
        assert node.ready["model"] == MODEL
        got = client.ask("hello there")
        assert got.receipt
        assert got.usage.usage == Usage(input=2, output=8)
        before = len(process.asked)
        sealed, _ = client.seal(ask("long", max_tokens=2000))
        call = client.send(client.encode(sealed))
        next(call)
        until(lambda: len(process.asked) > before)
        call.cancel()
        until(lambda: process.cancelled == 1)
        process.kill()
        assert client.ask("hello there").error.code is SealedCode.MODEL_UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            list(call)


DIALS_ITSELF = (
    "from pcc_server import engines; opened = engines.open_engine; "
    "engines.open_engine = lambda settings, _, *more: opened(settings, None, *more)"
)
UNCONFINED = "from pcc_server import harden; harden.stage1 = harden.stage2 = lambda *_, **__: harden.Protection()"


@pytest.mark.linux
def test_a_worker_that_dials_by_itself_reaches_nothing(tmp_path: Path) -> None:
    with EngineProcess("vllm") as process:
        node = Node(*process.options(tmp_path), engine="openai", command=worker_after(DIALS_ITSELF), wait=False)
        until(lambda: [event for event in node.events("phase") if event["phase"] == "LOAD"], 30)
        time.sleep(2)  # it tries twice a second
        node.stop()
        assert process.paths == []


@pytest.mark.linux
def test_control_without_the_sandbox_it_would(tmp_path: Path) -> None:
    build = worker_after(f"{UNCONFINED}; {DIALS_ITSELF}")
    with (
        EngineProcess("vllm") as process,
        Node(*process.options(tmp_path), engine="openai", command=build) as node,
        Client(node) as client,
    ):
        assert client.ask("hello").text
        assert "/health" in process.paths


def refused(options: tuple[str, ...]) -> str:
    """What a node says that does not start."""
    node = Node(*options, engine="openai", wait=False)
    until(lambda: node.process.poll() is not None, 60)
    assert node.stop() == 4
    return node.words()


def test_a_node_whose_engine_is_exposed_does_not_start(tmp_path: Path) -> None:
    with EngineProcess("vllm", "--host", "0.0.0.0") as process:  # noqa: S104 - the fault itself
        assert "engine.listener" in refused(process.options(tmp_path))


def test_a_node_says_which_setting_of_the_engine_it_refuses(tmp_path: Path) -> None:
    with EngineProcess("llama.cpp", "/slots") as process:
        assert "engine.slots" in refused(process.options(tmp_path))


def test_start_failures_say_what_to_do() -> None:
    with EngineProcess("vllm", "two-models") as process, pytest.raises(StartFailure, match="--model"):
        open_engine(process.settings())
    with EngineProcess("ollama") as process, pytest.raises(StartFailure, match=r"limits\.context"):
        open_engine(process.settings())
    with EngineProcess("vllm") as process:
        with pytest.raises(StartFailure, match="does not serve"):
            open_engine(process.settings(model="other"))
        with pytest.raises(StartFailure, match="holds"):
            open_engine(process.settings(context=CONTEXT + 1))
    with EngineProcess("llama.cpp") as process, pytest.raises(StartFailure, match="salts"):
        open_engine(process.settings(prefix_cache="salted"))


def test_the_control_socket_carries_what_was_dialled(vllm: EngineProcess) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dial.Dialler(vllm.settings()).answer(ours, 7)
        (message,) = control.Inbox(theirs).read()
        assert message["dialled"] == 7
        socket.socket(fileno=message["fd"]).close()
        dial.Dialler(dataclasses.replace(vllm.settings(), engine_port=0, engine_uds="/nowhere")).answer(ours, 8)
        (message,) = control.Inbox(theirs).read()
        assert message["dialled"] == 8
        assert "cannot be dialled" in message["error"]
