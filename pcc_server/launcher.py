"""The thin parent: starts gateway and worker, watches and restarts them, collects evidence, ends with them.

It imports neither grpc nor mlx and sees no request byte; it alone opens a TPM or SEV device. The one secret it has is
the seed of the directory signer, which opens nothing: so a new worker is the same node to whoever pinned that key.
Its main thread starts the children, because the kernel's parent-death signal follows the thread.
"""

import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from . import control, dial, events, harden
from .attest.desk import Desk, collector_for
from .audit.inside import Inside
from .audit.own import describe
from .config import Settings
from .errors import UNAVAILABLE_EXIT, StartFailure
from .events import Event, Phase, Program
from .notices import Notices
from .post import Post
from .process import Child
from .settings_source import Reload
from .startup import Startup
from .watch import Watch

FAULT_EXIT = 1
AUDIT_EXIT = 5
FAREWELL_S = 2.0  # for the gateway to tell its callers that the worker is gone
PATIENCE_S = 5.0  # for a child to end after it was asked to
POLL_S = 0.5  # how often the clock and the reader of our own lines are looked at
SEED_BYTES = 32
FACTS = {
    Program.GATEWAY: frozenset(("listen", "admin")),
    Program.WORKER: frozenset(("node_key", "tier", "engine", "model")),
}  # who may say what about the node

Reread = Callable[[Settings], Reload]


def _nothing_new(_settings: Settings) -> Reload:
    return Reload()


