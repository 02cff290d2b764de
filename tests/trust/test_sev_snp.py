import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.trust import sev_snp
from hybrid.trust.certificates import Certificate, small_integer
from hybrid.trust.checks import CheckStatus, Findings
from hybrid.trust.paravisor import paravisor_key, report_data_of
from hybrid.trust.sev_snp import SnpFacts, SnpTrust, Vouched, check_report_data, check_snp, verify_report
from hybrid.trust.tpm2 import check_qualifying_data, check_selection, check_signature, read_quote
from hybrid.wire.encoding import u16, v2
from hybrid.wire.errors import Malformed, WireError
from hybrid.wire.release import SnpMeasurement
from hybrid.wire.snp import SnpItem, Tcb, VtpmQuote
from tests.trust.foreign import foreign
from tests.trust.snp_maker import CHIP, NOW, TCB, Amd, amd_extensions
from tests.trust.tpm_maker import BINDING, BOOT, RSASSA, Quote, rsa_signature

REPORT_ORDER = [
    "snp.format", "snp.product", "snp.chain", "snp.cert-dates", "snp.signing-key", "snp.signature", "snp.chip",
    "snp.tcb", "snp.tcb-floor", "snp.policy-debug", "snp.policy-migration", "snp.vmpl",
]  # fmt: skip
VTPM_ORDER = [
    "tpm2.magic", "tpm2.type", "tpm2.signature", "tpm2.qualifying-data", "tpm2.pcr-selection",
    "tpm2.pcr-resettable", "tpm2.pcr-digest", "tpm2.pcr-values",
]  # fmt: skip
ORDER = [*REPORT_ORDER, "snp.report-data"]
MEASUREMENT = "99" * 48


