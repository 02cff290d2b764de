"""The vault: holds keys, replay sets and the model, opens requests, answers them, keeps nothing.

It has no listening socket and opens no file after it is ready. Run by the launcher: ``python -m pcc_server.worker``.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, NamedTuple

from hybrid.wire.attest import NONCE_BYTES
from hybrid.wire.encoding import deployment_name
from hybrid.wire.envelope import ReplySealer, RequestOpener
from hybrid.wire.errors import ErrorCode, Malformed, WireError
from hybrid.wire.evidence import SOFTWARE, ModelEntry
from hybrid.wire.keys import IdentityKey

from . import child, control, errors, events, harden
from .answer import Answer, Kitchen
from .attest.remote import Remote
from .config import Settings, config_digest
from .engines import Loaded, open_engine
from .entry import Collect, Entry, Served, collect_software
from .errors import CONFIG_EXIT, DeadlinePassed, Limit, Refusal, Refused, StartFailure
from .events import Event, Phase, Program
from .keys import KeyRing
from .link import LINK_STREAM, Frame, Kind, Link, OpenStream, Operation, encode_refusal
from .outlet import IN_REPLY, REFUSALS, Cut, Outlet, Tamper
from .release import release_leaf
from .slots import Slots

BEAT_S = 2.0
CLOSE_S = 3.0  # for the engine to free its model


class Opened(NamedTuple):
    """A request that will be answered. The epoch key is not among it: no running reply may prolong that one's life.

    deadline: on the loop's clock.
    """

    plain: bytes
    sealer: ReplySealer
    identity: IdentityKey
    deadline: float


class Worker:
    """Answers what comes over one link."""

    def __init__(self, settings: Settings, loaded: Loaded, collect: Collect = collect_software) -> None:
        """collect: where evidence comes from. Raises StartFailure for a release of no use."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        model = ModelEntry(
            model_id=loaded.engine.model_id,
            manifest=loaded.manifest,
            context_tokens=loaded.engine.context_size,
            max_output_tokens=min(settings.max_new, loaded.engine.context_size),
        )
        slots = Slots(running=settings.max_running, queued=settings.max_queue)
        wrong = settings.fault == "wrong_receipt"
        self._kitchen = Kitchen(
            engine=loaded.engine, model=model, slots=slots, batch=settings.batch, wrong_receipt=wrong
        )
        self._ring = KeyRing(settings.epoch_s)
        self.entry = Entry(_served(settings, model, loaded), self._ring, collect=collect)
        self._link: Link | None = None
        self._publishing = asyncio.Lock()
        self._checkpoint_came = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._running: dict[int, tuple[asyncio.Task[None], Outlet]] = {}

    async def connect(self, link_fd: int) -> None:
        """Take over the link and publish. Where there is a log, the gateway first hands over its checkpoint."""
        self._link = await Link.connect(link_fd, self._on_frame, self._on_end)
        if self._settings.log:
            await self._checkpoint_came.wait()
        async with self._publishing:
            await self._publish()

    async def _publish(self) -> None:
        assert self._link is not None  # noqa: S101 - set before anything calls this
        self._ring.advance()
        publication = await self.entry.publish(self._settings.epoch_s)
        self._link.send(Kind.PUBLISH, LINK_STREAM, publication.encode())
        events.emit(Event.PUBLISHED, epoch=self._ring.epoch, triples=len(publication.accepted))

    def duties(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what a worker does for ever, whether or not anybody asks."""
        return self.beat(), self._keep_keys(), self._renew()

    async def _keep_keys(self) -> None:
        """Make and destroy keys on time. Apart from publishing: no device that hangs may prolong a key's life."""
        while True:
            await asyncio.sleep(min(1.0, self._ring.seconds_to_next() + 0.001))
            self._ring.advance()

    async def _renew(self) -> None:
        """Keep the publication current."""
        while True:
            await asyncio.sleep(min(1.0, self._ring.seconds_to_next() + 0.001))
            self._ring.advance()
            if not self.entry.is_current:
                await self._renew_publication()

    async def _renew_publication(self) -> None:
        """Publish unless that has just happened.

        Evidence that cannot be collected now is tried again: what was published holds for another epoch. An epoch
        without a sequence number left ends soon.
        """
        try:
            async with self._publishing:
                if not self.entry.is_current:
                    await self._publish()
        except Limit:
            return
        except (StartFailure, WireError) as failure:
            events.fault(failure)

    async def beat(self) -> None:
        """Say over the link that the loop turns."""
        assert self._link is not None  # noqa: S101 - set before this runs
        while True:
            self._link.send(Kind.BEAT, LINK_STREAM)
            await asyncio.sleep(BEAT_S)

    # --- the link ----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind is Kind.OPEN:
            self._open_stream(frame)
        elif frame.kind is Kind.CALL:
            task = self._loop.create_task(self._take_call(frame))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        elif frame.kind is Kind.CHECKPOINT:
            self.entry.note = frame.payload
            self._checkpoint_came.set()
        elif frame.stream in self._running:  # a stream that has just ended is no error
            task, outlet = self._running[frame.stream]
            if frame.kind is Kind.CANCEL:
                task.cancel()
            elif frame.kind is Kind.ACK:
                outlet.acked(int.from_bytes(frame.payload, "big"))

    def _open_stream(self, frame: Frame) -> None:
        assert self._link is not None  # noqa: S101 - frames come over it
        fault = self._settings.fault
        tamper = Tamper(fault, self._link.flush) if fault in IN_REPLY else None
        outlet = Outlet(self._link, frame.stream, tamper)
        number = frame.stream
        task = self._loop.create_task(self._serve(number, frame.payload, outlet))
        self._running[number] = (task, outlet)
        task.add_done_callback(lambda _: self._running.pop(number, None))

    def _on_end(self) -> None:
        for task, _ in self._running.values():
            task.cancel()

    # --- outside any request -----------------------------------------------------------------------

    async def _take_call(self, frame: Frame) -> None:
        assert self._link is not None  # noqa: S101 - frames come over it
        try:
            operation, payload = Operation(frame.payload[0]), frame.payload[1:]
            if operation is Operation.REVOKE:  # at once, whatever evidence is being collected
                self._ring.revoke(payload)
            async with self._publishing:
                result = await self._call(operation, payload)
        except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
            refusal = self._told(error)
            self._link.send(Kind.REFUSE, frame.stream, encode_refusal(refusal.code, refusal.retry_ms))
        else:
            self._link.send(Kind.RESULT, frame.stream, result)

    async def _call(self, operation: Operation, payload: bytes) -> bytes:
        if operation is Operation.ATTEST:
            nonces = [payload[at : at + NONCE_BYTES] for at in range(0, len(payload), NONCE_BYTES)]
            return (await self.entry.attest(nonces)).encode()
        if operation is Operation.ROTATE:
            self.entry.check_room()
            self._ring.rotate()
        events.emit(Event.KEYS_CHANGED, keys=len(self._ring.accepted()))
        await self._publish()  # where a key was revoked and no number is left, clients wait for the next epoch
        return b""

    # --- one request -------------------------------------------------------------------------------

    async def _serve(self, stream: int, opening: bytes, outlet: Outlet) -> None:
        begun = self._loop.time()
        try:
            with ExitStack() as place:
                opened = self._open(OpenStream.decode(opening), place)
                del opening
                answer = Answer(self._kitchen, opened.sealer, outlet, partition=str(stream))
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
        place.enter_context(self._kitchen.slots.enter())
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
    settings = inherited.settings
    stop = asyncio.Event()
    serving = False

    def ended() -> None:
        if not serving:
            os._exit(0)  # a model that is still loading cannot be interrupted otherwise
        stop.set()

    remote = Remote(inherited.control)
    child.on_control(inherited.control, remote.hear, ended)
    _check_names(settings)
    events.emit(Event.PHASE, phase=Phase.LOAD)
    loaded = await asyncio.to_thread(open_engine, settings)
    harden.stage2(Program.WORKER, settings)
    events.emit(Event.PHASE, phase=Phase.ATTEST)
    worker = Worker(settings, loaded, collect_software if settings.attester == SOFTWARE else remote.collect)
    child.silence()
    serving = True
    facts: dict[str, Any] = {"node_key": worker.entry.node_key, "tier": worker.entry.tier, "engine": settings.engine}
    control.write(inherited.control, facts={**facts, "model": loaded.engine.model_id})
    await worker.connect(inherited.link_fd)
    await _first(stop.wait(), *worker.duties())
    async with asyncio.timeout(CLOSE_S):
        await loaded.engine.close()


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Run until one of them ends. What it raised is raised: a node whose keys no longer end must end itself."""
    tasks = [asyncio.create_task(work) for work in works]
    done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    for task in done:
        task.result()


def main() -> None:
    """Run as a child of the launcher."""
    inherited = child.begin(Program.WORKER, sys.argv[1:])
    child.run(inherited, lambda: _main(inherited))


if __name__ == "__main__":
    main()
