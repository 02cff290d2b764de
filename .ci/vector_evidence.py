"""Vectors of evidence: TPM quotes by a key of ours, SEV-SNP records, replies of ``Evidence.Attest`` (section 13)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from vector_scene import Scene, filled

from hybrid.trust.tpm2 import event_of
from hybrid.wire.attest import AttestReply
from hybrid.wire.encoding import u8, u16, v2
from hybrid.wire.evidence import EvidenceItem, Statement, binding
from hybrid.wire.snp import REPORT_BYTES, SnpItem, VtpmQuote
from hybrid.wire.tpm2 import Tpm2Item, extend, name_of, qualifying_data
from tests.trust.tpm_maker import BOOT, ECDSA, Quote, ecc_public

Given = dict[str, Any]
Made = tuple[str, str, str, Given]  # name, kind, expect, input

GOOD = "success"
RUNTIME_PCR = 15
AK = ec.derive_private_key(int.from_bytes(filled(0x71, 31), "big"), ec.SECP256R1())


def _signature(attest: bytes) -> bytes:
    """TPMT_SIGNATURE with ECDSA; deterministic, so that vectors come out the same."""
    r, s = decode_dss_signature(AK.sign(attest, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return u16(ECDSA) + u16(0x0B) + v2(r.to_bytes(32, "big")) + v2(s.to_bytes(32, "big"))


class Machine:
    """A machine booted as ``BOOT`` on which the node of one statement has started."""

    def __init__(self, scene: Scene) -> None:
        self.public = ecc_public(AK)
        software = scene.nodes[0].bundle.statement
        self.stand_on(replace(software, formats=("tpm2",), release_leaf=filled(0x01, 32)))

    def stand_on(self, statement: Statement) -> None:
        """Start the node of this statement."""
        self.statement = statement
        self.binding = binding(statement.encode(), [], "tpm2")
        self.event = event_of(statement)
        self.pcrs = {**BOOT, RUNTIME_PCR: extend(bytes(32), self.event.extend_digest())}

    def item(self, *, quote: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
        """Return an item with parts of the quote or of the item changed, signed by the machine's key."""
        pcrs = changes.get("pcrs", self.pcrs)
        attest = Quote(**{"pcrs": pcrs, "extra": qualifying_data(self.binding), **(quote or {})}).encode()
        given = {"public": self.public, "attest": attest, "signature": _signature(attest), "pcrs": pcrs}
        return Tpm2Item(**{**given, "events": (self.event,), **changes}).encode()

    def asked(self, **changes: Any) -> Given:
        """Return the input of a case: item, what it must cover, and the policy."""
        given = {
            "item": self.item(),
            "binding": self.binding,
            "statement": self.statement.encode(),
            "ak_names": [name_of(self.public)],
            "runtime_pcr": RUNTIME_PCR,
            "pcrs": {"4": [BOOT[4]]},
            "pcr_before": [],
            "release_pcrs": [{"11": BOOT[11]}],
        }
        return {**given, **changes}


def tpm2_cases(scene: Scene) -> Iterator[Made]:
    """Yield items of tier 1: good, and with one thing wrong, by the check that must say so."""
    machine = Machine(scene)
    yield "tpm2 item", "tpm2_item", GOOD, {"item": machine.item()}
    yield "tpm2 item, judged", "tpm2", GOOD, machine.asked()
    attest = Quote(pcrs=machine.pcrs, extra=qualifying_data(machine.binding)).encode()
    values = {str(index): value for index, value in machine.pcrs.items()}
    quoted = {"attest": attest, "pcrs": values, "required": [4, RUNTIME_PCR]}
    yield "tpm2 quote of PCRs", "tpm2_selection", GOOD, quoted
    before = filled(0x05, 32)
    later = {**BOOT, RUNTIME_PCR: extend(before, machine.event.extend_digest())}
    begun = machine.item(pcrs=later, pcr_before=before)
    yield "tpm2 item after a boot that used the PCR", "tpm2", GOOD, machine.asked(item=begun, pcr_before=[before])
    other = replace(machine.event, node_id=filled(0x09, 32))
    resettable = {**machine.pcrs, 16: bytes(32)}
    item = machine.item()
    for name, check, changes in (
        ("another magic", "magic", {"item": machine.item(quote={"magic": 0xFF544346})}),
        ("bytes after its end", "magic", {"item": item + b"\0"}),
        ("a certification instead of a quote", "type", {"item": machine.item(quote={"kind": 0x8017})}),
        ("another signature", "signature", {"item": machine.item(signature=_signature(b"other words"))}),
        ("an unrestricted key", "ak-attributes", {"item": machine.item(public=ecc_public(AK, 0x00040072))}),
        ("a key that decrypts", "ak-attributes", {"item": machine.item(public=ecc_public(AK, 0x00070072))}),
        ("another key's name", "ak-trusted", {"ak_names": [b"\0\x0b" + filled(0x09, 32)]}),
        ("another nonce", "qualifying-data", {"item": machine.item(quote={"extra": filled(0x09, 32)})}),
        ("another binding", "qualifying-data", {"binding": filled(0x09, 64)}),
        ("without the runtime PCR", "pcr-selection", {"item": machine.item(pcrs=BOOT)}),
        ("the SHA-1 bank", "pcr-selection", {"item": machine.item(quote={"banks": {0x04: tuple(machine.pcrs)}})}),
        ("a resettable PCR", "pcr-resettable", {"item": machine.item(pcrs=resettable)}),
        ("another digest", "pcr-digest", {"item": machine.item(quote={"digest": filled(0x09, 32)})}),
        ("another value of PCR 4", "pcr-values", {"pcrs": {"4": [filled(0x09, 32)]}}),
        ("another value than the release's", "pcr-values", {"release_pcrs": [{"11": filled(0x09, 32)}]}),
        ("no boot PCR required", "pcr-values", {"pcrs": {"7": [BOOT[7]]}, "release_pcrs": []}),
        ("another node's event last", "runtime-log", {"item": machine.item(events=(other,))}),
        ("an event missing", "runtime-log", {"item": machine.item(events=(machine.event, machine.event))}),
        ("a beginning nobody allowed", "runtime-log", {"item": begun}),
    ):
        yield f"tpm2 item, {name}", "tpm2", f"check_failure:tpm2.{check}", machine.asked(**changes)
    events_at = len(item) - 4 - 97
    for name, changed in (
        ("with no event", item[: events_at - 1] + b"\0" + bytes(4)),
        ("with an event of version 2", item[:events_at] + b"\x02" + item[events_at + 1 :]),
        ("one byte short", item[:-1]),
    ):
        yield f"tpm2 item {name}", "tpm2_item", "malformed", {"item": changed}
    yield "tpm2 item of version 2", "tpm2_item", "bad_version", {"item": b"HTP2" + item[4:]}


