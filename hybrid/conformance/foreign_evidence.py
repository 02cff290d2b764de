"""SEV-SNP reports, a TPM quote, the Azure vTPM sample and firmware event logs of others (SPEC 13)."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hybrid.wire.encoding import v2
from hybrid.wire.snp import SnpItem

from .cases import SUCCESS, Case, Values, to_hex

SNP, AZURE, TPM, EVENTS = "sev-snp", "az-snp-vtpm", "tpm2-quote", "tcg-event-log"

NOW = 1_767_225_600  # 2026-01-01: inside the life of every certificate here
AFTER = 2_208_988_800  # 2040-01-01
MILAN: Values = {"products": ["milan"], "vmpl": [0], "min_tcb": {}, "now": NOW}
VCEK_OUTER_ALGORITHM = 842  # protocol N12: a byte of the outer, unsigned algorithm identifier
PCR_4 = {  # protocol B3
    "arch-linux-workstation": "925d453d",
    "cos-93-amd-sev": "871e8343",
    "cos-101-amd-sev": "6d9f1a1d",
    "eventlogwithsp800155": "18314f0c",
    "glinux-alex": "ddb124ca",
    "ubuntu-1804-amd-sev": "b4b94e84",
    "ubuntu-2104-no-secure-boot": "ebc7ae25",
}


def _case(suite: str, name: str, kind: str, given: Values, wanted: Values | str) -> Case:
    expect, output = (wanted, {}) if isinstance(wanted, str) else (SUCCESS, wanted)
    return Case(suite=suite, name=name, section="13", kind=kind, given=to_hex(given), expect=expect, output=output)


def _failed(check: str) -> str:
    return f"check_failure:{check}"


def _changed(data: bytes, at: int, xor: int = 0x01) -> bytes:
    changed = bytearray(data)
    changed[at] ^= xor
    return bytes(changed)


def _pem(text: str) -> list[bytes]:
    """Return the DER of every certificate in PEM text."""
    blocks = text.split("-----BEGIN CERTIFICATE-----")[1:]
    return [b64decode("".join(block.split("-----END")[0].split()), validate=True) for block in blocks]


def snp_cases(folder: Path) -> Iterator[Case]:
    """Yield the two Milan reports with right and wrong certificates, and the first one with single things wrong."""
    report, vcek = (folder / "test-report.bin").read_bytes(), (folder / "test-vcek.der").read_bytes()
    other, legacy = (folder / "vcek.testcer").read_bytes(), (folder / "test-vcek-invalid-legacy.der").read_bytes()
    ask, ark = _pem((folder / "milan.testcer").read_text("ascii"))
    good: Values = {"report": report, "vcek": vcek, "ask": ask, "ark": ark, **MILAN}
    accepted = {"product": "milan", "measurement": report[0x90:0xC0].hex(), "ends": 1_895_507_906}
    yield _case(SNP, "test-report.bin with its VCEK", "snp_report", good, accepted)
    debug = {**good, "report": (folder / "attestation.bin").read_bytes(), "vcek": other}
    yield _case(SNP, "attestation.bin allows debugging", "snp_report", debug, _failed("snp.policy-debug"))
    for name, changes, check in (
        ("with another chip's VCEK", {"vcek": other}, "signature"),
        ("with the legacy VCEK, which the ASK did not sign", {"vcek": legacy}, "chain"),
        ("with a changed outer algorithm identifier", {"vcek": _changed(vcek, VCEK_OUTER_ALGORITHM)}, "chain"),
        ("with ASK and ARK swapped", {"ask": ark, "ark": ask}, "product"),
        ("with a VCEK that is cut", {"vcek": vcek[:-1]}, "product"),
        ("in the year 2040", {"now": AFTER}, "cert-dates"),
        ("where only Genoa is trusted", {"products": ["genoa"]}, "product"),
        ("above the firmware it has", {"min_tcb": {"milan": {"microcode": 255}}}, "tcb-floor"),
        ("where only VMPL 1 is trusted", {"vmpl": [1]}, "vmpl"),
        ("one byte short", {"report": report[:-1]}, "format"),
        ("of version 6", {"report": b"\x06" + report[1:]}, "format"),
        ("with another algorithm", {"report": _changed(report, 0x34)}, "format"),
        ("with bytes after the signature", {"report": _changed(report, -1)}, "format"),
        ("with another measurement", {"report": _changed(report, 0x90)}, "signature"),
        ("with other report data", {"report": _changed(report, 0x50)}, "signature"),
        ("with another signature", {"report": _changed(report, 0x2A0)}, "signature"),
        ("that claims to be signed by a VLEK", {"report": _changed(report, 0x48, 0x04)}, "signing-key"),
    ):
        yield _case(SNP, f"test-report.bin {name}", "snp_report", {**good, **changes}, _failed(f"snp.{check}"))
    yield from _snp_items(SnpItem(report=report, vcek=vcek, ask=ask, ark=ark))


def _snp_items(record: SnpItem) -> Iterator[Case]:
    """Yield the report in a record of ours; its report data stands in for a binding."""
    item, report = record.encode(), record.report
    good: Values = {"item": item, "binding": report[0x50:0x90], **MILAN}
    output = {"product": "milan", "measurement": report[0x90:0xC0].hex(), "profile": 1}
    yield _case(SNP, "test-report.bin as an item", "sev_snp", good, output)
    for name, changes, check in (
        ("for another binding", {"binding": bytes(64)}, "report-data"),
        ("of another version", {"item": b"HSN2" + item[4:]}, "format"),
        ("with bytes after its end", {"item": item + b"\0"}, "format"),
    ):
        yield _case(SNP, f"test-report.bin as an item {name}", "sev_snp", {**good, **changes}, _failed(f"snp.{check}"))


def azure_cases(folder: Path) -> Iterator[Case]:
    """Yield the report, then the paravisor's quote. Both are url-safe base64."""
    evidence = json.loads((folder / "evidence-v1.json").read_text("utf-8"))
    hcl, vcek = (b64decode(evidence[name], altchars=b"-_", validate=True) for name in ("hcl_report", "vcek"))
    other, ask, ark = _pem((folder / "vcek.pem").read_text("ascii"))
    report, size = hcl[32 : 32 + 1184], int.from_bytes(hcl[1232:1236], "little")
    good: Values = {"report": report, "vcek": vcek, "ask": ask, "ark": ark, **MILAN}
    accepted = {"product": "milan", "measurement": report[0x90:0xC0].hex(), "ends": _AZURE_ENDS}
    yield _case(AZURE, "report with the embedded VCEK", "snp_report", good, accepted)
    wrong = {**good, "vcek": other}
    yield _case(AZURE, "report with another machine's VCEK", "snp_report", wrong, _failed("snp.signature"))
    yield from _azure_quotes(evidence["tpm_quote"], good, hcl[1236 : 1236 + size])


