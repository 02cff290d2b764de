"""What ``hybrid verify`` says of a firmware event log: real logs of others and the PCR values they lead to."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.errors import APIConnectionError
from hybrid.inspection import _firmware
from hybrid.trust.event_log import replay
from hybrid.wire.evidence import EvidenceItem
from hybrid.wire.tpm2 import Tpm2Item, TpmEvent
from tests.trust.maker import DirectTransport, FakeWorker, Maker

LOGS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "tcg-event-log"


def real_log() -> bytes:
    paths = sorted(LOGS.glob("*arch*.bin"))
    assert paths, f"there are no foreign vectors in {LOGS}; see its ORIGINS.md"
    return paths[0].read_bytes()


def quote(pcrs: dict[int, bytes]) -> bytes:
    event = TpmEvent(release_leaf=bytes(32), config_digest=bytes(32), node_id=bytes(32))
    return Tpm2Item(public=b"p", attest=b"a", signature=b"s", pcrs=pcrs, events=(event,)).encode()


def said(log: bytes | Exception, pcrs: dict[int, bytes]) -> tuple[str, str]:
    """What is said of a node that quoted these PCR values and shows this log."""
    item = EvidenceItem(format="tpm2", item=quote(pcrs)) if pcrs else EvidenceItem(format="software")
    bundle = Maker().bundle(items=(item,), formats=(item.format,))
    node: Any = SimpleNamespace(node_id=bundle.statement.identity.node_id, proof=SimpleNamespace(bundle=bundle.raw))
    transport = DirectTransport(FakeWorker(Maker()))

    async def event_log(_: bytes) -> bytes:
        if isinstance(log, Exception):
            raise log
        return log

    transport.event_log = event_log  # type: ignore[attr-defined]
    check = asyncio.run(_firmware(transport, node))  # type: ignore[arg-type]
    return str(check.status), check.detail


def test_a_log_that_leads_to_the_quoted_values_passes_and_names_them() -> None:
    log = real_log()
    values = replay(log).banks["sha256"]
    assert said(log, {4: values[4], 7: values[7], 15: bytes(32)}) == ("pass", "it leads to the quoted PCR 4, 7")


def test_a_log_that_leads_elsewhere_is_a_warning_with_the_pcr() -> None:
    log = real_log()
    values = replay(log).banks["sha256"]
    assert said(log, {4: bytes(32), 7: values[7]}) == ("warn", "it does not lead to the quoted PCR 4")


def test_a_log_about_other_pcrs_is_not_taken_for_an_explanation() -> None:
    assert said(real_log(), {15: bytes(32)})[0] == "skip"


@pytest.mark.parametrize(
    ("log", "pcrs", "status"),
    [
        (b"", {4: bytes(32)}, "skip"),
        (b"no log", {4: bytes(32)}, "warn"),
        (APIConnectionError("gone"), {4: bytes(32)}, "skip"),
        (b"whatever", {}, "skip"),
    ],
    ids=["none", "unreadable", "not to be had", "no quote"],
)
def test_a_log_is_shown_and_never_required(log: bytes | Exception, pcrs: dict[int, bytes], status: str) -> None:
    assert said(log, pcrs)[0] == status