def pems(data: bytes) -> list[bytes]:
    """Every certificate of a PEM file, as DER."""
    bodies = re.findall(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", data, re.DOTALL)
    return [base64.b64decode(b"".join(body.split()), validate=True) for body in bodies]


def milan() -> dict[str, bytes]:
    ask, ark = pems(foreign("sev-snp/milan.testcer"))
    return {"ask": ask, "ark": ark}


def judge_report(report: bytes, findings: Findings | None = None, **how: Any) -> Vouched:
    given = {**milan(), "trust": SnpTrust(), "now": NOW, **how}
    return verify_report(report, findings=findings or Findings(), **given)


def accepted(report: bytes, **how: Any) -> bool:
    try:
        judge_report(report, **how)
    except AttestationError:
        return False
    return True


def refused_report(check: str, report: bytes, **how: Any) -> None:
    """Assert that exactly this check fails, after all those before it have held."""
    findings = Findings()
    with pytest.raises(AttestationError) as caught:
        judge_report(report, findings, **how)
    assert caught.value.check == check
    assert [each.name for each in findings.all()] == ORDER[: ORDER.index(check) + 1]
    assert [each.status for each in findings.all()][-1] is CheckStatus.FAIL


# --- reports of real machines -----------------------------------------------------------------------


def test_a_real_report_with_its_vcek_is_accepted() -> None:
    findings, report = Findings(), foreign("sev-snp/test-report.bin")
    vouched = judge_report(report, findings, vcek=foreign("sev-snp/test-vcek.der"))
    assert [check.name for check in findings.all()] == REPORT_ORDER
    assert vouched.product == "milan"
    assert vouched.report.reported_tcb == Tcb(bootloader=3, tee=0, snp=8, microcode=115)
    assert vouched.ends == 1_895_507_906  # the VCEK's, 24 January 2030


def test_no_single_bit_of_a_real_report_can_be_changed() -> None:
    report, vcek = foreign("sev-snp/test-report.bin"), foreign("sev-snp/test-vcek.der")
    assert accepted(report, vcek=vcek)
    bits = 8 * len(report)
    assert bits == 9_472
    for bit in range(bits):
        changed = bytearray(report)
        changed[bit // 8] ^= 1 << bit % 8
        assert not accepted(bytes(changed), vcek=vcek), bit


def test_a_real_report_with_another_chips_vcek_fails() -> None:
    refused_report("snp.signature", foreign("sev-snp/test-report.bin"), vcek=foreign("sev-snp/vcek.testcer"))


def test_a_vcek_that_amd_did_not_sign_fails() -> None:
    # OpenSSL says the same of this file: its signature is not the Milan ASK's
    vcek = foreign("sev-snp/test-vcek-invalid-legacy.der")
    refused_report("snp.chain", foreign("sev-snp/test-report.bin"), vcek=vcek)


def test_a_real_guest_that_can_be_debugged_fails_for_that_alone() -> None:
    report, vcek = foreign("sev-snp/attestation.bin"), foreign("sev-snp/vcek.testcer")
    refused_report("snp.policy-debug", report, vcek=vcek)


def test_no_bit_of_the_outer_algorithm_identifier_can_be_changed() -> None:
    vcek = foreign("sev-snp/test-vcek.der")
    report = foreign("sev-snp/test-report.bin")
    start = vcek.index(Certificate.parse(vcek).outer, 700)
    assert start <= 842 < start + len(Certificate.parse(vcek).outer)
    refused_report("snp.chain", report, vcek=vcek[:842] + bytes([vcek[842] ^ 1]) + vcek[843:])
    for bit in range(8 * start, 8 * (start + len(Certificate.parse(vcek).outer))):
        changed = bytearray(vcek)
        changed[bit // 8] ^= 1 << bit % 8
        assert not accepted(report, vcek=bytes(changed)), bit


def test_no_byte_of_any_certificate_can_be_changed() -> None:
    report = foreign("sev-snp/test-report.bin")
    good = {"vcek": foreign("sev-snp/test-vcek.der"), **milan()}
    assert accepted(report, **good)
    for which, der in good.items():
        for at in range(0, len(der), 3):
            changed = der[:at] + bytes([der[at] ^ 1 << at % 8]) + der[at + 1 :]
            assert not accepted(report, **{**good, which: changed}), (which, at)


def test_the_dates_of_certificates_count() -> None:
    report, vcek = foreign("sev-snp/test-report.bin"), foreign("sev-snp/test-vcek.der")
    for now in (1_674_583_106 - 91, 1_895_507_906 + 91):
        refused_report("snp.cert-dates", report, vcek=vcek, now=now)
    assert accepted(report, vcek=vcek, now=1_674_583_106 - 89)


def azure() -> tuple[bytes, bytes, bytes, dict[str, Any]]:
    """Report, paravisor's JSON, VCEK and quote of an Azure machine. All base64 is url-safe here (SPEC E5)."""
    sample = json.loads(foreign("az-snp-vtpm/evidence-v1.json"))

    def strict(text: str) -> bytes:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)

    hcl = strict(sample["hcl_report"])
    assert hcl[:4] == b"HCLA"
    length = int.from_bytes(hcl[32 + 1184 + 16 : 32 + 1184 + 20], "little")
    return hcl[32 : 32 + 1184], hcl[1236 : 1236 + length], strict(sample["vcek"]), sample["tpm_quote"]


def test_an_azure_report_names_the_vtpms_key_and_the_quote_is_signed_by_it() -> None:
    report, runtime, vcek, quoted = azure()
    findings, attest = Findings(), bytes.fromhex(quoted["message"])
    vouched = judge_report(report, findings, vcek=vcek)
    check_report_data(vouched.report, report_data_of(runtime), findings)
    signature = u16(RSASSA) + u16(0x0B) + v2(bytes.fromhex(quoted["signature"]))
    quote = read_quote(attest, findings)
    check_signature(paravisor_key(runtime, findings), signature, attest, findings)
    check_qualifying_data(quote, b"challenge", findings)
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate(quoted["pcrs"])}
    with pytest.raises(AttestationError, match=r"tpm2\.pcr-resettable"):  # the sample quotes all 24
        check_selection(quote, pcrs, (), findings)
    assert hashlib.sha256(b"".join(pcrs.values())).digest() == quote.pcr_digest
    assert [check.name for check in findings.all()] == [*ORDER, *VTPM_ORDER[:6]]


def test_an_azure_report_with_another_machines_vcek_fails() -> None:
    report, *_ = azure()
    refused_report("snp.signature", report, vcek=pems(foreign("az-snp-vtpm/vcek.pem"))[0])


def test_another_paravisor_json_does_not_fit_an_azure_report() -> None:
    report, runtime, vcek, _ = azure()
    vouched = judge_report(report, vcek=vcek)
    for changed in (runtime + b" ", runtime[:-1], runtime.replace(b"true", b"True", 1)):
        with pytest.raises(AttestationError, match=r"snp\.report-data"):
            check_report_data(vouched.report, report_data_of(changed), Findings())


# --- reports of our own, under a root key of our own ---------------------------------------------------


@pytest.fixture(scope="module")
def amd() -> Amd:
    return Amd()


@pytest.fixture
def own_root(amd: Amd, monkeypatch: pytest.MonkeyPatch) -> Amd:
    """Put our root in the place of AMD's."""
    monkeypatch.setitem(sev_snp.PRODUCTS, "milan", amd.root)
    return amd


def item_of(amd: Amd, **changes: Any) -> SnpItem:
    given = {"report": amd.report(data=BINDING), "vcek": amd.vcek(), "ask": amd.ask(), "ark": amd.ark()}
    return SnpItem(**{**given, **changes})


def judge(
    item: SnpItem,
    *,
    trust: SnpTrust | None = None,
    release: Sequence[SnpMeasurement] = (),
    findings: Findings | None = None,
    binding: bytes = BINDING,
) -> SnpFacts:
    return check_snp(
        item.encode(),
        binding=binding,
        trust=trust or SnpTrust(),
        release=release,
        findings=findings or Findings(),
        now=NOW,
    )


def refused(check: str, item: SnpItem, **how: Any) -> AttestationError:
    """Assert that exactly this check fails, after all those before it have held."""
    findings = Findings()
    with pytest.raises(AttestationError) as caught:
        judge(item, findings=findings, **how)
    order = [*ORDER, *VTPM_ORDER]
    assert caught.value.check == check
    assert [each.name for each in findings.all()] == order[: order.index(check) + 1]
    assert CheckStatus.FAIL not in [each.status for each in findings.all()[:-1]]
    return caught.value


def test_a_good_item_passes_every_check_in_order(own_root: Amd) -> None:
    findings = Findings()
    floor = {"milan": {"bootloader": 3, "tee": 1, "snp": 8, "microcode": 200}}
    facts = judge(item_of(own_root), findings=findings, trust=SnpTrust(min_tcb=floor))
    assert [check.name for check in findings.all()] == ORDER
    assert {check.status for check in findings.all()} == {CheckStatus.PASS}
    assert (facts.measurement, facts.product, facts.profile, facts.pcrs) == (MEASUREMENT, "milan", 1, {})


def test_without_a_floor_that_check_says_skip(own_root: Amd) -> None:
    findings = Findings()
    judge(item_of(own_root), findings=findings)
    skipped = [check.name for check in findings.all() if check.status is CheckStatus.SKIP]
    assert skipped == ["snp.tcb-floor"]


def test_the_same_item_under_amds_own_root_key_fails(amd: Amd) -> None:
    refused("snp.chain", item_of(amd))


REPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "version 1": ("snp.format", {"version": 1}),
    "version 6": ("snp.format", {"version": 6}),
    "a report of Genoa": ("snp.product", {"version": 3, "cpuid": b"\x19\x11\x01"}),
    "a report of Turin": ("snp.product", {"version": 5, "cpuid": b"\x1a\x02\x00"}),
    "signed by a VLEK": ("snp.signing-key", {"key_info": 1 << 2}),
    "signed by no key": ("snp.signing-key", {"key_info": 7 << 2}),
    "another chip": ("snp.chip", {"chip": bytes(64)}),
    "another bootloader": ("snp.tcb", {"reported": replace(TCB, bootloader=4)}),
    "another tee": ("snp.tcb", {"reported": replace(TCB, tee=0)}),
    "another snp": ("snp.tcb", {"reported": replace(TCB, snp=9)}),
    "another microcode": ("snp.tcb", {"reported": replace(TCB, microcode=255)}),
    "debugging": ("snp.policy-debug", {"policy": 0x30000 | 1 << 19}),
    "migration": ("snp.policy-migration", {"policy": 0x30000 | 1 << 18}),
    "privilege level 1": ("snp.vmpl", {"vmpl": 1}),
    "other report data": ("snp.report-data", {"data": bytes(64)}),
}


