"""S5: an exception at any line that a request runs in gateway or worker tells nobody outside what the request says.

A test build notes which lines each of several requests runs, and then raises at them, one at a time, an exception that
carries the prompt. What the caller sees outside the seal, what all three processes print, and what the admin port
shows is searched for it; then the node must answer again.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.injecting import PROGRAMS, Lab, Place, Request, functions
from tests.pcc_server.leaks import leaks
from tests.pcc_server.node_client import Client
from tests.pcc_server.test_keeps_nothing import flipped, outer

CANARY = "canary-3b90d5e7-every-line"
IN_CI = 120  # lines of each engine; the soak takes all
# What grpc itself calls: it tells a caller whatever is raised there, so no content is handled in these few lines.
OUTERMOST = {("gateway", "pcc_server/gateway.py", name) for name in ("guarded.<locals>.wrapped", "_Methods.service")}
# Some of what every request passes, so that none of the labs looks elsewhere.
WAY = {
    "gateway Gateway.invoke",
    "gateway Gateway._relay",
    "gateway Stream.put",
    "gateway admit",
    "worker Worker._serve",
    "worker Worker._open",
    "worker RequestOpener.open",
    "worker Admission.place",
    "worker Answer._stream",
    "worker ReplySealer.finish",
    "worker Outlet.put",
}
REST_S = 2.2  # more than two beats of the worker
PATIENCE_S = 12.0  # of a caller: longer than anything in the node waits for something else here
LATE = "DEADLINE_EXCEEDED"
LEAST_SHARE = 0.75  # of the lines of every function that is passed: the rest needs what no request here does
MOSTLY = 0.9  # a line that depends on time is not reached each time
OFTEN = 0.6  # those of an engine with a thread of its own, and what it has learned of earlier requests
KINDS = ("ValueError", "KeyError", "RuntimeError", "OSError", "MemoryError")

pytestmark = pytest.mark.linux


def carrying(*, words: int = 1, max_tokens: int = 3) -> GenerateRequest:
    """A request that carries the canary wherever there is room for text."""
    message = Message(role=Role.USER, content=f"{CANARY} " * words)
    sampling = Sampling(max_tokens=max_tokens, stop=(CANARY, f"{CANARY} again"))
    return GenerateRequest(messages=(message,), sampling=sampling)


# --- requests --------------------------------------------------------------------------------------


def sent(client: Client, data: bytes, *, timeout: float = PATIENCE_S) -> list[object]:
    call = client.send(data, timeout=timeout)
    try:
        list(call)
    except grpc.RpcError as error:
        return [*outer(call), error, getattr(error, "debug_error_string", str)()]
    return outer(call)


def answered(client: Client) -> list[object]:
    return sent(client, client.encode(client.seal(carrying())[0]))


def too_long(client: Client) -> list[object]:
    return sent(client, client.encode(client.seal(carrying(words=8_500))[0]))


def too_late(client: Client) -> list[object]:
    return sent(client, client.encode(client.seal(carrying(words=20, max_tokens=400))[0]), timeout=0.2)


def replayed(client: Client) -> list[object]:
    data = client.encode(client.seal(carrying())[0])
    return sent(client, data) + sent(client, data)


def damaged(client: Client) -> list[object]:
    sealed, _ = client.seal(carrying())
    data = codec.encode_invoke_request(sealed.header, flipped(sealed.body, 70), sealed.key_packages)
    return sent(client, data) + sent(client, CANARY.encode())


def cancelled(client: Client) -> list[object]:
    call = client.send(client.encode(client.seal(carrying(words=20, max_tokens=400))[0]), timeout=PATIENCE_S)
    try:
        next(call)
    except grpc.RpcError as error:
        return [*outer(call), error]
    call.cancel()
    return [call.code(), call.details(), *answered(client)]  # the second is behind the cancel


def listed(client: Client) -> list[object]:
    return plain(client, "/grpc.health.v1.Health/Check", b"") + plain(client, codec.METHODS["Directory.Get"], b"")


def plain(client: Client, method: str, data: bytes) -> list[object]:
    call: Any = client.channel.unary_stream(method)(data, timeout=PATIENCE_S)
    try:
        list(call)
    except grpc.RpcError as error:
        return [*outer(call), error]
    return outer(call)


SCENARIOS: tuple[Request, ...] = (
    answered,
    too_long,
    too_late,
    replayed,
    damaged,
    cancelled,
    listed,
)


# --- the lines -------------------------------------------------------------------------------------


def plan(lab: Lab) -> dict[Place, Request]:
    """Return each line that any of the requests runs, with the first request that does.

    Functions that run as far without any request are left out: what keeps a process going may end it.
    """
    lab.recover()
    idle = lab.lines(rest)
    found: dict[Place, Request] = {}
    for scenario in SCENARIOS:
        for place in lab.lines(scenario):
            found.setdefault(place, scenario)
    wanted = {function_of(place) for place in found.keys() - idle} - OUTERMOST
    return {place: scenario for place, scenario in found.items() if function_of(place) in wanted}


def rest(_client: Client) -> list[object]:
    time.sleep(REST_S)
    return []


@cache
def _functions(file: str) -> dict[int, tuple[str, int]]:
    """Which function each line of a file belongs to, the innermost; and how many lines that has."""
    return {line: (name, len(lines)) for name, lines in functions(file) for line in lines}


def function_of(place: Place) -> tuple[str, str, str]:
    return place.program, place.file, _functions(place.file).get(place.line, ("", 0))[0]


def coverage(places: Collection[Place]) -> dict[str, float]:
    """Return for each program the share of executable lines that were reached, in functions that were."""
    share = {}
    for program in PROGRAMS:
        own = [place for place in places if place.program == program]
        reached = Counter((place.file, *_functions(place.file).get(place.line, ("", 0))) for place in own)
        share[program] = sum(reached.values()) / sum(total for _, _, total in reached)
    return share


class Findings(NamedTuple):
    """lines: of the plan; the rest is of those that were taken. waited, leaks: where, and what."""

    lines: int
    taken: int
    raised: int
    starts: int
    waited: list[Place]
    leaks: list[tuple[Place, str]]


def raise_at_each(lab: Lab, *, most: int | None = None, kinds: Sequence[str] = KINDS) -> Findings:
    """Raise at every line of the plan, or at so many of them, the kinds in turn."""
    planned = plan(lab)
    assert {f"{program} {name}" for program, _, name in map(function_of, planned)} >= WAY
    assert all(share > LEAST_SHARE for share in coverage(planned).values())
    places = sorted(planned)
    if most is not None and len(places) > most:
        places = sorted(random.Random(most).sample(places, most))  # noqa: S311 - the same ones each time
    before = sum(handle.starts for handle in lab.handles.values())
    raised, waited, leaking = 0, [], []
    for at, place in enumerate(places):
        fired, seen, shown = lab.fail(place, planned[place], kinds[at % len(kinds)], text_at(place))
        raised += fired
        waited += [place] if planned[place] is not too_late and any(LATE in str(text) for text in seen) else []
        leaking += [(place, text) for text in leaks(CANARY, *seen, *shown)]
    starts = sum(handle.starts for handle in lab.handles.values()) - before
    found = Findings(len(planned), len(places), raised, starts, waited, leaking)
    print(found, coverage(planned))  # noqa: T201 - the figures of a soak
    return found


# --- the tests -------------------------------------------------------------------------------------


@contextmanager
def openai_lab() -> Iterator[Lab]:
    """Start a node before an engine of others."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EngineProcess("vllm", "--delay-s", "0.002") as engine,
        Lab(*engine.options(Path(folder)), engine="openai") as lab,
    ):
        yield lab


