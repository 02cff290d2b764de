"""Evidence of tier 1 from a real TPM in software, judged by the client's own code; tier 2 behind its seam."""

import asyncio
import ctypes
import errno
import hashlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.errors import AttestationError
from hybrid.trust.checks import CheckStatus, Findings
from hybrid.trust.tpm2 import Tpm2Trust, check_tpm2
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import EvidenceItem, ModelEntry, Statement, binding
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.snp import SnpItem
from hybrid.wire.tpm2 import Tpm2Item, TpmEvent, name_of, qualifying_data
from pcc_server import child
from pcc_server.attest.collector import Ask, CollectFailure, Collector
from pcc_server.attest.desk import Desk, collector_for
from pcc_server.attest.items import ask_for, make_item
from pcc_server.attest.remote import Remote
from pcc_server.attest.runtime_log import MAX_EVENTS, LogFile, RuntimeLog
from pcc_server.attest.snp import ConfigfsSource, DeviceSource, Reported, SnpCollector, read_table
from pcc_server.attest.tpm2 import QUOTED, RUNTIME_PCR, Tpm2Collector
from pcc_server.attest.tpm_commands import AK_TEMPLATE, Tpm, TpmError
from pcc_server.attest.tpm_device import Device, open_device
from pcc_server.config import Settings
from pcc_server.events import Program
from pcc_server.launcher import Launcher
from pcc_server.notices import Notices
from tests.pcc_server.software_tpm import SoftwareTpm, get_time

pytestmark = pytest.mark.linux

BOOTED = hashlib.sha256(b"a kernel").digest()
ZEROS = "00" * 32
NAMES = """
magic type signature ak-attributes ak-trusted qualifying-data
pcr-selection pcr-resettable pcr-digest pcr-values runtime-log
"""
CHECKS = [f"tpm2.{name}" for name in NAMES.split()]


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    with SoftwareTpm(tmp_path / "tpm") as running:
        boot(running)
        yield running


@pytest.fixture
def collector(tpm: SoftwareTpm, tmp_path: Path) -> Iterator[Tpm2Collector]:
    made = a_collector(tpm, tmp_path)
    yield made
    made.close()


def boot(tpm: SoftwareTpm) -> None:
    """What firmware does to a TPM before a system runs: here it measures one kernel."""
    with tpm.commands() as commands:
        commands.extend(4, BOOTED)


def a_collector(tpm: SoftwareTpm, folder: Path) -> Tpm2Collector:
    return Tpm2Collector(tpm.open, folder / "run" / "events")


def a_statement() -> Statement:
    return Statement(
        deployment="pcc.example.com",
        identity=IdentityKey.generate().public,
        not_before=0,
        not_after=600,
        keys=(EpochKey.generate(0, 300).config,),
        models=(ModelEntry(model_id="m", manifest=bytes(32), context_tokens=1, max_output_tokens=1),),
        release_leaf=hashlib.sha256(b"release").digest(),
        config_digest=hashlib.sha256(b"config").digest(),
        formats=("tpm2",),
    )


def event_of(statement: Statement) -> TpmEvent:
    return TpmEvent(
        release_leaf=statement.release_leaf,
        config_digest=statement.config_digest,
        node_id=statement.identity.node_id,
    )


def bound(statement: Statement) -> bytes:
    return binding(statement.encode(), (), "tpm2")


def ask(statement: Statement) -> Ask:
    return ask_for("tpm2", bound(statement), event_of(statement))


def collect(collector: Collector, statement: Statement) -> bytes:
    return make_item("tpm2", collector.collect(ask(statement))).item


def ak_name(tpm: SoftwareTpm) -> str:
    with tpm.commands() as commands, commands.primary(AK_TEMPLATE) as key:
        return name_of(key.public).hex()


def the_boot() -> dict[int, tuple[str, ...]]:
    return {4: (hashlib.sha256(bytes(32) + BOOTED).hexdigest(),)}


def trust_in(item: bytes) -> Tpm2Trust:
    """A policy that has enrolled the key of this item and lists the boot that these tests make."""
    return Tpm2Trust(ak_names=(name_of(Tpm2Item.decode(item).public).hex(),), pcrs=the_boot())