@pytest.mark.parametrize("why", REPORTS)
def test_a_report_that_says_otherwise_fails(own_root: Amd, why: str) -> None:
    check, changes = REPORTS[why]
    refused(check, item_of(own_root, report=own_root.report(**{"data": BINDING, **changes})))


@pytest.mark.parametrize(("version", "cpuid"), [(3, b"\x19\x01\x01"), (5, b"\x19\x0f\x00")])
def test_later_versions_say_their_product_themselves(own_root: Amd, version: int, cpuid: bytes) -> None:
    judge(item_of(own_root, report=own_root.report(data=BINDING, version=version, cpuid=cpuid)))


@pytest.mark.parametrize(("at", "byte"), [(0x34, 2), (0x330, 1), (1183, 1), (0x2A0 + 60, 1)])
def test_a_report_of_another_layout_fails(own_root: Amd, at: int, byte: int) -> None:
    report = own_root.report(data=BINDING)
    signature_field = 0x2A0 <= at < 0x330
    changed = report[:at] + bytes([byte]) + report[at + 1 :]
    refused("snp.signature" if signature_field else "snp.format", item_of(own_root, report=changed))


def test_the_floor_holds_now_and_at_launch(own_root: Amd) -> None:
    trust = SnpTrust(min_tcb={"milan": {"microcode": 200}})
    old = replace(TCB, microcode=199)
    updated = own_root.report(data=BINDING, launch=old)  # the firmware is new, the guest was started under the old
    judge(item_of(own_root, report=updated))
    refused("snp.tcb-floor", item_of(own_root, report=updated), trust=trust)
    outdated = item_of(own_root, report=own_root.report(data=BINDING, reported=old, launch=old))
    outdated = replace(outdated, vcek=own_root.vcek(amd_extensions(tcb=old)))
    judge(outdated)
    refused("snp.tcb-floor", outdated, trust=trust)
    judge(outdated, trust=SnpTrust(min_tcb={"genoa": {"microcode": 200}}))  # another product's floor


