"""S5: an exception at any line that a request runs in gateway or worker tells nobody outside what the request says.

A test build notes which lines each of several requests runs, and then raises at them, one at a time, an exception that
carries the prompt. What the caller sees outside the seal, what all three processes print, and what the admin port
shows is searched for it; then the node must answer again.
"""

import contextlib
import http.client
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.errors import WireError
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.injecting import PROGRAMS, Handle, Place, functions, injected
from tests.pcc_server.leaks import leaks
from tests.pcc_server.node_client import Client, Node, until
from tests.pcc_server.test_keeps_nothing import ended, flipped, outer

CANARY = "canary-3b90d5e7-every-line"
SHOWN = ("/metrics", "/startupz", "/readyz")
IN_CI = 120  # lines of each engine; the soak takes all
# The frame that keeps errors from grpc: it handles no content, and nothing of ours is around it.
OUTERMOST = ("gateway", "pcc_server/gateway.py", "guarded.<locals>.wrapped")
REST_S = 2.2  # more than two beats of the worker
PATIENCE_S = 5.0  # of a caller whose reply may never end
KINDS = ("ValueError", "KeyError", "RuntimeError", "OSError", "MemoryError")

pytestmark = pytest.mark.linux


Scenario = Callable[[Client], list[object]]


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


SCENARIOS: tuple[Scenario, ...] = (
    answered,
    too_long,
    too_late,
    replayed,
    damaged,
    cancelled,
    listed,
)


# --- the node --------------------------------------------------------------------------------------


class Lab:
    """A node of the test build, its handles, and a client that is made anew when the worker was."""

    def __init__(self, *options: str, engine: str = "fake", fault: str = "") -> None:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="every-line-")))
            command = injected(folder, fault=fault)
            self.handles = {program: Handle(folder, program) for program in PROGRAMS}
            for handle in self.handles.values():
                opened.callback(handle.close)
            words = ("--admin", "127.0.0.1:0", "--max-running", "64", *options, *(("--fake-delay-ms", "2") * (engine == "fake")))
            self.node = opened.enter_context(Node(*words, engine=engine, command=command))
            for handle in self.handles.values():
                handle.wait_started()
            self.client = Client(self.node)
            opened.callback(lambda: self.client.close())
            self._opened = opened.pop_all()
        self._read = [0, 0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def lines(self, scenario: Scenario) -> set[Place]:
        """Return the lines that a request runs."""
        for handle in self.handles.values():
            handle.begin(do="note")
        scenario(self.client)
        return {
            Place(program, file, line) for program, handle in self.handles.items() for file, line in handle.stop()[1]
        }

    def fail(self, place: Place, scenario: Scenario, kind: str) -> tuple[bool, list[str]]:
        """Raise at a line during a request. Returns whether it was raised, and everything that holds the canary."""
        handle = self.handles[place.program]
        handle.begin(do="arm", file=place.file, line=place.line, kind=kind, text=f"{carrying()!r} {CANARY} {place}")
        seen = scenario(self.client)
        fired, _ = handle.stop()
        self.recover()
        return fired, leaks(CANARY, *seen, *self.shown(), *self.news())

    def recover(self) -> None:
        """Wait until the node answers; a new worker has new keys."""
        until(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ask("well?", max_tokens=1).receipt)
        except (grpc.RpcError, WireError):
            self._connect_again()
            return False

    def _connect_again(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            fresh = Client(self.node)
            self.client.close()
            self.client = fresh

    def shown(self) -> Iterator[object]:
        """Yield what the admin port shows."""
        for path in SHOWN:
            connection = http.client.HTTPConnection(str(self.node.ready["admin"]), timeout=10)
            connection.request("GET", path)
            response = connection.getresponse()
            yield response.read().decode()
            yield response.getheaders()
            connection.close()

    def news(self) -> Iterator[str]:
        """Yield what launcher, gateway and worker have printed since it was asked last."""
        for at, lines in enumerate((self.node.stdout, self.node.stderr)):
            new = lines[self._read[at] :]
            self._read[at] += len(new)
            yield from new


def plan(lab: Lab) -> dict[Place, Scenario]:
    """Return each line that any of the requests runs, with the first request that does.

    Functions that run as far without any request are left out: what keeps a process going may end it.
    """
    lab.recover()
    idle = lab.lines(rest)
    found: dict[Place, Scenario] = {}
    for scenario in SCENARIOS:
        for place in lab.lines(scenario):
            found.setdefault(place, scenario)
    wanted = {function_of(place) for place in found.keys() - idle} - {OUTERMOST}
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


def raise_at_each(lab: Lab, most: int | None = None) -> tuple[Counter[str], list[str]]:
    """Raise at every line of the plan, or at so many of them. Returns what was counted, and every leak."""
    planned = plan(lab)
    places = sorted(planned)
    if most is not None and len(places) > most:
        places = sorted(random.Random(most).sample(places, most))
    counted: Counter[str] = Counter(planned=len(planned))
    found: list[str] = []
    for number, place in enumerate(places):
        fired, said = lab.fail(place, planned[place], KINDS[number % len(KINDS)])
        counted["raised" if fired else "not reached again"] += 1
        found += [f"{place}: {text}" for text in said]
    counted["starts"] = sum(handle.starts for handle in lab.handles.values())
    return counted, found


# --- the tests ---------------------------------------------------------------------------------------


def test_dev() -> None:
    import os, sys
    t=time.time()
    with Lab() as lab:
        print("up", time.time()-t); t=time.time()
        p = plan(lab)
        print(len(p), coverage(p), time.time()-t); t=time.time()
        by = Counter((x.program, x.file) for x in p)
        for k,v in by.most_common(): print(k,v)
        for file in sorted({x.file for x in p}):
            for prog in PROGRAMS:
                got = {x.line for x in p if x.program==prog and x.file==file}
                fs = {_functions(file).get(l,("",0))[0] for l in got}
                for name, lines in functions(file):
                    if name in fs and lines-got: print("UNREACHED", prog, file, name, sorted(lines-got))
        places = sorted(p)
        n = int(os.environ.get("N", 150))
        places = sorted(random.Random(1).sample(places, min(n,len(places))))
        for number, place in enumerate(places):
            b=time.time()
            starts = lab.handles['worker'].starts+lab.handles['gateway'].starts
            try:
                fired, said = lab.fail(place, p[place], KINDS[number % len(KINDS)])
            except AssertionError:
                print("DEADX", place)
                print("DEAD", place, p[place].__name__, lab.node.stderr[-8:], list(lab.shown())[2:])
                continue
            took=time.time()-b
            st = lab.handles['worker'].starts+lab.handles['gateway'].starts-starts
            if took>1 or said or not fired or st: print(place, p[place].__name__, KINDS[number % len(KINDS)], "fired", fired, "took %.2f"%took, "starts", st, [x[:300] for x in said][:3], flush=True)
        print("all", time.time()-t)