def judge(item: bytes, statement: Statement, trust: Tpm2Trust | None = None) -> Findings:
    findings = Findings()
    check_tpm2(
        item,
        binding=bound(statement),
        statement=statement,
        trust=trust or trust_in(item),
        release_pcrs=(),
        findings=findings,
    )
    return findings


def refused(item: bytes, statement: Statement, trust: Tpm2Trust | None = None) -> str:
    """The name of the check that refuses an item."""
    with pytest.raises(AttestationError) as failure:
        judge(item, statement, trust)
    return failure.value.check


# --- a good quote ----------------------------------------------------------------------------------


def test_a_quote_of_a_real_tpm_passes_every_check_in_order(collector: Tpm2Collector) -> None:
    statement = a_statement()
    checks = judge(collect(collector, statement), statement).all()
    assert [check.name for check in checks] == CHECKS
    assert {check.status for check in checks} == {CheckStatus.PASS}


def test_the_attestation_key_survives_a_restart_and_differs_between_machines(tpm: SoftwareTpm, tmp_path: Path) -> None:
    first = ak_name(tpm)
    tpm.restart()
    assert ak_name(tpm) == first
    with SoftwareTpm(tmp_path / "other") as other:
        assert ak_name(other) != first


def test_collecting_leaves_nothing_loaded_without_a_resource_manager(collector: Tpm2Collector) -> None:
    statement = a_statement()
    for _ in range(20):
        collect(collector, statement)
    assert collector._device
    commands = Tpm(collector._device)
    open_keys = [commands.primary(AK_TEMPLATE) for _ in range(3)]
    for key in open_keys:
        key.__enter__()
    with pytest.raises(TpmError, match="slots are full"), commands.primary(AK_TEMPLATE):
        pass  # the control: keys that stay loaded do fill this TPM
    for key in open_keys:
        key.__exit__(None, None, None)


# --- the runtime log -------------------------------------------------------------------------------


def test_the_event_is_extended_once_for_one_node_key(collector: Tpm2Collector) -> None:
    statement = a_statement()
    items = [Tpm2Item.decode(collect(collector, statement)) for _ in range(3)]
    assert [item.events for item in items] == [(event_of(statement),)] * 3
    assert len({item.pcrs[RUNTIME_PCR] for item in items}) == 1


