"""A node in which an exception can be raised at any line of gateway and worker, at the next request."""

import contextlib
import http.client
import inspect
import json
import os
import select
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, Self

import grpc

from hybrid.wire.errors import WireError
from tests.pcc_server.injector import FDS
from tests.pcc_server.node_client import Client, Node, until
from tests.pcc_server.sandboxes import with_children

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("gateway", "worker")
ANSWER_S = 30.0
SHOWN = ("/metrics", "/startupz", "/readyz")
Line = tuple[str, int]  # file below the repository, number
Request = Callable[[Client], list[object]]  # makes one; returns what its caller saw outside the seal


class Place(NamedTuple):
    """Where to raise."""

    program: str
    file: str
    line: int


def injected(folder: Path, *, fault: str = "") -> tuple[str, ...]:
    """Words that start such a node, with its sandboxes. folder: for the pipes that ``Handle`` holds the ends of.

    fault: code that both children run first, for a control.

    Its launcher repeats every line that a child prints, is patient, and starts again at once whoever ended.
    """
    for program in PROGRAMS:
        for way in ("commands", "answers"):
            os.mkfifo(folder / f"{program}.{way}")
    source = ROOT.joinpath("tests/pcc_server/injector.py").read_text()  # a child may not read it
    child = f"there = {{'__name__': 'injector'}}; exec({source!r}, there); there['begin']({str(ROOT)!r})\n{fault}"
    launcher = f"""
import os, pcc_server.events as events, pcc_server.life as life, pcc_server.notices as notices
folder = {str(folder)!r}
ends = {{program: [os.open(f"{{folder}}/{{program}}.{{way}}", os.O_RDWR) for way in ("commands", "answers")]
        for program in {PROGRAMS!r}}}
plain = subprocess.Popen
def passing(words, **more):
    fds = ends[words[words.index("-m") + 1].rpartition(".")[2]]
    more["pass_fds"] = (*more["pass_fds"], *fds)
    more["env"] = more["env"] | {{{FDS!r}: ",".join(map(str, fds))}}
    return plain(words, **more)
subprocess.Popen = passing
events.parse = lambda line: True
notices.Notices.event = lambda self, line: self._tell(self._err, line.decode("utf-8", "replace"))
life.MOST_ENDS, life.FIRST_S, life.LONGEST_S = 10**6, 0.02, 0.02
"""
    return with_children(child, launcher=launcher)


class Handle:
    """The other ends of one program's pipes."""

    def __init__(self, folder: Path, program: str) -> None:
        self.program = program
        self._commands = os.open(folder / f"{program}.commands", os.O_RDWR)
        self._answers = os.open(folder / f"{program}.answers", os.O_RDWR)
        self._rest = b""
        self._messages: list[dict[str, Any]] = []
        self._number = 0
        self.starts = 0

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)

    def begin(self, **command: Any) -> None:
        """Have something done from now on: ``do="note"``, or ``do="arm"`` with where and what."""
        number = self._tell(command)
        while (message := self._next()).get("done") != number:
            if "hello" in message:  # the one before it ended, and with it perhaps the command
                number = self._tell(command)

    def stop(self) -> tuple[bool, set[Line]]:
        """End what was begun. Returns whether the exception was raised, and the lines that ran.

        A process that has ended in the meantime has raised it, and another is there.
        """
        number, lines = self._tell({"do": "stop"}), set[Line]()
        while (message := self._next()).get("done") != number:
            if "hello" in message:
                return True, lines
            lines |= {(file, line) for file, line in message.get("lines", ())}
        return bool(message["fired"]), lines

    def wait_started(self) -> None:
        """Wait for the process, or for the next one."""
        while "hello" not in self._next():
            pass

    def _tell(self, command: dict[str, Any]) -> int:
        self._number += 1
        os.write(self._commands, json.dumps({**command, "number": self._number}).encode() + b"\n")
        return self._number

    def _next(self) -> dict[str, Any]:
        while not self._messages:
            if not select.select([self._answers], [], [], ANSWER_S)[0]:
                raise TimeoutError(f"the {self.program} does not answer")
            *lines, self._rest = (self._rest + os.read(self._answers, 1 << 20)).split(b"\n")
            self._messages += map(json.loads, lines)
        message = self._messages.pop(0)
        self.starts += "hello" in message
        return message


def functions(file: str) -> Iterator[tuple[str, set[int]]]:
    """Yield every function of a file and its executable lines, without those of functions inside it."""
    waiting = [compile((ROOT / file).read_text(), file, "exec")]
    while waiting:
        code = waiting.pop()
        inner = [const for const in code.co_consts if isinstance(const, CodeType)]
        waiting += inner
        if code.co_flags & inspect.CO_OPTIMIZED:  # neither a module nor a class body
            lines = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
            yield code.co_qualname, lines


class Lab:
    """A node of the test build, its handles, and a client that is made anew when the worker was."""

    def __init__(self, *options: str, engine: str = "fake", fault: str = "") -> None:
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="every-line-")))
            command = injected(folder, fault=fault)
            self.handles = {program: Handle(folder, program) for program in PROGRAMS}
            for handle in self.handles.values():
                opened.callback(handle.close)
            # A drain does not wait long: a fault in cleaning up has left streams behind.
            words = ("--admin", "127.0.0.1:0", "--drain-timeout", "1", *options)
            self.node = opened.enter_context(Node(*words, engine=engine, command=command))
            for handle in self.handles.values():
                handle.wait_started()
            self.client = Client(self.node)
            opened.callback(self._leave)
            self._opened = opened.pop_all()
        self._read = [0, 0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _leave(self) -> None:
        self.client.close()

    def lines(self, request: Request) -> set[Place]:
        """Return the lines that a request runs."""
        for handle in self.handles.values():
            handle.begin(do="note")
        request(self.client)
        return {
            Place(program, file, line) for program, handle in self.handles.items() for file, line in handle.stop()[1]
        }

    def fail(self, place: Place, request: Request, kind: str, text: str) -> tuple[bool, list[object], list[object]]:
        """Raise an error with this text at a line during a request, and wait until the node serves again.

        Returns whether the line was reached, what the caller saw, and what else anybody could see.
        """
        handle = self.handles[place.program]
        handle.begin(do="arm", file=place.file, line=place.line, kind=kind, text=text)
        seen = request(self.client)
        raised, _ = handle.stop()
        self.recover()
        return raised, seen, [*self.shown(), *self.news()]

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