LABS: dict[str, Callable[[], AbstractContextManager[Lab]]] = {
    "fake": lambda: Lab("--fake-delay-ms", "2"),
    "openai": openai_lab,
    "mlx": lambda: Lab("--model", "starter", engine="mlx"),
}


def text_at(place: Place) -> str:
    return f"{carrying().messages[0].content} at {place}"


def tells_nothing(engine: str, *, reached: float = MOSTLY, **how: Any) -> None:
    with LABS[engine]() as lab:
        found = raise_at_each(lab, **how)
    assert found.leaks == []
    assert found.waited == []
    assert found.raised > reached * found.taken


@pytest.mark.parametrize(("engine", "most"), [("fake", 250), ("openai", 60)])
def test_an_exception_at_a_line_of_a_request_tells_nobody_of_it(engine: str, most: int) -> None:
    tells_nothing(engine, most=most)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["fake", "openai"])
def test_an_exception_at_any_line_of_a_request_tells_nobody_of_it(engine: str) -> None:
    tells_nothing(engine)


@pytest.mark.soak
@pytest.mark.model
def test_an_exception_at_a_line_of_the_mlx_engine_tells_nobody_of_it() -> None:
    tells_nothing("mlx", most=300, reached=OFTEN)


@pytest.mark.soak
def test_an_exception_that_ends_the_process_tells_nobody_of_it() -> None:
    tells_nothing("fake", most=100, kinds=("SystemExit",))


@pytest.mark.parametrize(("program", "function"), [("gateway", "Stream.put"), ("worker", "Worker._open_stream")])
def test_a_link_that_breaks_is_made_anew_and_the_worker_keeps_its_keys(program: str, function: str) -> None:
    with LABS["fake"]() as lab:
        worker = lab.node.pid("worker")
        place = next(place for place in sorted(lab.lines(answered)) if function_of(place)[::2] == (program, function))
        assert lab.fail(place, answered, "ValueError", text_at(place))[0]
        assert lab.node.events("link_lost")
        assert lab.node.pid("worker") == worker


# A handler without our guard around it, and a log that has room for text.
BARE = """
if program == "gateway":
    import grpc
    generic = grpc.stream_stream_rpc_method_handler
    grpc.stream_stream_rpc_method_handler = lambda wrapped: generic(inner(wrapped))
    def inner(wrapped):
        cells = dict(zip(wrapped.__code__.co_freevars, wrapped.__closure__ or ()))
        return cells["handler"].cell_contents if "handler" in cells else wrapped
"""
TALKING = """
import os
from pcc_server import events
events.fault = lambda error: os.write(2, repr(error).encode() + b"\\n")
"""


@pytest.mark.parametrize(
    ("fault", "program", "function"),
    [
        (BARE, "gateway", "admit"),
        (TALKING, "worker", "Worker._open"),
    ],
)
def test_control_what_an_unguarded_build_tells_is_found(fault: str, program: str, function: str) -> None:
    with Lab("--fake-delay-ms", "2", fault=fault) as lab:
        places = sorted(lab.lines(answered))
        place = next(place for place in places if function_of(place)[::2] == (program, function))
        raised, seen, shown = lab.fail(place, answered, "RuntimeError", text_at(place))
        assert raised
        assert leaks(CANARY, *seen, *shown)