class Launcher:
    """One run of the node: ``run()`` returns the exit code.

    reread: reads the settings again, at SIGHUP.  also: files it reads them from.
    Until the node was ready once, a child that ends takes the node with it; later it is started again.
    """

    def __init__(
        self, settings: Settings, notices: Notices, reread: Reread = _nothing_new, *, also: tuple[str, ...] = ()
    ) -> None:
        self._settings = settings
        self._notices = notices
        self._reread = reread
        self._also = also
        self._selector = selectors.DefaultSelector()
        self._posts = {program: Post(program) for program in (Program.GATEWAY, Program.WORKER)}
        self._signer = secrets.token_bytes(SEED_BYTES)
        self._after: list[list[int]] = []  # epochs and the numbers that directories used last in them
        self._startup = Startup()
        self._desk = Desk(partial(collector_for, settings.attester, settings.tpm))
        self._dialler = dial.Dialler(settings)
        self._facts: dict[str, Any] = {}
        self._ready = self._published = self._draining = False
        self._stops = 0
        self._stray = 0  # bytes that libraries printed in workers: the gateway shows them as a metric
        self._exit: int | None = None
        self._last_words = ""
        self._missing: dict[str, str] = {}  # protection that some process does without -> why
        self._audit: Inside | None = None
        self._protection: dict[str, Any] = {}  # what each child said of itself
        self._counts: dict[str, int] = {}  # for the gateway to show

    def run(self) -> int:
        """Serve until a signal or a failure.

        Raises StartFailure for a protection that is required and missing, or an engine that others can reach.
        """
        dial.refuse_exposed(self._settings)
        if self._settings.require_audit:
            self._audit = Inside(self._settings)  # before anything is closed
        self._missing = harden.stage1(Program.LAUNCHER, self._settings, also=self._also).missing
        woken = self._catch_signals()
        try:
            self._start()
            while self._exit is None:
                self._turn()
        finally:
            self._end_children()
            if self._audit:
                self._audit.close()
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
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._watch(reader, lambda: self._on_signals(reader.recv(64)))
        return reader

    def _start(self) -> None:
        self._notices.starting(self._settings)
        self._startup.begin()
        gateway_link, worker_link = socket.socketpair()
        with gateway_link, worker_link:
            self._launch(self._posts[Program.GATEWAY], gateway_link)
            self._launch(self._posts[Program.WORKER], worker_link)

    def _launch(self, post: Post, link: socket.socket) -> None:
        child = post.start(link)
        control.write(child.control, **self._first_words(post.program))
        self._watch(child.stderr, partial(self._on_said, child))
        self._watch(child.control, partial(self._on_news, child))

    def _first_words(self, program: Program) -> dict[str, Any]:
        """Return a child's settings. A new gateway gets the very port of the one before it."""
        if program is Program.WORKER:
            return {"settings": self._settings.to_json(), "signer": self._signer.hex(), "after": self._after}
        addresses = {name: self._facts[name] for name in ("listen", "admin") if name in self._facts}
        return {"settings": {**self._settings.to_json(), **addresses}}

    def _start_again(self, post: Post) -> None:
        """Start a child in place of one that ended, on a link of its own; the other child gets the other end."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._launch(post, ours)
            if post.program is Program.WORKER:
                self._startup.begin()
                self._write(Program.GATEWAY, fd=theirs.fileno(), link=True)
            else:
                self._write(Program.WORKER, fd=theirs.fileno(), link=True)
            self._tell_startup()
        events.emit(Event.CHILD_STARTED, program=post.program, ends=post.restarts.ends)

    def _watch(self, source: int | socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    # --- run ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._pause_s()):
            if key.fileobj in self._selector.get_map():  # an earlier event of this turn may have ended it
                key.data()
        if self._exit is None:
            self._keep_posts()
        if self._notices.reader_gone():
            self._exit = 0

    def _pause_s(self) -> float:
        due = [post.again_at - time.monotonic() for post in self._posts.values() if post.again_at is not None]
        return max(0.0, min([POLL_S, *due]))

    def _keep_posts(self) -> None:
        for post in self._posts.values():
            if post.again_at is not None and time.monotonic() >= post.again_at:
                self._start_again(post)
            elif post.child and (still_s := post.watch.still_s()):
                events.emit(Event.CHILD_STALLED, program=post.program, ms=int(still_s * 1000))
                post.watch = Watch()
                post.child.process.kill()

    def _on_signals(self, numbers: bytes) -> None:
        stops = len(numbers) - numbers.count(signal.SIGHUP)
        if stops < len(numbers) and not self._notices.terminal_gone():
            self._reload()
        elif stops < len(numbers):
            self._exit = 0
        if stops:
            self._stop(stops)

    def _stop(self, stops: int) -> None:
        self._stops += stops
        gateway = self._posts[Program.GATEWAY].child
        if self._stops > 1 or not self._ready or gateway is None:
            self._exit = 0
            return
        self._begin_drain()
        settings = self._settings
        control.write(gateway.control, drain_s=settings.drain_timeout_s, grace_s=settings.drain_grace_s)

    def _begin_drain(self) -> None:
        if not self._draining:
            self._draining = True
            self._notices.draining()

    def _reload(self) -> None:
        """Read the settings again and pass on what a running node takes over."""
        try:
            found = self._reread(self._settings)
        except StartFailure as failure:
            events.emit(Event.RELOAD_REFUSED)
            self._notices.failure(failure.message)
            return
        for sentence in found.refused:
            self._notices.failure(sentence)
        self._settings = replace(self._settings, **found.changed)
        for program in self._posts:
            self._write(program, reload=found.changed)
        events.emit(Event.RELOADED, changed=len(found.changed), refused=len(found.refused))

    def _write(self, program: Program, fd: int | None = None, **message: Any) -> None:
        """Tell a child something, if there is one now."""
        if child := self._posts[program].child:
            control.write(child.control, fd, **message)

    # --- what children say ---------------------------------------------------------------------------

    def _on_said(self, child: Child) -> None:
        try:
            for line in child.said():
                self._sort(child, line)
        except EOFError:
            self._selector.unregister(child.stderr)

    def _sort(self, child: Child, line: bytes) -> None:
        if events.parse(line):
            self._notices.event(line)
        elif child.served:  # a library printed something: count it, show it to nobody
            child.stray_bytes += len(line) + 1
            self._stray += len(line) + 1 if child.program is Program.WORKER else 0
        else:
            child.early.append(line)

    def _on_news(self, child: Child) -> None:
        try:
            for message in child.news():
                self._learn(child, message)
        except EOFError:
            self._selector.unregister(child.control)
            self._on_end(child)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # no program of ours
            events.fault(error)
            child.process.kill()

    def _learn(self, child: Child, message: dict[str, Any]) -> None:
        if "failed" in message:
            child.fail(message["failed"])
        if "protection" in message:
            self._missing |= message["protection"]["missing"]
            self._protection[child.program] = message["protection"]
        if "facts" in message and not child.served:  # before anybody could reach it; later it may not be ours any more
            child.served = True
            told = message["facts"]
            self._facts.update((name, told[name]) for name in FACTS[child.program] & told.keys())
        if child.program is Program.WORKER:
            self._learn_of_worker(child, message)
        else:
            self._learn_of_gateway(message)
        closed = self._protection.keys() == self._posts.keys()
        if not self._ready and self._published and closed and {"listen", "node_key"} <= self._facts.keys():
            self._ready = True
            if self._audit:
                self._ask_audit(self._audit)
            else:
                self._say_ready()

    def _say_ready(self) -> None:
        self._notices.unprotected(self._missing)
        self._notices.ready(self._settings, self._facts)

    def _ask_audit(self, audit: Inside) -> None:
        """Have the node looked at; what is red ends it before it is called ready."""
        pids = {program.value: post.child.process.pid for program, post in self._posts.items() if post.child}
        own = {"held": [], "missing": {}, **describe()}
        audit.ask(
            pids=pids | {Program.LAUNCHER.value: os.getpid()},
            facts=self._facts,
            told={**self._protection, Program.LAUNCHER.value: own},
        )
        self._watch(audit.fileno(), partial(self._on_audit, audit))

    def _on_audit(self, audit: Inside) -> None:
        if (red := audit.report()) is None:
            return
        self._selector.unregister(audit.fileno())
        self._counts["audit_failures"] = len(red)
        self._write(Program.GATEWAY, counts=self._counts)
        if red:
            self._exit = AUDIT_EXIT
            self._last_words = f"trust.require_audit is set and the audit is red: {'; '.join(red)}"
        else:
            self._say_ready()

    def _learn_of_worker(self, child: Child, message: dict[str, Any]) -> None:
        if "beat" in message:
            self._write(Program.GATEWAY, counts={"worker_stderr_bytes": self._stray, **self._counts})
            self._posts[Program.WORKER].watch.beat(int(message["beat"]), int(message.get("step_ms", 0)))
        if "published" in message:
            self._after = [[int(epoch), int(seq)] for epoch, seq in message["published"]]
        if "collect" in message:
            self._desk.ask(message["collect"], child.control)
        if "dial" in message:
            self._dialler.answer(child.control, int(message["dial"]))
        if "phase" in message:
            self._startup.enter(Phase(message["phase"]), int(message.get("pct", 0)))
            self._tell_startup()

    def _learn_of_gateway(self, message: dict[str, Any]) -> None:
        if message.get("phase") == Phase.READY:  # it has what the worker published
            self._published = True
        if message.get("phase") == Phase.DRAINING:  # by the admin port
            self._begin_drain()
        if "unlinked" in message:
            self._link_again()
        if "facts" in message:
            self._tell_startup()

    def _link_again(self) -> None:
        """Give both children a new link, if both are there: the one they had has ended without either of them."""
        if all(post.child for post in self._posts.values()):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._write(Program.GATEWAY, fd=ours.fileno(), link=True)
                self._write(Program.WORKER, fd=theirs.fileno(), link=True)

    def _tell_startup(self) -> None:
        self._write(Program.GATEWAY, startup=self._startup.told())

    # --- end ---------------------------------------------------------------------------------------

    def _on_end(self, child: Child) -> None:
        if self._exit is not None:  # the first end explains the others
            return
        child.end(PATIENCE_S)
        if child.program is Program.GATEWAY and self._draining and child.process.returncode == 0:
            self._exit = 0
        elif not self._ready:
            self._never_ready(child)
        else:
            self._lost(child)

    def _never_ready(self, child: Child) -> None:
        self._exit = UNAVAILABLE_EXIT
        if child.failure:
            self._last_words, self._exit = child.failure
            return
        events.emit(Event.CHILD_ENDED, program=child.program, status=child.process.returncode)
        self._last_words = f"the {child.program} {child.how_it_ended()} before the node was ready"
        self._drain_said(child)
        if not child.served:  # from then on it may hold a request
            self._notices.early(child.early)

    def _lost(self, child: Child) -> None:
        """Go on without a child that served, until it is started again."""
        events.emit(Event.CHILD_ENDED, program=child.program, status=child.process.returncode)
        self._drain_said(child)
        if child.failure:
            self._notices.failure(child.failure[0])
        elif not child.served:
            self._notices.early(child.early)
        self._close(child)
        post = self._posts[child.program]
        delay_s = post.ended(for_good=self._draining)
        if delay_s is None and not self._draining:
            events.emit(Event.GIVEN_UP, program=child.program, ends=post.restarts.ends)
        if child.program is Program.WORKER:
            self._tell_lost(delay_s)
        elif delay_s is None:
            self._exit = FAULT_EXIT
            self._last_words = f"the gateway {child.how_it_ended()}; start the node again"

    def _tell_lost(self, delay_s: float | None) -> None:
        """Tell the gateway that the worker is gone, and when there is another. delay_s: None: there will be none."""
        self._write(Program.GATEWAY, worker="gone")
        if delay_s is None:
            self._startup.enter(Phase.DEGRADED, reason="worker_ends")
        else:
            self._startup.begin(delay_s)
        self._tell_startup()

    def _end_children(self) -> None:
        for program, patience_s in ((Program.GATEWAY, FAREWELL_S), (Program.WORKER, PATIENCE_S)):
            child = self._posts[program].child  # the gateway first: its callers hear before the worker goes
            if child:
                child.ask_to_end()
                child.end(0 if self._stops > 1 else patience_s)
        for post in self._posts.values():
            if post.child:
                self._drain_said(post.child)
                self._close(post.child)

    def _drain_said(self, child: Child) -> None:
        while child.stderr in self._selector.get_map():
            self._on_said(child)

    def _close(self, child: Child) -> None:
        """Let go of a child that ended."""
        if child.control in self._selector.get_map():
            self._selector.unregister(child.control)
        child.close()
        if child.stray_bytes:
            events.emit(Event.STRAY_OUTPUT, program=child.program, size_bytes=child.stray_bytes)
