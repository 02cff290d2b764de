"""The thin parent: starts gateway and worker, repeats what they may say, collects evidence, ends with them.

It imports neither grpc nor mlx, holds no key and sees no request byte; it alone opens a TPM or SEV device.
Its main thread starts the children, because the kernel's parent-death signal follows the thread.
"""

import selectors
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from . import control, events, harden
from .attest.desk import Desk, collector_for
from .config import Settings
from .errors import UNAVAILABLE_EXIT
from .events import Event, Program
from .notices import Notices
from .process import Child

FAULT_EXIT = 1
FAREWELL_S = 2.0  # for the gateway to tell its callers that the worker is gone
PATIENCE_S = 5.0  # for a child to end after it was asked to
POLL_S = 0.5  # how often the reader of our own lines is looked for


class Launcher:
    """One run of the node: ``run()`` returns the exit code.

    A worker that ends takes the node with it: keys and node key lived in it, so nobody who pinned them could go on.
    """

    def __init__(self, settings: Settings, notices: Notices) -> None:
        self._settings = settings
        self._notices = notices
        self._selector = selectors.DefaultSelector()
        self._children: dict[Program, Child] = {}
        self._desk: Desk | None = None
        self._facts: dict[str, Any] = {}
        self._failure: dict[str, Any] | None = None
        self._ready = False
        self._signals = 0
        self._exit: int | None = None
        self._last_words = ""

    def run(self) -> int:
        """Serve until a signal or a failure. Raises StartFailure for a protection that is required and missing."""
        harden.stage1(Program.LAUNCHER, self._settings)
        woken = self._catch_signals()
        try:
            self._start()
            while self._exit is None:
                self._turn()
        finally:
            self._end_children()
            signal.set_wakeup_fd(-1)
            woken.close()
            self._selector.close()
        if self._last_words:
            self._notices.failure(self._last_words)
        self._notices.stopped(self._exit)
        return self._exit

    # --- start -------------------------------------------------------------------------------------

    def _catch_signals(self) -> socket.socket:
        reader, writer = socket.socketpair()
        writer.setblocking(False)  # noqa: FBT003 - the signature of the standard library
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._watch(reader, lambda: self._on_signals(len(reader.recv(64))))
        return reader

    def _start(self) -> None:
        self._notices.starting(self._settings)
        gateway_link, worker_link = socket.socketpair()
        with gateway_link, worker_link:
            for program, link in ((Program.GATEWAY, gateway_link), (Program.WORKER, worker_link)):
                child = self._children[program] = Child.start(program, link)
                control.write(child.control, settings=self._settings.to_json())
                self._watch(child.stderr, partial(self._on_said, child))
                self._watch(child.control, partial(self._on_news, child))
        make = partial(collector_for, self._settings.attester, self._settings.tpm)
        self._desk = Desk(make, self._children[Program.WORKER].control)

    def _watch(self, source: int | socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    # --- run ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(POLL_S):
            if key.fileobj in self._selector.get_map():  # an earlier event of this turn may have ended it
                key.data()
        if self._notices.reader_gone():
            self._exit = 0

    def _on_signals(self, count: int) -> None:
        self._signals += count
        if self._signals > 1 or not self._ready:
            self._exit = 0
            return
        self._notices.draining()
        control.write(self._children[Program.GATEWAY].control, drain_s=self._settings.drain_timeout_s)

    def _on_said(self, child: Child) -> None:
        try:
            for line in child.said():
                self._sort(child, line)
        except EOFError:
            self._selector.unregister(child.stderr)

    def _sort(self, child: Child, line: bytes) -> None:
        if events.parse(line):
            self._notices.event(line)
        elif self._ready:  # a library printed something: count it, show it to nobody
            child.stray_bytes += len(line) + 1
        else:
            child.early.append(line)

    def _on_news(self, child: Child) -> None:
        try:
            for message in child.news():
                self._learn(child, message)
        except EOFError:
            self._selector.unregister(child.control)
            self._on_end(child)

    def _learn(self, child: Child, message: dict[str, Any]) -> None:
        if self._desk and child.program is Program.WORKER and "collect" in message:
            self._desk.ask(message["collect"])
        self._failure = message.get("failed", self._failure)
        self._facts.update(message.get("facts", {}))
        if not self._ready and {"listen", "node_key"} <= self._facts.keys():
            self._ready = True
            self._notices.ready(self._settings, self._facts)

    # --- end ---------------------------------------------------------------------------------------

    def _on_end(self, child: Child) -> None:
        if self._exit is not None:  # the first end explains the others
            return
        child.end(PATIENCE_S)
        if child.program is Program.GATEWAY and self._signals and child.process.returncode == 0:
            self._exit = 0
        elif self._failure:
            self._last_words = str(self._failure["message"])
            self._exit = int(self._failure["exit_code"])
        else:
            self._lost(child)

    def _lost(self, child: Child) -> None:
        events.emit(Event.CHILD_ENDED, program=child.program, status=child.process.returncode)
        if self._ready:
            self._last_words = f"the {child.program} {child.how_it_ended()}; start the node again"
            self._exit = FAULT_EXIT
        else:
            self._drain_said(child)
            if "node_key" not in self._facts:  # from then on the worker may hold a request
                self._notices.early(child.early)
            self._last_words = f"the {child.program} {child.how_it_ended()} before the node was ready"
            self._exit = UNAVAILABLE_EXIT

    def _end_children(self) -> None:
        gateway, worker = (self._children.get(program) for program in (Program.GATEWAY, Program.WORKER))
        if gateway:  # first: its callers hear before the worker goes
            gateway.ask_to_end()
            gateway.end(0 if self._signals > 1 else FAREWELL_S)
        if worker:
            worker.ask_to_end()
            worker.end(0 if self._signals > 1 else PATIENCE_S)
        for child in self._children.values():
            self._drain_said(child)
            if child.stray_bytes:
                events.emit(Event.STRAY_OUTPUT, program=child.program, size_bytes=child.stray_bytes)

    def _drain_said(self, child: Child) -> None:
        while child.stderr in self._selector.get_map():
            self._on_said(child)
