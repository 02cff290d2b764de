"""An engine that lies, floods, stalls and echoes: every answer of it ends in a code, quickly, without a word of it."""

import asyncio
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.wire.errors import SealedCode
from pcc_server.errors import Sealed
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.leaks import leaks
from tests.pcc_server.node_client import Client, Node, ask, until
from tests.pcc_server.scripted_engine import FAULTS, WAITING
from tests.pcc_server.test_openai import answer, engine_of

CANARY = "canary-51c0de77-engine-words"
CODES = {
    "http_400": SealedCode.BAD_REQUEST,
    "http_404": SealedCode.MODEL_UNAVAILABLE,
    "http_429": SealedCode.OVERLOADED,
    "http_503": SealedCode.OVERLOADED,
    "error_busy": SealedCode.OVERLOADED,
}


@pytest.fixture(scope="module")
def hostile() -> Iterator[EngineProcess]:
    with EngineProcess("vllm") as process:
        yield process


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_misbehaving_engine_ends_in_a_code_and_nothing_else(hostile: EngineProcess, fault: str) -> None:
    with pytest.raises(Sealed) as raised:
        answer(engine_of(hostile), ask(f"{CANARY} fault:{fault}"))
    error = raised.value
    assert error.code is CODES.get(fault, SealedCode.ENGINE_FAILED)
    assert (error.first, error.second) == (0, 0)
    assert error.__cause__ is None
    assert not leaks(CANARY, str(error), repr(error), *traceback.format_exception_only(error))


def test_control_the_same_engine_answers_what_is_no_fault(hostile: EngineProcess) -> None:
    assert answer(engine_of(hostile), ask(CANARY))[-1].finish_reason


@pytest.mark.parametrize("fault", ["fault:count", "fault:count huge"])
def test_a_count_that_cannot_be_is_a_failure(hostile: EngineProcess, fault: str) -> None:
    """A number that no sealed error holds would leave the request without an end that its caller could check."""
    with pytest.raises(Sealed) as raised:
        asyncio.run(engine_of(hostile).count_tokens(ask(fault)))
    assert (raised.value.code, raised.value.second) == (SealedCode.ENGINE_FAILED, 0)


def test_nothing_a_hostile_engine_says_leaves_the_node(hostile: EngineProcess, tmp_path: Path) -> None:
    """Each misbehaviour once through a whole node; then its outputs, and what callers see, hold no word of a prompt."""
    seen: list[object] = []
    with Node(*hostile.options(tmp_path), engine="openai") as node, Client(node) as client:
        faults = [fault for fault in FAULTS if fault not in WAITING]
        for fault in faults:
            got = client.ask(f"{CANARY} fault:{fault}")
            assert got.error.code is CODES.get(fault, SealedCode.ENGINE_FAILED), fault
            assert got.receipt
            seen.append((got.error, got.receipt))
        assert client.ask("and still it answers").text
        until(lambda: len(node.events("request")) >= len(faults) + 1)
    assert not leaks(CANARY, *seen, *node.stdout, *node.stderr)
    assert not leaks("secret thoughts", *node.stdout, *node.stderr)


def test_control_the_engine_does_echo_the_prompt(hostile: EngineProcess) -> None:
    """The search above can fail: the canary comes back over the wire in the replies that it is looked for."""

    async def run() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", hostile.port)
        body = b'{"messages": [{"content": "%b fault:http_500"}], "max_tokens": 1}' % CANARY.encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        reply = await reader.read()
        writer.close()
        return reply

    assert leaks(CANARY, asyncio.run(run()).decode())