def test_other_privilege_levels_are_the_policys_choice(own_root: Amd) -> None:
    report = own_root.report(data=BINDING, vmpl=2)
    judge(item_of(own_root, report=report), trust=SnpTrust(vmpl=(0, 2)))


def test_products_outside_the_policy_fail(own_root: Amd) -> None:
    refused("snp.product", item_of(own_root), trust=SnpTrust(products=("genoa",)))


@pytest.mark.parametrize("product", ["Turin-C1", "Genoa-B1", "milan-B0", "Milan2-B0", ""])
def test_a_vcek_of_another_product_fails(own_root: Amd, product: str) -> None:
    vcek = own_root.vcek(amd_extensions(product=product))
    refused("snp.product", item_of(own_root, vcek=vcek))


def test_the_certificates_of_a_vlek_fail_by_name(own_root: Amd) -> None:
    name = "SEV-VLEK-Milan"
    error = refused("snp.product", item_of(own_root, ask=own_root.ask(name), vcek=own_root.vcek(issuer=name)))
    assert name in error.got


def test_spliced_chains_fail(own_root: Amd) -> None:
    other = Amd()
    refused("snp.chain", item_of(own_root, ark=other.ark()))  # another root
    refused("snp.chain", item_of(own_root, ask=other.ask()))  # an ASK of another root
    refused("snp.chain", item_of(own_root, vcek=other.vcek()))  # a VCEK of another ASK
    refused("snp.chain", item_of(own_root, vcek=own_root.vcek(issuer="SEV-Genoa")))
    refused("snp.chain", item_of(own_root, vcek=own_root.vcek(salt=32)))
    refused("snp.signature", item_of(own_root, report=other.report(data=BINDING)))