def test_a_node_that_starts_again_goes_on_from_the_log_of_its_predecessor(tpm: SoftwareTpm, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        statement, collector = a_statement(), a_collector(tpm, tmp_path)
        item = collect(collector, statement)
        collector.close()
        assert len(Tpm2Item.decode(item).events) == number
        judge(item, statement)
    with pytest.raises(AttestationError) as failure:  # the control: the last event must be this node's
        judge(item, replace(statement, config_digest=bytes(32)), trust_in(item))
    assert failure.value.check == "tpm2.qualifying-data"


def test_an_earlier_node_on_the_same_boot_cannot_use_a_later_ones_quote(collector: Tpm2Collector) -> None:
    earlier, later = a_statement(), a_statement()
    collect(collector, earlier)
    parts = collector.collect(replace(ask(later), challenge=qualifying_data(bound(earlier))))
    assert refused(make_item("tpm2", parts).item, earlier) == "tpm2.runtime-log"


def test_a_restart_of_the_machine_starts_the_log_anew(tpm: SoftwareTpm, tmp_path: Path) -> None:
    collector = a_collector(tpm, tmp_path)
    collect(collector, a_statement())
    collector.close()
    tpm.restart()
    boot(tpm)
    statement = a_statement()
    item = collect(collector, statement)
    collector.close()
    assert Tpm2Item.decode(item).events == (event_of(statement),)
    judge(item, statement)


def test_a_lost_log_is_refused_until_the_policy_names_the_value_it_starts_from(
    tpm: SoftwareTpm, tmp_path: Path
) -> None:
    first = a_collector(tpm, tmp_path / "first")
    collect(first, a_statement())
    first.close()
    statement, second = a_statement(), a_collector(tpm, tmp_path / "second")
    item = collect(second, statement)
    second.close()
    assert refused(item, statement) == "tpm2.runtime-log"
    before = Tpm2Item.decode(item).pcr_before.hex()
    judge(item, statement, replace(trust_in(item), pcr_before=(before,)))


def test_a_node_that_died_between_writing_and_extending_goes_on(tpm: SoftwareTpm, tmp_path: Path) -> None:
    collector = a_collector(tpm, tmp_path)
    collect(collector, a_statement())
    collector.close()
    never = ask(a_statement())
    assert collector._file.load(b"") == RuntimeLog(b"")
    kept = RuntimeLog.decode((tmp_path / "run" / "events").read_text())
    collector._file.save(kept.plus(never.event, never.extend))
    statement = a_statement()
    item = collect(collector, statement)
    collector.close()
    assert len(Tpm2Item.decode(item).events) == 2
    judge(item, statement)


def test_another_program_that_extends_the_runtime_pcr_is_noticed(collector: Tpm2Collector) -> None:
    statement = a_statement()
    collect(collector, statement)
    assert collector._device
    Tpm(collector._device).extend(RUNTIME_PCR, bytes(32))
    with pytest.raises(CollectFailure, match="something else extends PCR 15"):
        collect(collector, statement)


def test_the_log_ends_at_its_limit(tmp_path: Path) -> None:
    log = RuntimeLog(bytes(32))
    for number in range(MAX_EVENTS):
        log = log.plus(bytes([1]) + bytes([number]) * 96, bytes([number]) * 32)
    assert RuntimeLog.decode(log.encode()) == log
    with pytest.raises(CollectFailure, match="restart the machine"):
        log.plus(bytes(97), bytes(32))


@pytest.mark.parametrize("text", ["", "00\n", f"{ZEROS}\n00\n", "zz\n", f"{ZEROS}\n" * 70])
def test_a_damaged_log_file_is_forgotten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "events"
    path.write_text(text)
    assert LogFile(path).load(b"\1" * 32) == RuntimeLog(b"\1" * 32)


def test_the_log_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events"
    LogFile(path).save(RuntimeLog(bytes(32)))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


# --- N11 -------------------------------------------------------------------------------------------


def test_a_quote_over_another_statement_is_refused(collector: Tpm2Collector) -> None:
    statement = a_statement()
    item = collect(collector, statement)
    assert refused(item, replace(statement, not_after=601)) == "tpm2.qualifying-data"


def test_a_key_that_is_not_enrolled_is_refused(collector: Tpm2Collector, tmp_path: Path) -> None:
    statement = a_statement()
    item = collect(collector, statement)
    with SoftwareTpm(tmp_path / "other") as other:
        trust = replace(trust_in(item), ak_names=(ak_name(other),))
    assert refused(item, statement, trust) == "tpm2.ak-trusted"


def test_another_boot_is_refused(tpm: SoftwareTpm, tmp_path: Path) -> None:
    with tpm.commands() as commands:
        commands.extend(4, bytes(32))
    statement, collector = a_statement(), a_collector(tpm, tmp_path)
    item = collect(collector, statement)
    collector.close()
    assert refused(item, statement) == "tpm2.pcr-values"


def test_a_policy_that_names_no_boot_is_refused(collector: Tpm2Collector) -> None:
    statement = a_statement()
    item = collect(collector, statement)
    trust = replace(trust_in(item), pcrs={0: (ZEROS,)})
    assert refused(item, statement, trust) == "tpm2.pcr-values"


@pytest.mark.parametrize(
    ("quoted", "check"),
    [((4,), "tpm2.pcr-selection"), ((RUNTIME_PCR,), "tpm2.pcr-selection"), ((4, 15, 16), "tpm2.pcr-resettable")],
)
def test_a_quote_of_other_pcrs_is_refused(collector: Tpm2Collector, quoted: tuple[int, ...], check: str) -> None:
    statement = a_statement()
    item = Tpm2Item.decode(collect(collector, statement))
    forged = requoted(collector, statement, item, quoted)
    assert refused(forged, statement) == check
    judge(requoted(collector, statement, item, (4, RUNTIME_PCR)), statement)  # the control


def requoted(collector: Tpm2Collector, statement: Statement, item: Tpm2Item, quoted: tuple[int, ...]) -> bytes:
    assert collector._device
    commands = Tpm(collector._device)
    with commands.primary(AK_TEMPLATE) as key:
        made = commands.quote(key.handle, qualifying_data(bound(statement)), quoted)
    pcrs = commands.read_pcrs(quoted)
    return replace(item, attest=made.attest, signature=made.signature, pcrs=pcrs).encode()


def test_an_attestation_of_the_same_key_that_is_no_quote_is_refused(collector: Tpm2Collector) -> None:
    statement = a_statement()
    item = Tpm2Item.decode(collect(collector, statement))
    assert collector._device
    commands = Tpm(collector._device)
    with commands.primary(AK_TEMPLATE) as key:
        attest, signature = get_time(commands, key.handle, qualifying_data(bound(statement)))
    assert refused(replace(item, attest=attest, signature=signature).encode(), statement) == "tpm2.type"


def test_a_key_that_signs_anything_is_refused(collector: Tpm2Collector) -> None:
    """An unrestricted key of the same TPM could sign a made-up quote: its attributes give it away."""
    statement = a_statement()
    item = Tpm2Item.decode(collect(collector, statement))
    assert collector._device
    commands = Tpm(collector._device)
    loose = AK_TEMPLATE.replace(bytes.fromhex("00050472"), bytes.fromhex("00040472"))
    with commands.primary(loose) as key:
        made = commands.quote(key.handle, qualifying_data(bound(statement)), QUOTED)
    forged = replace(item, public=key.public, attest=made.attest, signature=made.signature).encode()
    assert refused(forged, statement) == "tpm2.ak-attributes"


def test_no_bit_of_an_item_can_be_changed(collector: Tpm2Collector) -> None:
    statement = a_statement()
    item = collect(collector, statement)
    trust = trust_in(item)
    judge(item, statement, trust)
    accepted = [at for at in range(8 * len(item)) if passes(flipped(item, at), statement, trust)]
    assert accepted == []


def flipped(item: bytes, at: int) -> bytes:
    return item[: at // 8] + bytes([item[at // 8] ^ 1 << at % 8]) + item[at // 8 + 1 :]


def passes(item: bytes, statement: Statement, trust: Tpm2Trust) -> bool:
    try:
        judge(item, statement, trust)
    except AttestationError:
        return False
    return True


# --- a device that misbehaves ----------------------------------------------------------------------


class Between:
    """A real device whose answers a test may replace."""

    def __init__(self, device: Device, replace: Callable[[int, bytes], bytes]) -> None:
        self._device = device
        self._replace = replace
        self.sent = 0

    def transmit(self, command: bytes) -> bytes:
        self.sent += 1
        return self._replace(self.sent, self._device.transmit(command))

    def close(self) -> None:
        self._device.close()


def answer(code: int) -> bytes:
    return struct.pack(">HII", 0x8001, 10, code)


def test_a_busy_tpm_is_asked_again(tpm: SoftwareTpm) -> None:
    device = Between(tpm.open(), lambda sent, reply: answer(0x922) if sent < 3 else reply)
    pauses: list[float] = []
    values = Tpm(device, sleep=pauses.append).read_pcrs([0])
    device.close()
    assert (values, device.sent, len(pauses)) == ({0: bytes(32)}, 3, 2)


def test_a_tpm_that_stays_busy_is_an_error_in_the_end(tpm: SoftwareTpm) -> None:
    device = Between(tpm.open(), lambda _sent, _reply: answer(0x922))
    with pytest.raises(TpmError, match="0x922"):
        Tpm(device, sleep=lambda _: None).read_pcrs([0])
    device.close()
    assert device.sent < 100


@pytest.mark.parametrize("cut", range(60))
def test_an_answer_that_is_cut_off_is_an_error(tpm: SoftwareTpm, cut: int) -> None:
    device = Between(tpm.open(), lambda _sent, reply: reply[:cut])
    with pytest.raises(CollectFailure, match="cut off"):
        Tpm(device).read_pcrs([0])
    device.close()


def test_pcrs_that_keep_changing_are_an_error(tpm: SoftwareTpm, tmp_path: Path) -> None:
    def restless() -> Device:
        device = tpm.open()

        def extended(_sent: int, reply: bytes) -> bytes:
            Tpm(device).extend(7, bytes(32))
            return reply

        return Between(device, extended)

    collector = Tpm2Collector(restless, tmp_path / "events")
    with pytest.raises(CollectFailure, match="faster than"):
        collect(collector, a_statement())


def test_a_tpm_that_was_away_is_opened_again(tpm: SoftwareTpm, tmp_path: Path) -> None:
    ports = [tpm.port]
    collector = Tpm2Collector(lambda: open_device(f"swtpm:{ports[0]}"), tmp_path / "events")
    collect(collector, a_statement())
    tpm.restart()
    boot(tpm)
    ports[0] = tpm.port
    with pytest.raises(CollectFailure, match="does not answer"):
        collect(collector, a_statement())
    statement = a_statement()
    judge(collect(collector, statement), statement)
    collector.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/dev/no-tpm", "there is no TPM at /dev/no-tpm"),
        ("swtpm:x", "swtpm:PORT"),
        ("swtpm:1", "cannot be opened"),
    ],
)
def test_a_device_that_is_not_there_is_a_sentence(name: str, words: str) -> None:
    with pytest.raises(CollectFailure, match=words):
        open_device(name)


