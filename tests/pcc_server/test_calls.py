"""Reading one request off a call, whatever its peer does."""

import asyncio
import functools
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from hybrid.wire.errors import Malformed
from pcc_server import calls
from pcc_server.calls import only


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


class Requests:
    """What grpc hands over: messages, then the end when the peer has sent it. ended: how its reads ended.

    error: raised then in place of the end, as the library does when the call was aborted.
    """

    def __init__(self, *messages: bytes, error: Exception | None = None) -> None:
        self._messages = list(messages)
        self._error = error
        self.over = asyncio.Event()
        self.ended: list[str] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._messages:
            return self._messages.pop(0)
        try:
            await self.over.wait()
        except asyncio.CancelledError:
            self.ended.append("cut short")
            raise
        self.ended.append("by itself")
        if self._error:
            raise self._error
        raise StopAsyncIteration


@pytest.mark.parametrize("messages", [(), (b"a",)])
@on_a_loop
async def test_a_call_that_ends_leaves_its_read_to_end_by_itself(messages: tuple[bytes, ...]) -> None:
    requests = Requests(*messages)
    reading = asyncio.ensure_future(only(requests))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert requests.ended == []
    requests.over.set()
    await asyncio.sleep(0.01)
    assert requests.ended == ["by itself"]


@on_a_loop
async def test_a_caller_that_never_finishes_is_refused_and_its_read_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "READ_S", 0.01)
    requests = Requests(b"a")
    with pytest.raises(Malformed, match="did not finish"):
        await only(requests)
    assert requests.ended == []


@on_a_loop
async def test_how_a_left_read_ends_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop would report an error that nobody looked at, and the node would count a fault for each such caller."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(calls, "READ_S", 0.01)
    requests = Requests(b"a", error=RuntimeError("the call was aborted"))
    with pytest.raises(Malformed):
        await only(requests)
    requests.over.set()
    await asyncio.sleep(0.01)
    assert requests.ended == ["by itself"]
    gc.collect()
    assert told == []


@pytest.mark.parametrize("messages", [(), (b"a", b"b"), (b"a", b"b", b"c")])
@on_a_loop
async def test_none_or_two_messages_are_malformed(messages: tuple[bytes, ...]) -> None:
    requests = Requests(*messages)
    requests.over.set()
    with pytest.raises(Malformed, match="exactly one"):
        await only(requests)


@on_a_loop
async def test_one_message_is_the_request() -> None:
    requests = Requests(b"a")
    requests.over.set()
    assert await only(requests) == b"a"