_AZURE_ENDS = 1_958_920_015  # Unix seconds, the VCEK's notAfter


def _azure_quotes(quote: Values, report: Values, runtime: bytes) -> Iterator[Case]:
    attest, raw = bytes.fromhex(quote["message"]), bytes.fromhex(quote["signature"])
    signature = bytes.fromhex("0014000b") + v2(raw)  # TPMT_SIGNATURE: RSASSA with SHA-256
    good: Values = {**report, "runtime": runtime, "attest": attest, "signature": signature}
    good["qualifying_data"] = b"challenge"
    yield _case(AZURE, "quote over the challenge", "vtpm_quote", good, {"pcr_digest": attest[-32:].hex()})
    for name, changes, check in (
        ("another challenge", {"qualifying_data": b"challengf"}, "tpm2.qualifying-data"),
        ("another runtime document", {"runtime": runtime[:-1] + b" "}, "snp.report-data"),
        ("another quote", {"attest": _changed(attest, -1)}, "tpm2.signature"),
        ("no quote", {"attest": _changed(attest, 5)}, "tpm2.type"),
        ("not made by a TPM", {"attest": _changed(attest, 0)}, "tpm2.magic"),
    ):
        yield _case(AZURE, f"quote: {name}", "vtpm_quote", {**good, **changes}, _failed(check))
    values = {str(index): bytes.fromhex(value) for index, value in enumerate(quote["pcrs"])}
    given = {"attest": attest, "pcrs": values, "required": []}
    yield _case(AZURE, "quote names resettable PCRs", "tpm2_selection", given, _failed("tpm2.pcr-resettable"))


