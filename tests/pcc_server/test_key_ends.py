"""A key ends when it must, whatever else the worker waits for; and nothing about publishing ends the worker."""

import asyncio
import gc
import time
import weakref

import pytest

from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import EvidenceItem
from hybrid.wire.tpm2 import TpmEvent
from pcc_server.announce import MAX_SEQ
from pcc_server.attest.collector import CollectFailure
from pcc_server.entry import collect_software
from pcc_server.keys import KeyRing, LiveKey
from pcc_server.link import Kind, Operation
from pcc_server.worker import Worker
from tests.pcc_server.test_halves import Halves, soon


class SlowDevice:
    """Evidence that comes when ``gate`` opens: a TPM that hangs."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0

    async def collect(self, form: str, bound: bytes, event: TpmEvent | None) -> EvidenceItem:
        self.asked += 1
        await self.gate.wait()
        return await collect_software(form, bound, event)


def hung(worker: Worker) -> SlowDevice:
    """Let the worker's device hang from now on."""
    device = SlowDevice()
    worker.upkeep.entry._collect = device.collect
    return device


def key_ids(worker: Worker) -> set[bytes]:
    return {live.key.config.key_id for live in worker._ring.accepted()}


def weak(worker: Worker) -> "weakref.ref[LiveKey]":
    return weakref.ref(worker._ring.current()[0])


def gone(live: "weakref.ref[LiveKey]") -> bool:
    gc.collect()
    return live() is None


@pytest.mark.parametrize("waits_for", [Operation.ATTEST, Operation.ROTATE])
def test_a_key_is_revoked_at_once_also_while_evidence_is_collected(waits_for: Operation) -> None:
    async def main() -> None:
        halves = Halves(epoch_s=900)
        async with halves.linked() as (link, publication):
            device, live = hung(halves.worker), weak(halves.worker)
            link.send(Kind.CALL, 1, bytes([waits_for]) + bytes(32 if waits_for is Operation.ATTEST else 0))
            await soon(lambda: device.asked)
            revoked = publication.accepted[0].ek_id
            assert revoked in key_ids(halves.worker)
            link.send(Kind.CALL, 2, bytes([Operation.REVOKE]) + revoked)
            await soon(lambda: revoked not in key_ids(halves.worker))
            await soon(lambda: gone(live))
            device.gate.set()
            await soon(lambda: halves.worker.upkeep.entry.is_current)

    asyncio.run(main())


def test_a_key_is_destroyed_on_time_also_while_evidence_is_collected() -> None:
    async def main() -> None:
        halves = Halves(epoch_s=900)
        ahead = 0.0
        halves.worker._ring = halves.worker.upkeep._ring = halves.worker.upkeep.entry._ring = KeyRing(
            900, now=lambda: time.time() + ahead, boot=lambda: time.monotonic() + ahead
        )
        async with halves.linked():
            device, live = hung(halves.worker), weak(halves.worker)
            tasks = [asyncio.create_task(work) for work in halves.worker.duties()]
            ahead = 900.0
            await soon(lambda: device.asked)  # the next epoch's publication hangs
            ahead = 2 * 900.0 + 100
            await soon(lambda: gone(live))
            for task in tasks:
                task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("error", [CollectFailure("the device is gone"), Malformed("what it sends is no quote")])
def test_a_device_that_fails_is_asked_again_and_ends_nothing(error: Exception) -> None:
    async def main() -> None:
        halves = Halves(epoch_s=900)
        async with halves.linked():
            worker = halves.worker

            async def broken(*_: object) -> EvidenceItem:
                raise error

            worker.upkeep.entry._collect = broken
            worker._ring.rotate()
            await worker.upkeep.renew_publication()
            assert not worker.upkeep.entry.is_current
            worker.upkeep.entry._collect = collect_software
            await worker.upkeep.renew_publication()
            assert worker.upkeep.entry.is_current

    asyncio.run(main())


def test_a_revocation_after_the_last_number_of_an_epoch_leaves_the_worker_running() -> None:
    async def main() -> None:
        halves = Halves(epoch_s=900)
        async with halves.linked() as (link, publication):
            worker = halves.worker
            for _ in range(MAX_SEQ):
                worker._ring.rotate()
                await worker.upkeep.renew_publication()
            assert worker.upkeep.entry.is_current
            link.send(Kind.CALL, 1, bytes([Operation.REVOKE]) + publication.accepted[0].ek_id)
            await soon(lambda: publication.accepted[0].ek_id not in key_ids(worker))
            worker._ring.revoke(worker._ring.current()[0].key.config.key_id)
            await worker.upkeep.renew_publication()  # no number is left: the next epoch's publication lists the new key
            assert not worker.upkeep.entry.is_current

    asyncio.run(main())


def test_two_reasons_to_publish_at_once_are_one_publication() -> None:
    async def main() -> None:
        halves = Halves(epoch_s=900)
        async with halves.linked():
            worker = halves.worker
            device, before = hung(worker), worker.upkeep.entry._newest
            worker._ring.rotate()
            both = [asyncio.create_task(worker.upkeep.renew_publication()) for _ in range(2)]
            await soon(lambda: device.asked)
            device.gate.set()
            await asyncio.gather(*both)
            assert before
            assert worker.upkeep.entry._newest
            assert worker.upkeep.entry._newest.seq == before.seq + 1

    asyncio.run(main())