def test_a_root_with_the_pinned_key_must_have_signed_itself(own_root: Amd) -> None:
    ark = own_root.ark()
    refused("snp.chain", item_of(own_root, ark=ark[:-1] + bytes([ark[-1] ^ 1])))


def test_expired_certificates_fail(own_root: Amd) -> None:
    refused("snp.cert-dates", item_of(own_root, vcek=own_root.vcek(years=(2015, 2020))))
    refused("snp.cert-dates", item_of(own_root, vcek=own_root.vcek(years=(2030, 2035))))


@pytest.mark.parametrize("missing", ["2", "3.1", "3.2", "3.3", "3.8", "4"])
def test_a_vcek_without_one_of_amds_extensions_fails(own_root: Amd, missing: str) -> None:
    extensions = {end: value for end, value in amd_extensions().items() if end != missing}
    check = {"2": "snp.product", "4": "snp.chip"}.get(missing, "snp.tcb")
    refused(check, item_of(own_root, vcek=own_root.vcek(extensions)))


def test_a_chip_id_that_is_only_a_beginning_fails(own_root: Amd) -> None:
    refused("snp.chip", item_of(own_root, vcek=own_root.vcek(amd_extensions(chip=CHIP[:8]))))


@pytest.mark.parametrize("which", ["vcek", "ask", "ark"])
def test_what_is_not_a_certificate_fails(own_root: Amd, which: str) -> None:
    refused("snp.product", item_of(own_root, **{which: b""}))


def test_an_item_that_does_not_decode_fails_the_first_check(own_root: Amd) -> None:
    data = item_of(own_root).encode()
    for changed in (data + b"\0", data[:-1], b"HSN2" + data[4:], data[:4] + b"\x03" + data[5:], b""):
        with pytest.raises(AttestationError) as caught:
            check_snp(changed, binding=BINDING, trust=SnpTrust(), release=(), findings=Findings(), now=NOW)
        assert caught.value.check == "snp.format"


# --- profile 2: an Azure paravisor's vTPM ------------------------------------------------------------


@pytest.fixture(scope="module")
def vtpm_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2048)


def base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def runtime_of(key: rsa.RSAPublicKey, **changes: str) -> bytes:
    numbers = key.public_numbers()
    jwk = {"kid": "HCLAkPub", "kty": "RSA", "e": base64url(numbers.e), "n": base64url(numbers.n), **changes}
    return json.dumps({"keys": [jwk, {"kid": "HCLEkPub", "kty": "RSA"}], "user-data": ""}).encode()


def profile_2(
    amd: Amd, key: rsa.RSAPrivateKey, *, runtime: bytes | None = None, quote: Mapping[str, Any] | None = None
) -> SnpItem:
    words = runtime or runtime_of(key.public_key())
    parts = {"pcrs": BOOT, **(quote or {})}
    attest = Quote(**parts).encode()
    vtpm = VtpmQuote(runtime=words, attest=attest, signature=rsa_signature(key, attest), pcrs=parts["pcrs"])
    return item_of(amd, report=amd.report(data=report_data_of(words)), vtpm=vtpm)


HEX_BOOT = {index: value.hex() for index, value in BOOT.items()}
RELEASE = [SnpMeasurement(MEASUREMENT, HEX_BOOT)]