# --- the launcher's part ---------------------------------------------------------------------------


def asked(collector: Callable[[], Collector], work: Callable[[Remote], Any]) -> Any:
    """Run the worker's side against the launcher's over a real control socket."""

    async def both() -> Any:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            desk, remote = Desk(collector), Remote(ours)
            child.on_control(ours, remote.hear, lambda: None)
            child.on_control(theirs, lambda message: desk.ask(message["collect"], theirs), lambda: None)
            try:
                return await work(remote)
            finally:
                for end in (ours, theirs):
                    asyncio.get_running_loop().remove_reader(end)

    return asyncio.run(both())


def test_evidence_crosses_the_control_socket(collector: Tpm2Collector) -> None:
    statement = a_statement()

    async def work(remote: Remote) -> list[EvidenceItem]:
        several = [remote.collect("tpm2", bound(statement), event_of(statement)) for _ in range(3)]
        return await asyncio.gather(*several)

    items = asked(lambda: collector, work)
    assert [item.format for item in items] == ["tpm2"] * 3
    for item in items:
        judge(item.item, statement)


def test_a_failure_crosses_it_as_a_sentence_and_the_next_request_is_served(collector: Tpm2Collector) -> None:
    statement = a_statement()
    unwilling = iter([CollectFailure("the TPM is away")])

    def make() -> Collector:
        for failure in unwilling:
            raise failure
        return collector

    async def work(remote: Remote) -> bytes:
        with pytest.raises(CollectFailure, match="the TPM is away"):
            await remote.collect("tpm2", bound(statement), event_of(statement))
        with pytest.raises(CollectFailure, match="does not collect evidence of the kind 'sev-snp'"):
            await remote.collect("sev-snp", bound(statement))
        return (await remote.collect("tpm2", bound(statement), event_of(statement))).item

    judge(asked(make, work), statement)