def snp_cases() -> Iterator[Made]:
    """Yield records of tier 2 as such: AMD's key signs none of ours; others' reports are in ``../shared/vectors``."""
    report = bytes.fromhex("02000000") + bytes(48) + bytes.fromhex("01000000") + bytes(REPORT_BYTES - 56)
    report = report[:0x50] + filled(0x50, 64) + filled(0x90, 48) + report[0xC0:]
    parts = {"vcek": b"a VCEK", "ask": b"an ASK", "ark": b"an ARK"}
    direct = SnpItem(report=report, **parts).encode()
    vtpm = VtpmQuote(runtime=b"{}", attest=b"attest", signature=b"signature", pcrs={4: filled(0x04, 32)})
    yield "sev-snp item, direct", "snp_item", GOOD, {"item": direct}
    both = SnpItem(report=report, vtpm=vtpm, **parts).encode()
    yield "sev-snp item through a vTPM", "snp_item", GOOD, {"item": both}
    for name, changed, expect in (
        ("of version 2", b"HSN2" + direct[4:], "bad_version"),
        ("of profile 0", direct[:4] + u8(0) + direct[5:], "malformed"),
        ("of profile 3", direct[:4] + u8(3) + direct[5:], "malformed"),
        ("of profile 2 without its tail", direct[:4] + u8(2) + direct[5:], "malformed"),
        ("of profile 1 with a tail", both[:4] + u8(1) + both[5:], "malformed"),
        ("with a report of version 1", direct[:5] + b"\x01" + direct[6:], "malformed"),
        ("with a report of version 6", direct[:5] + b"\x06" + direct[6:], "malformed"),
        ("with another signature algorithm", direct[: 5 + 0x34] + b"\x02" + direct[5 + 0x35 :], "malformed"),
        ("one byte short", direct[:-1], "malformed"),
    ):
        yield f"sev-snp item {name}", "snp_item", expect, {"item": changed}


def attest_cases() -> Iterator[Made]:
    """Yield replies of ``Evidence.Attest``."""
    items = (EvidenceItem(format="nvidia-cc", item=b"gpu"), EvidenceItem(format="tpm2", item=b"quote"))
    reply = AttestReply(nonces=(filled(0x01, 32), filled(0x02, 32)), items=items).encode()
    yield "attest reply", "attest_reply", GOOD, {"reply": reply}
    for name, changed in (
        ("without a nonce", b"\0\0" + reply[2 + 64 :]),
        ("with 257 nonces", b"\x01\x01" + bytes(257 * 32) + reply[2 + 64 :]),
        ("without an item", reply[: 2 + 64] + b"\0"),
        ("with bytes after its end", reply + b"\0"),
        ("one byte short", reply[:-1]),
    ):
        yield f"attest reply {name}", "attest_reply", "malformed", {"reply": changed}


def cases(scene: Scene) -> Iterator[Made]:
    """Yield name, kind, outcome and input of every case of section 13."""
    yield from tpm2_cases(scene)
    yield from snp_cases()
    yield from attest_cases()