def test_a_paravisors_item_passes_both_lists_in_order(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    findings = Findings()
    facts = judge(profile_2(own_root, vtpm_key), release=RELEASE, findings=findings)
    assert [check.name for check in findings.all()] == [*ORDER, *VTPM_ORDER]
    assert (facts.profile, facts.measurement, facts.pcrs) == (2, MEASUREMENT, HEX_BOOT)


def test_a_listed_measurement_with_other_pcr_values_fails(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    item = profile_2(own_root, vtpm_key)
    others: list[list[SnpMeasurement]] = [
        [SnpMeasurement(MEASUREMENT, {**HEX_BOOT, 11: "00" * 32})],
        [SnpMeasurement(MEASUREMENT)],  # as for profile 1: the measurement alone does not cover the guest
        [SnpMeasurement("00" * 48, HEX_BOOT)],  # the values stand beside another measurement
        [SnpMeasurement(MEASUREMENT, {7: HEX_BOOT[7]})],  # none of them says what was booted
        [],
    ]
    for release in others:
        refused("tpm2.pcr-values", item, release=release)


def test_a_paravisors_quote_is_judged_like_any_other(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "tpm2.magic": {"magic": 0},
        "tpm2.type": {"kind": 0x8017},
        "tpm2.qualifying-data": {"extra": BINDING},
        "tpm2.pcr-selection": {"banks": {0x04: (4, 7, 11)}},
        "tpm2.pcr-resettable": {"pcrs": {**BOOT, 16: bytes(32)}},
        "tpm2.pcr-digest": {"digest": bytes(32)},
    }
    for check, quote in wrong.items():
        refused(check, profile_2(own_root, vtpm_key, quote=quote), release=RELEASE)
    refused("tpm2.qualifying-data", profile_2(own_root, vtpm_key), release=RELEASE, binding=bytes(64))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_runs_below_a_paravisor_does_not_speak_for_it(
    own_root: Amd, vtpm_key: rsa.RSAPrivateKey, level: int
) -> None:
    item, trust = profile_2(own_root, vtpm_key), SnpTrust(vmpl=(0, level))
    assert item.vtpm is not None
    judge(item, release=RELEASE, trust=trust)
    forged = own_root.report(data=report_data_of(item.vtpm.runtime), vmpl=level)  # with a vTPM of the guest's own
    refused("snp.vmpl", replace(item, report=forged), release=RELEASE, trust=trust)
    refused("snp.vmpl", item, release=RELEASE, trust=SnpTrust(vmpl=(level,)))


def test_a_report_about_another_json_fails(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    item = profile_2(own_root, vtpm_key)
    assert item.vtpm is not None
    spliced = replace(item, vtpm=replace(item.vtpm, runtime=item.vtpm.runtime + b"\n"))
    refused("snp.report-data", spliced, release=RELEASE)
    refused("snp.report-data", replace(item, report=own_root.report(data=BINDING)), release=RELEASE)
    refused("snp.report-data", replace(item, vtpm=None), release=RELEASE)  # nor does it pass as profile 1


def test_a_quote_by_another_key_than_the_reports_fails(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    other = rsa.generate_private_key(65_537, 2048)
    words = runtime_of(vtpm_key.public_key())
    refused("tpm2.signature", profile_2(own_root, other, runtime=words), release=RELEASE)


def test_a_json_without_exactly_one_good_key_fails(own_root: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    good = runtime_of(vtpm_key.public_key())
    twice = good.replace(b'"keys": [', b'"keys": [' + json.dumps(json.loads(good)["keys"][0]).encode() + b", ")
    bad = [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b'{"keys": 7}',
        b'{"keys": [{}]}',
        good + b"x",
        good.replace(b'"keys"', b'"keys": [], "keys"'),
        twice,
        runtime_of(vtpm_key.public_key(), kty="EC"),
        runtime_of(vtpm_key.public_key(), e="Aw"),
        runtime_of(vtpm_key.public_key(), n="AQAB"),
        runtime_of(vtpm_key.public_key(), e="AQAB!"),
        '{"keys": "ä"}'.encode(),
    ]
    paravisor_key(good, Findings())
    for words in bad:
        with pytest.raises(AttestationError, match=r"tpm2\.signature"):
            paravisor_key(words, Findings())


# --- records, certificates, policy ---------------------------------------------------------------------


def test_a_record_of_either_profile_survives_encoding(amd: Amd, vtpm_key: rsa.RSAPrivateKey) -> None:
    for item in (item_of(amd), profile_2(amd, vtpm_key)):
        assert SnpItem.decode(item.encode()) == item


@pytest.mark.parametrize(
    "der", ["", "0200", "02020100", "02020001", "0201ff", "020101ff", "030101", "02810101", "0280"]
)
def test_integers_are_read_strictly(der: str) -> None:
    assert small_integer(bytes.fromhex("020200ff")) == 255
    with pytest.raises(Malformed):
        small_integer(bytes.fromhex(der))


def test_a_certified_number_longer_than_any_of_amds_fails(own_root: Amd) -> None:
    huge = {**amd_extensions(), "3.1": bytes.fromhex("02820bb8") + b"\x01" * 3000}  # too long even to be shown
    refused("snp.tcb", item_of(own_root, vcek=own_root.vcek(huge)))


@pytest.mark.parametrize("product", ["Milan\x1b[2J", "Milan\n", "Mil\xe4n", "Milan\x9b2J"])
def test_names_are_printable_before_anybody_is_told_of_them(own_root: Amd, product: str) -> None:
    written = {**amd_extensions(), "2": bytes([0x16, len(product)]) + product.encode("latin-1")}
    assert refused("snp.product", item_of(own_root, vcek=own_root.vcek(written))).got.isprintable()
    vcek = own_root.vcek(issuer=product)
    assert refused("snp.product", item_of(own_root, ask=own_root.ask(product), vcek=vcek)).got.isprintable()


@pytest.mark.parametrize("bits", [1024, 256, 18])
def test_an_issuers_key_too_short_for_the_signature_is_a_typed_failure(amd: Amd, bits: int) -> None:
    root = Certificate.parse(amd.ark())
    numbers = rsa.RSAPublicNumbers(65_537, 1 << bits - 1 | 1)
    info = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    root.verify_issued_by(root)
    with pytest.raises(WireError):
        replace(root, signature=root.signature[: (bits + 7) // 8]).verify_issued_by(replace(root, public_key_info=info))


def test_certificates_are_read_strictly(amd: Amd) -> None:
    der = amd.vcek()
    Certificate.parse(der)
    short = bytes.fromhex("30800000")
    for changed in (
        b"",
        der + b"\0",
        der[:-1],
        short,
        der[:1] + b"\x83\0" + der[2:],
        der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"),
    ):
        with pytest.raises(Malformed):
            Certificate.parse(changed)


BAD_TRUST: dict[str, dict[str, Any]] = {
    "sev_snp.products": {"products": ("turin",)},
    "sev_snp.vmpl": {"vmpl": (4,)},
    "sev_snp.min_tcb accepts": {"min_tcb": {"turin": {}}},
    "sev_snp.min_tcb.milan accepts": {"min_tcb": {"milan": {"fmc": 1}}},
    "sev_snp.min_tcb.milan must": {"min_tcb": {"milan": {"tee": 256}}},
}


@pytest.mark.parametrize("words", BAD_TRUST)
def test_trust_that_means_nothing_is_refused(words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        SnpTrust(**BAD_TRUST[words])


@given(st.binary(max_size=300), st.integers(0, 1359), st.binary(min_size=1, max_size=4))
def test_other_bytes_raise_wire_errors_only(junk: bytes, at: int, patch: bytes) -> None:
    vcek = foreign("sev-snp/test-vcek.der")
    for data in (junk, vcek[:at] + patch + vcek[at + len(patch) :], vcek[:at]):
        with suppress(WireError):
            certificate = Certificate.parse(data)
            assert certificate.common_name
            assert certificate.public_key
        with suppress(WireError):
            SnpItem.decode(b"HSN1" + data)