def test_a_device_that_is_not_there_crosses_it_as_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def work(remote: Remote) -> None:
        with pytest.raises(CollectFailure, match="there is no TPM at /dev/no-tpm"):
            await remote.collect("tpm2", bytes(64), event_of(a_statement()))

    asked(lambda: collector_for("tpm2", "/dev/no-tpm"), work)


def test_a_fault_of_a_collector_is_an_answer_too(capfd: pytest.CaptureFixture[str]) -> None:
    def make() -> Collector:
        raise ZeroDivisionError("secret")

    async def work(remote: Remote) -> None:
        for _ in range(2):
            with pytest.raises(CollectFailure, match="has a fault"):
                await remote.collect("sev-snp", bytes(64))

    asked(make, work)
    said = capfd.readouterr().err
    assert '"kind":"ZeroDivisionError"' in said
    assert "secret" not in said


@pytest.mark.parametrize(("program", "heard"), [(Program.WORKER, [{"id": 1}]), (Program.GATEWAY, [])])
def test_only_the_worker_may_ask_the_launcher(program: Program, heard: list[dict[str, int]]) -> None:
    """A gateway that was taken over must not get a quote over data of its choice."""
    launcher = Launcher(Settings(engine="fake"), Notices(as_json=True))
    asked_for: list[dict[str, int]] = []
    launcher._desk = SimpleNamespace(ask=lambda request, _end: asked_for.append(request))  # type: ignore[assignment]
    child = SimpleNamespace(program=program, failure=None, control=None)
    launcher._learn(child, {"collect": {"id": 1}})  # type: ignore[arg-type]
    launcher._selector.close()
    assert asked_for == heard