def tpm_cases(folder: Path) -> Iterator[Case]:
    """Yield keylime's quote: RSASSA with SHA-256 over PCRs 15, 16 and 22; the key's attributes are ours."""
    attest, signature = (folder / "quote.out").read_bytes(), (folder / "quotesig.out").read_bytes()
    public = _tpmt_public((folder / "akpub.pem").read_bytes())
    nonce = attest[44:64]
    good: Values = {"attest": attest, "signature": signature, "public": public, "qualifying_data": nonce}
    output = {"pcr_digest": attest[-32:].hex(), "selected": [[15, 16, 22]]}
    yield _case(TPM, "quote under its key", "tpm2_signature", good, output)
    for name, changes, check in (
        ("another nonce", {"qualifying_data": _changed(nonce, 0)}, "qualifying-data"),
        ("another quote", {"attest": _changed(attest, -1)}, "signature"),
        ("another signature", {"signature": _changed(signature, -1)}, "signature"),
        ("another key", {"public": _changed(public, -2)}, "signature"),
        ("another magic", {"attest": _changed(attest, 3)}, "magic"),
        ("another type", {"attest": _changed(attest, 5)}, "type"),
    ):
        yield _case(TPM, f"quote: {name}", "tpm2_signature", {**good, **changes}, _failed(f"tpm2.{check}"))
    given: Values = {"attest": attest, "pcrs": _pcr_dump((folder / "quotepcr.out").read_bytes())}
    for required, check in (([], "pcr-resettable"), ([15, 16], "pcr-resettable"), ([4], "pcr-selection")):
        name = f"quote: PCRs {required} required"
        yield _case(TPM, name, "tpm2_selection", {**given, "required": required}, _failed(f"tpm2.{check}"))


def _tpmt_public(pem: bytes) -> bytes:
    """Spell an RSA 2048 key as the TPMT_PUBLIC of a restricted signing key without a scheme of its own."""
    key = load_pem_public_key(pem)
    if not isinstance(key, RSAPublicKey):
        raise TypeError("akpub.pem is no RSA key")
    modulus = key.public_numbers().n.to_bytes(256, "big")
    return bytes.fromhex("0001 000b 00050072 0000 0010 0010 0800 00000000") + v2(modulus)


def _pcr_dump(data: bytes) -> dict[str, bytes]:
    """Read tpm2-tools' little-endian memory dump: 16 selections of 8 bytes, then digests of 2 + 64 bytes."""
    bitmap, digests = data[7:10], data[4 + 16 * 8 + 8 :]
    selected = [index for index in range(24) if bitmap[index // 8] >> index % 8 & 1]
    return {str(index): digests[at * 66 + 2 : at * 66 + 34] for at, index in enumerate(selected)}


def event_cases(folder: Path) -> Iterator[Case]:
    """Yield seven firmware logs by the beginning of PCR 4, each cut and without its first event as twins."""
    for stem, begins in PCR_4.items():
        log = (folder / f"{stem}.bin").read_bytes()
        asked: Values = {"bank": "sha256", "pcr": 4, "digits": 8}
        yield _case(EVENTS, stem, "event_log", {"log": log, **asked}, {"begins": begins})
        yield _case(EVENTS, f"{stem}, one byte short", "event_log", {"log": log[:-1], **asked}, "malformed")
        headless = log.replace(b"Spec ID Event03", b"Spec ID Event02", 1)
        yield _case(EVENTS, f"{stem}, not a crypto-agile log", "event_log", {"log": headless, **asked}, "malformed")


SUITES: Mapping[str, Callable[[Path], Iterator[Case]]] = {
    SNP: snp_cases,
    AZURE: azure_cases,
    TPM: tpm_cases,
    EVENTS: event_cases,
}
