"""The vault: holds keys, replay sets and the model, opens requests, answers them, keeps nothing.

It has no listening socket and opens no file after it is ready. Run by the launcher: ``python -m pcc_server.worker``.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from hybrid.wire.encoding import deployment_name
from hybrid.wire.envelope import ReplySealer, RequestOpener
from hybrid.wire.errors import ErrorCode, Malformed
from hybrid.wire.evidence import SOFTWARE, ModelEntry
from hybrid.wire.keys import IdentityKey
from hybrid.wire.note import NoteSigner

from . import child, control, errors, events, hygiene
from .admission import Admission, Bounds
from .announce import Publisher
from .answer import Answer, Kitchen
from .attest.remote import Remote
from .cache_partition import SECRET_BYTES
from .config import Settings, config_digest
from .dialled import Dialled
from .engines import Load, Loaded, open_engine
from .entry import Collect, Entry, Served, collect_software
from .errors import CONFIG_EXIT, DeadlinePassed, Refusal, Refused, StartFailure
from .events import Event, Phase, Program
from .keys import KeyRing
from .link import LINK_STREAM, Frame, Kind, Link, OpenStream, Operation, encode_refusal
from .outlet import IN_REPLY, REFUSALS, Cut, Outlet, Tamper
from .release import release_leaf
from .tally import Tally
from .upkeep import Upkeep

BEAT_S = 1.0
CLOSE_S = 3.0  # for the engine to free its model
CHUNK = 32  # tokens of a prompt; a slow engine reads a part of them in a turn: the watchdog rather waits too long


class Opened(NamedTuple):
    """A request that will be answered. The epoch key is not among it: no running reply may prolong that one's life.

    deadline: on the loop's clock.
    """

    plain: bytes
    sealer: ReplySealer
    identity: IdentityKey
    deadline: float


Running = dict[int, tuple[asyncio.Task[None], Outlet]]


def _tell_nobody(**_message: Any) -> bool:
    return True


class Worker:
    """Answers what comes over a link: one at a time, a new one whenever the gateway was started again."""

    def __init__(
        self,
        settings: Settings,
        loaded: Loaded,
        collect: Collect = collect_software,
        *,
        publisher: Publisher | None = None,
        tell: Callable[..., bool] = _tell_nobody,
    ) -> None:
        """Make keys. Raises StartFailure for a release of no use.

        collect: where evidence comes from.  publisher: who signs directories; a new one when None.  tell: the launcher.
        """
        self._settings = settings
        self._loaded = loaded
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        model = ModelEntry(
            model_id=loaded.engine.model_id,
            manifest=loaded.manifest,
            context_tokens=loaded.engine.context_size,
            max_output_tokens=min(settings.max_new, loaded.engine.context_size),
        )
        self.tally = Tally()
        self._kitchen = Kitchen(
            engine=loaded.engine,
            model=model,
            admission=Admission(Bounds.of(settings), loaded.load),
            tally=self.tally,
            cache_secret=secrets.token_bytes(SECRET_BYTES) if settings.prefix_cache == "salted" else b"",
            batch=settings.batch,
            wrong_receipt=settings.fault == "wrong_receipt",
        )
        self._ring = KeyRing(settings.epoch_s)
        entry = Entry(_served(settings, model, loaded), self._ring, collect=collect, publisher=publisher)
        self.upkeep = Upkeep(self._ring, entry, settings, send=self._send_publication, tell=tell)
        self._link: Link | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._running: Running = {}

    async def connect(self, link_fd: int) -> None:
        """Take over a link and publish."""
        await self.take(link_fd)
        await self.upkeep.begin()

    async def take(self, link_fd: int) -> None:
        """Take over a link; what ran over the one before is dropped, and what was published is said again."""
        self._drop(self._running)
        running: Running = {}
        link = await Link.connect(link_fd, partial(self._on_frame, running), partial(self._drop, running))
        before, self._link, self._running = self._link, link, running
        if before:
            before.close()
        self.upkeep.say_again()

    def _send_publication(self, publication: bytes) -> None:
        assert self._link is not None  # noqa: S101 - nothing is published before there is one
        self._link.send(Kind.PUBLISH, LINK_STREAM, publication)

    def reload(self, fields: dict[str, Any]) -> None:
        """Take over settings that were read again."""
        self._settings = replace(self._settings, **fields)
        self._kitchen.admission.bounds = Bounds.of(self._settings)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Publish, say so, and then do for ever what a worker does whether or not anybody asks."""
        await self.upkeep.begin()
        ready()
        await _first(*self.duties())

    def duties(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what a worker does for ever."""
        return self.beat(), self.upkeep.keep_keys(), self.upkeep.renew()

    async def beat(self) -> None:
        """Say that the loop turns: to the gateway with what was counted, to the launcher with how the engine does."""
        assert self._link is not None  # noqa: S101 - set before this runs
        while True:
            hygiene.sweep()
            self._link.send(Kind.BEAT, LINK_STREAM)
            self._link.flush()  # also what a turn that failed has left
            self._kitchen.admission.tell(self.tally)
            if counted := self.tally.take():
                self._link.send(Kind.TALLY, LINK_STREAM, counted)
            self._tell(beat=int(self._loaded.stalled_s() * 1000), step_ms=self._step_ms())
            await asyncio.sleep(BEAT_S)

    def _step_ms(self) -> int:
        """Return what one turn of the engine's loop takes as last measured, in milliseconds; 0: nobody knows."""
        load = self._loaded.load() if self._loaded.load else Load()
        decode_s = 1 / load.decode_tps if load.decode_tps else 0.0
        prefill_s = CHUNK / load.prefill_tps if load.prefill_tps else 0.0
        return int(1000 * max(decode_s, prefill_s))

    # --- the link ----------------------------------------------------------------------------------

    def _on_frame(self, running: Running, frame: Frame) -> None:
        if running is not self._running:  # of a gateway that is gone
            return
        if frame.kind is Kind.OPEN:
            self._open_stream(running, frame)
        elif frame.kind is Kind.CALL:
            task = self._loop.create_task(self._take_call(frame))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        elif frame.kind is Kind.CHECKPOINT:
            self.upkeep.take_checkpoint(frame.payload)
        elif frame.stream in running:  # a stream that has just ended is no error
            task, outlet = running[frame.stream]
            if frame.kind is Kind.CANCEL:
                task.cancel()
            elif frame.kind is Kind.ACK:
                outlet.acked(int.from_bytes(frame.payload, "big"))

    def _open_stream(self, running: Running, frame: Frame) -> None:
        assert self._link is not None  # noqa: S101 - frames come over it
        fault = self._settings.fault
        tamper = Tamper(fault, self._link.flush) if fault in IN_REPLY else None
        outlet = Outlet(self._link, frame.stream, tamper)
        number = frame.stream
        task = self._loop.create_task(self._serve(frame.payload, outlet))
        running[number] = (task, outlet)
        task.add_done_callback(partial(self._end_stream, running, number, outlet))

    @staticmethod
    def _end_stream(running: Running, number: int, outlet: Outlet, task: asyncio.Task[None]) -> None:
        running.pop(number, None)
        if not task.cancelled() and (error := task.exception()):  # of telling another one
            events.fault(error)
            outlet.refuse(Refusal(code=ErrorCode.FAULT))

    @staticmethod
    def _drop(running: Running) -> None:
        for task, _ in running.values():
            task.cancel()

    # --- outside any request -----------------------------------------------------------------------

    async def _take_call(self, frame: Frame) -> None:
        link = self._link
        assert link is not None  # noqa: S101 - frames come over it
        try:
            result = await self.upkeep.call(Operation(frame.payload[0]), frame.payload[1:])
        except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
            refusal = self._told(error)
            link.send(Kind.REFUSE, frame.stream, encode_refusal(refusal.code, refusal.retry_ms))
        else:
            link.send(Kind.RESULT, frame.stream, result)

    # --- one request -------------------------------------------------------------------------------

    async def _serve(self, opening: bytes, outlet: Outlet) -> None:
        begun = self._loop.time()
        try:
            with ExitStack() as place:
                request = OpenStream.decode(opening)
                opened, tenant = self._open(request, place), request.tenant
                del opening, request
                answer = Answer(self._kitchen, opened.sealer, outlet, tenant=tenant)
                told = await answer.run(opened.plain, opened.identity, opened.deadline)
        except asyncio.CancelledError:
            events.emit(Event.CANCELLED, ms=self._ms_since(begun))
        except Cut:
            outlet.end()
        except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
            self._refuse(error, outlet)
        else:
            outlet.end()
            events.emit(Event.REQUEST, ms=self._ms_since(begun), **({"told": told} if told else {}))

    def _ms_since(self, begun: float) -> int:
        return int((self._loop.time() - begun) * 1000)

    def _refuse(self, error: Exception, outlet: Outlet) -> None:
        outlet.refuse(self._told(error))

    @staticmethod
    def _told(error: Exception) -> Refusal:
        """Return what a caller is told about an error, and tell the operator."""
        refusal = errors.refusal(error)
        if refusal.code is ErrorCode.FAULT:
            events.fault(error)
        events.emit(Event.REFUSED, code=refusal.code)
        return refusal

    def _open(self, opening: OpenStream, place: ExitStack) -> Opened:
        """Take steps 1 to 7 of SPEC 7. place: what holds the request's place inside."""
        begun = self._loop.time()
        self._fail_by_fault()
        request = RequestOpener(
            header=opening.header, body=opening.body, key_package=opening.key_package, index=opening.position
        )
        if request.header.model_id != self._kitchen.model.model_id:
            raise Malformed("the model is not served here")
        if not opening.left_ms:
            raise DeadlinePassed
        live, identity = self._ring.find(request.entry)
        live.seen.check(request.q)
        place.enter_context(self._kitchen.admission.enter(opening.tenant))
        plain, sealer = request.open(live.key)
        live.seen.claim(request.q)  # nothing awaits since the check: what is claimed here runs once
        deadline = begun + min(request.header.deadline_ms, opening.left_ms) / 1000
        return Opened(plain, sealer, identity, deadline)

    def _fail_by_fault(self) -> None:
        if self._settings.fault == "die_before_head":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._settings.fault in REFUSALS:
            refusal = REFUSALS[self._settings.fault]
            raise Refused(refusal.code, refusal.retry_ms)


def _check_names(settings: Settings) -> None:
    try:
        deployment_name(settings.deployment)
    except Malformed:
        raise StartFailure(
            f"--deployment takes a lower-case DNS name, not {settings.deployment!r}", CONFIG_EXIT
        ) from None


def _served(settings: Settings, model: ModelEntry, loaded: Loaded) -> Served:
    digest = config_digest(settings)
    return Served(
        deployment=settings.deployment,
        model=model,
        config_digest=digest,
        release_leaf=release_leaf(settings.release, digest),
        accelerator=loaded.accelerator,
        format=settings.attester,
    )


async def _main(inherited: child.Inherited) -> None:
    settings, end = inherited.settings, inherited.control
    stop, links = asyncio.Event(), asyncio.Queue[int]()
    remote, dialled = Remote(end), Dialled(end, settings)
    worker: Worker | None = None

    def ended() -> None:
        if worker is None:
            os._exit(0)  # a model that is still loading cannot be interrupted otherwise
        stop.set()

    def told(message: dict[str, Any]) -> None:
        remote.hear(message)
        dialled.hear(message)
        if "link" in message:
            links.put_nowait(message["fd"])
        if "reload" in message and worker:
            worker.reload(message["reload"])

    child.on_control(end, told, ended)
    _check_names(settings)
    report = partial(child.enter, end)
    report(Phase.INIT)
    loaded = await asyncio.to_thread(open_engine, settings, dialled, report)
    hygiene.settle()
    child.close_sandbox(inherited, Program.WORKER)
    report(Phase.ATTEST)
    worker = Worker(
        settings,
        loaded,
        collect_software if settings.attester == SOFTWARE else remote.collect,
        publisher=_publisher(inherited),
        tell=partial(control.write, end),
    )
    child.silence()
    facts: dict[str, Any] = {
        "node_key": worker.upkeep.entry.node_key,
        "tier": worker.upkeep.entry.tier,
        "engine": settings.engine,
    }
    control.write(end, facts={**facts, "model": loaded.engine.model_id})
    await worker.take(inherited.link_fd)
    await _first(stop.wait(), _take_all(worker, links), worker.serve(partial(report, Phase.READY)))
    async with asyncio.timeout(CLOSE_S):
        await loaded.engine.close()


async def _take_all(worker: Worker, links: asyncio.Queue[int]) -> None:
    """Take over the link to every new gateway."""
    while True:
        await worker.take(await links.get())


def _publisher(inherited: child.Inherited) -> Publisher:
    """Return the signer that every worker of this node has in its turn, and where the one before has ended."""
    name, seed = f"{inherited.settings.deployment}/directory", bytes.fromhex(inherited.extra["signer"])
    return Publisher(
        NoteSigner.from_seed(name, seed), after={int(one): int(seq) for one, seq in inherited.extra["after"]}
    )


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Run until one of them ends. What it raised is raised: a node whose keys no longer end must end itself."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


def main() -> None:
    """Run as a child of the launcher."""
    inherited = child.begin(Program.WORKER, sys.argv[1:])
    child.run(inherited, lambda: _main(inherited))


if __name__ == "__main__":
    main()