def test_a_node_that_needs_no_evidence_has_no_collector() -> None:
    with pytest.raises(CollectFailure, match="'software'"):
        collector_for("software", "/dev/tpmrm0")


def test_tpm2_evidence_needs_the_nodes_event() -> None:
    with pytest.raises(ValueError, match="event"):
        ask_for("tpm2", bytes(64), None)


def test_collectors_load_neither_cryptography_nor_grpc() -> None:
    modules = ", ".join(f"pcc_server.attest.{name}" for name in ("desk", "tpm2", "snp", "tpm_device"))
    code = f"import sys, {modules}; print(*sys.modules, sep='\\n')"
    words = [sys.executable, "-P", "-c", code]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert "pcc_server.attest.tpm2" in loaded  # the control
    assert not {"cryptography", "grpc", "mlx", "google.protobuf"} & loaded


def test_parts_that_make_no_record_are_refused(collector: Tpm2Collector) -> None:
    parts = dict(collector.collect(ask(a_statement())))
    make_item("tpm2", parts)
    with pytest.raises(Malformed):
        make_item("tpm2", {**parts, "pcrs": parts["pcrs"][:-1]})


# --- SEV-SNP behind its seam -----------------------------------------------------------------------

GUIDS = {
    "vcek": "63da758de6644564adc5f4b93be8accd",
    "ask": "4ab7b379bbac4fe4a02f05aef327c782",
    "ark": "c0b406a4a803495297433fb6014cd0ae",
    "vlek": "a8074bc2a25a483eaae639c045a0b8a1",
}


def a_table(**certificates: bytes) -> bytes:
    """The host's table as the GHCB specification lays it out."""
    offset, entries, blobs = 24 * (len(certificates) + 1), b"", b""
    for name, data in certificates.items():
        entries += bytes.fromhex(GUIDS[name]) + struct.pack("<II", offset + len(blobs), len(data))
        blobs += data
    return entries + bytes(24) + blobs


def a_report(data: bytes) -> bytes:
    return b"\2" + bytes(0x4F) + data + bytes(1184 - 0x90)


class Firmware:
    """Stands for the kernel: there is no SEV-SNP machine here."""

    def __init__(self, table: bytes = b"", report: Callable[[bytes], bytes] = a_report) -> None:
        self._table = table
        self._report = report

    def report(self, data: bytes) -> Reported:
        return Reported(self._report(data), self._table)


def snp_item(collector: SnpCollector, data: bytes) -> SnpItem:
    return SnpItem.decode(make_item("sev-snp", collector.collect(ask_for("sev-snp", data, None))).item)


def test_a_report_comes_with_the_hosts_certificates(tmp_path: Path) -> None:
    table = a_table(vlek=b"other", vcek=b"V", ask=b"S", ark=b"R")
    item = snp_item(SnpCollector(lambda: Firmware(table), tmp_path), bytes(range(64)))
    assert (item.vcek, item.ask, item.ark, item.profile) == (b"V", b"S", b"R", 1)
    assert item.report == a_report(bytes(range(64)))


def test_certificates_that_the_host_does_not_give_come_from_files(tmp_path: Path) -> None:
    for name in ("vcek", "ask", "ark"):
        (tmp_path / f"{name}.der").write_bytes(name.encode())
    item = snp_item(SnpCollector(lambda: Firmware(a_table(vcek=b"V")), tmp_path), bytes(64))
    assert (item.vcek, item.ask, item.ark) == (b"V", b"ask", b"ark")


def test_missing_certificates_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CollectFailure, match=r"vcek\.der cannot be read"):
        snp_item(SnpCollector(Firmware, tmp_path), bytes(64))


@pytest.mark.parametrize("report", [lambda _: bytes(1184), lambda data: a_report(data)[:-1]])
def test_a_report_over_something_else_is_refused(tmp_path: Path, report: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CollectFailure, match="not a report over our data"):
        snp_item(SnpCollector(lambda: Firmware(report=report), tmp_path), b"\1" * 64)


def test_a_table_that_is_cut_off_is_refused() -> None:
    table = a_table(vcek=b"V" * 100)
    assert read_table(table) == {"vcek": b"V" * 100}
    assert read_table(bytes(4096)) == {}
    with pytest.raises(CollectFailure, match="cut off"):
        read_table(table[:-1])


def test_a_kernel_without_sev_snp_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CollectFailure, match="no SEV-SNP guest"):
        snp_item(SnpCollector(folder=tmp_path), bytes(64))


def test_an_error_of_the_kernel_is_a_sentence(tmp_path: Path) -> None:
    def broken(_data: bytes) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(CollectFailure, match="Input/output error"):
        snp_item(SnpCollector(lambda: Firmware(report=broken), tmp_path), bytes(64))


def test_the_ioctl_carries_our_data_and_brings_the_report_and_the_table(tmp_path: Path) -> None:
    """The structures of linux/sev-guest.h, read as the kernel reads them."""
    table = a_table(vcek=b"V", ask=b"S", ark=b"R")

    def kernel(_fd: int, code: int, call: bytearray) -> int:
        assert (code, len(call)) == (0xC0205302, 32)
        version, request, response, _error = struct.unpack("=B7xQQQ", call)
        data, vmpl, room, size = struct.unpack("=64sI28xQI4x", ctypes.string_at(request, 112))
        assert (version, vmpl, size % 4096) == (1, 0, 0)
        ctypes.memmove(room, table, len(table))
        ctypes.memmove(response, struct.pack("=II24x", 0, 1184) + a_report(data), 32 + 1184)
        return 0

    device = tmp_path / "sev-guest"
    device.touch()
    item = snp_item(SnpCollector(lambda: DeviceSource(device, ioctl=kernel), tmp_path), bytes(range(64)))
    assert (item.vcek, item.report) == (b"V", a_report(bytes(range(64))))


def test_a_status_of_the_firmware_is_a_sentence(tmp_path: Path) -> None:
    def kernel(_fd: int, _code: int, call: bytearray) -> int:
        response = struct.unpack("=B7xQQQ", call)[2]
        ctypes.memmove(response, struct.pack("=II", 0x16, 0), 8)
        return 0

    device = tmp_path / "sev-guest"
    device.touch()
    with pytest.raises(CollectFailure, match="status 0x16"):
        DeviceSource(device, ioctl=kernel).report(bytes(64))


@pytest.mark.parametrize("provider", ["sev_guest", "tdx_guest"])
def test_a_folder_of_configfs_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    table, made = a_table(vcek=b"V", ask=b"S", ark=b"R"), tempfile.mkdtemp

    def configfs(*, prefix: str, dir: Path) -> str:  # noqa: A002 - the name of the standard library
        folder = Path(made(prefix=prefix, dir=dir))
        for name, data in (("provider", provider.encode()), ("outblob", a_report(bytes(64))), ("auxblob", table)):
            (folder / name).write_bytes(data)
        return str(folder)

    monkeypatch.setattr(tempfile, "mkdtemp", configfs)
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)  # configfs takes the attributes along
    collector = SnpCollector(lambda: ConfigfsSource(tmp_path), tmp_path)
    if provider == "sev_guest":
        assert snp_item(collector, bytes(64)).vcek == b"V"
    else:
        with pytest.raises(CollectFailure, match="comes from tdx_guest"):
            snp_item(collector, bytes(64))
    assert list(tmp_path.iterdir()) == []
