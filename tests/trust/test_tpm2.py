import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.trust.checks import CheckStatus, Findings
from hybrid.trust.tpm2 import (
    AK_MUST,
    PcrValues,
    Tpm2Facts,
    Tpm2Trust,
    check_key,
    check_qualifying_data,
    check_selection,
    check_signature,
    check_tpm2,
    check_values,
    event_of,
    public_key,
    read_quote,
)
from hybrid.wire.errors import Malformed, WireError
from hybrid.wire.evidence import Statement
from hybrid.wire.tpm2 import Attributes, Tpm2Item, TpmEvent, TpmsAttest, TpmtPublic, TpmtSignature, extend, name_of
from tests.trust.foreign import foreign
from tests.trust.tpm_maker import (
    BINDING,
    BOOT,
    RSAPSS,
    RSASSA,
    Quote,
    Tpm,
    ecc_public,
    ecdsa_signature,
    rsa_public,
    rsa_signature,
    statement,
)

ORDER = [
    "tpm2.magic", "tpm2.type", "tpm2.signature", "tpm2.ak-attributes", "tpm2.ak-trusted", "tpm2.qualifying-data",
    "tpm2.pcr-selection", "tpm2.pcr-resettable", "tpm2.pcr-digest", "tpm2.pcr-values", "tpm2.runtime-log",
]  # fmt: skip
HEX_BOOT = {index: value.hex() for index, value in BOOT.items()}
NONCE = bytes.fromhex("db1db298db6d60e6385b7231743e9c3056a18003")


def trust_in(item: Tpm2Item, **changes: Any) -> Tpm2Trust:
    given = {"ak_names": (name_of(item.public).hex(),), "pcrs": {i: (v,) for i, v in HEX_BOOT.items()}}
    return Tpm2Trust(**{**given, **changes})


def judge(
    item: Tpm2Item,
    said: Statement,
    *,
    trust: Tpm2Trust | None = None,
    release: Sequence[PcrValues] = (),
    findings: Findings | None = None,
    binding: bytes = BINDING,
) -> Tpm2Facts:
    return check_tpm2(
        item.encode(),
        binding=binding,
        statement=said,
        trust=trust or trust_in(item),
        release_pcrs=release,
        findings=findings or Findings(),
    )


def refused(check: str, item: Tpm2Item, said: Statement, **how: Any) -> AttestationError:
    """Assert that exactly this check fails, after all those before it have passed."""
    findings = Findings()
    with pytest.raises(AttestationError) as caught:
        judge(item, said, findings=findings, **how)
    assert caught.value.check == check
    seen = findings.all()
    assert [each.name for each in seen] == ORDER[: ORDER.index(check) + 1]
    assert [each.status for each in seen] == [CheckStatus.PASS] * (len(seen) - 1) + [CheckStatus.FAIL]
    return caught.value


@pytest.fixture
def tpm() -> Tpm:
    return Tpm()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def test_a_good_quote_passes_every_check_in_order(tpm: Tpm) -> None:
    findings = Findings()
    facts = judge(tpm.item(), tpm.statement, findings=findings)
    assert [check.name for check in findings.all()] == ORDER
    assert {check.status for check in findings.all()} == {CheckStatus.PASS}
    assert facts.pcrs == {**HEX_BOOT, 15: tpm.pcrs()[15].hex()}


def test_the_measurement_is_of_the_named_pcrs_alone(tpm: Tpm) -> None:
    other = Tpm(statement=statement(), key=tpm.key)  # another node on the same boot
    first, second = (judge(each.item(), each.statement).measurement for each in (tpm, other))
    words = json.dumps({str(i): v for i, v in HEX_BOOT.items()}, sort_keys=True, separators=(",", ":"))
    assert first == second == hashlib.sha256(words.encode()).hexdigest()


@pytest.mark.parametrize("scheme", [RSASSA, RSAPSS])
def test_rsa_keys_sign_with_either_scheme(tpm: Tpm, rsa_key: rsa.RSAPrivateKey, scheme: int) -> None:
    item = tpm.item(public=rsa_public(rsa_key.public_key(), scheme))
    judge(replace(item, signature=rsa_signature(rsa_key, item.attest, scheme)), tpm.statement)


def test_every_bit_of_an_item_matters(tpm: Tpm) -> None:
    whole, trust = tpm.item().encode(), trust_in(tpm.item())

    def accepted(data: bytes) -> bool:
        try:
            check_tpm2(
                data, binding=BINDING, statement=tpm.statement, trust=trust, release_pcrs=(), findings=Findings()
            )
        except AttestationError:
            return False
        return True

    assert accepted(whole)
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        assert not accepted(bytes(changed)), bit
    assert not any(accepted(whole[:end]) for end in range(len(whole)))


def test_bytes_not_made_by_a_tpm_fail(tpm: Tpm) -> None:
    refused("tpm2.magic", tpm.item(quote={"magic": 0xFF544348}), tpm.statement)


def test_an_item_that_does_not_decode_fails_the_first_check(tpm: Tpm) -> None:
    with pytest.raises(AttestationError) as caught:
        check_tpm2(
            tpm.item().encode() + b"\0",
            binding=BINDING,
            statement=tpm.statement,
            trust=trust_in(tpm.item()),
            release_pcrs=(),
            findings=Findings(),
        )
    assert caught.value.check == "tpm2.magic"


@pytest.mark.parametrize("kind", [0x8017, 0x8014, 0x801A])  # certify, time, creation
def test_what_is_not_a_quote_fails(tpm: Tpm, kind: int) -> None:
    refused("tpm2.type", tpm.item(quote={"kind": kind}), tpm.statement)


def test_a_quote_with_bytes_left_over_fails(tpm: Tpm) -> None:
    attest = Quote(pcrs=tpm.pcrs()).encode() + b"\0"
    item = replace(tpm.item(), attest=attest, signature=ecdsa_signature(tpm.key, attest))
    refused("tpm2.type", item, tpm.statement)


def test_a_quote_signed_by_another_key_fails(tpm: Tpm) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    item = tpm.item()
    refused("tpm2.signature", replace(item, signature=ecdsa_signature(other, item.attest)), tpm.statement)
    refused("tpm2.signature", replace(item, public=ecc_public(other)), tpm.statement)


def test_a_signature_of_another_kind_than_the_key_fails(tpm: Tpm, rsa_key: rsa.RSAPrivateKey) -> None:
    item = tpm.item()
    refused("tpm2.signature", replace(item, signature=rsa_signature(rsa_key, item.attest)), tpm.statement)
    refused("tpm2.signature", replace(item, public=rsa_public(rsa_key.public_key())), tpm.statement)


@pytest.mark.parametrize("scheme", [RSASSA, RSAPSS])
@pytest.mark.parametrize("bits", [17, 256, 512, 1024, 2047])
def test_an_rsa_key_shorter_than_it_says_fails(tpm: Tpm, rsa_key: rsa.RSAPrivateKey, bits: int, scheme: int) -> None:
    public = rsa_public(rsa_key.public_key(), scheme)
    short = (1 << bits - 1 | 1).to_bytes(256, "big")
    item = tpm.item(public=public[:-256] + short)
    refused("tpm2.signature", replace(item, signature=rsa_signature(rsa_key, item.attest, scheme)), tpm.statement)


def test_a_point_that_is_not_on_the_curve_fails(tpm: Tpm) -> None:
    public = tpm.item().public
    refused("tpm2.signature", tpm.item(public=public[:-1] + bytes([public[-1] ^ 1])), tpm.statement)


@pytest.mark.parametrize(
    "attributes",
    [*(AK_MUST & ~bit for bit in AK_MUST), AK_MUST | Attributes.DECRYPT],
    ids=lambda attributes: f"{attributes:#x}",
)
def test_a_key_that_may_do_other_things_fails(tpm: Tpm, attributes: int) -> None:
    refused("tpm2.ak-attributes", tpm.item(public=ecc_public(tpm.key, attributes)), tpm.statement)


def test_a_key_nobody_enrolled_fails(tpm: Tpm) -> None:
    item = tpm.item()
    other = trust_in(item, ak_names=(name_of(Tpm().item().public).hex(),))
    for trust in (other, trust_in(item, ak_names=())):
        error = refused("tpm2.ak-trusted", item, tpm.statement, trust=trust)
        assert error.got == name_of(item.public).hex()


def test_a_quote_over_another_binding_fails(tpm: Tpm) -> None:
    refused("tpm2.qualifying-data", tpm.item(), tpm.statement, binding=bytes(64))
    refused("tpm2.qualifying-data", tpm.item(quote={"extra": b""}), tpm.statement)


BANKS: dict[str, dict[int, tuple[int, ...]]] = {
    "SHA-1": {0x04: (4, 7, 11, 15)},
    "two banks": {0x0B: (4, 7, 11, 15), 0x0C: (4,)},
    "no bank": {},
    "without the runtime PCR": {0x0B: (4, 7, 11)},
    "without a PCR of the policy": {0x0B: (4, 11, 15)},
}


@pytest.mark.parametrize("why", BANKS)
def test_another_selection_fails(tpm: Tpm, why: str) -> None:
    refused("tpm2.pcr-selection", tpm.item(quote={"banks": BANKS[why]}), tpm.statement)


@pytest.mark.parametrize("index", [16, 17, 22, 23])
def test_a_pcr_that_software_can_reset_fails(tpm: Tpm, index: int) -> None:
    refused("tpm2.pcr-resettable", tpm.item(pcrs={**tpm.pcrs(), index: bytes(32)}), tpm.statement)


def test_values_other_than_the_quoted_fail(tpm: Tpm) -> None:
    item = tpm.item()
    more = {**item.pcrs, 0: bytes(32)}
    refused("tpm2.pcr-digest", replace(item, pcrs={**item.pcrs, 4: bytes(32)}), tpm.statement)
    refused("tpm2.pcr-digest", replace(item, pcrs=more), tpm.statement)
    # the same bytes in the same order, under other indices
    moved = {{7: 8}.get(index, index): value for index, value in item.pcrs.items()}
    refused("tpm2.pcr-digest", replace(item, pcrs=moved), tpm.statement)


def test_a_boot_the_policy_does_not_accept_fails(tpm: Tpm) -> None:
    refused("tpm2.pcr-values", tpm.item(pcrs={**tpm.pcrs(), 7: bytes(32)}), tpm.statement)


def test_the_policy_may_accept_several_values(tpm: Tpm) -> None:
    trust = trust_in(tpm.item(), pcrs={4: ("00" * 32, HEX_BOOT[4])})
    judge(tpm.item(), tpm.statement, trust=trust)


def test_one_boot_of_the_release_must_hold_as_a_whole(tpm: Tpm) -> None:
    item = tpm.item()
    trust = trust_in(item, pcrs={})
    other = {**HEX_BOOT, 7: "00" * 32}
    judge(item, tpm.statement, trust=trust, release=[other, HEX_BOOT])
    refused("tpm2.pcr-values", item, tpm.statement, trust=trust, release=[other])
    refused("tpm2.pcr-values", item, tpm.statement, release=[{8: "00" * 32}])  # of a PCR that was not quoted


def test_a_boot_that_nobody_names_fails(tpm: Tpm) -> None:
    item = tpm.item()
    seven = trust_in(item, pcrs={7: (HEX_BOOT[7],)})
    refused("tpm2.pcr-values", item, tpm.statement, trust=seven)
    refused("tpm2.pcr-values", item, tpm.statement, trust=trust_in(item, pcrs={}))
    judge(item, tpm.statement, trust=seven, release=[{11: HEX_BOOT[11]}])  # together they name PCR 11


@pytest.mark.parametrize("part", ["release_leaf", "config_digest", "identity"])
def test_a_node_started_as_another_fails(tpm: Tpm, part: str) -> None:
    changes: dict[str, Any] = {part: statement().identity if part == "identity" else bytes(32)}
    refused("tpm2.runtime-log", tpm.item(), replace(tpm.statement, **changes))


def test_events_before_the_node_are_told_and_the_last_one_is_the_node(tpm: Tpm) -> None:
    ours, before = event_of(tpm.statement), TpmEvent(release_leaf=bytes(32), config_digest=bytes(32), node_id=bytes(32))
    value = extend(extend(bytes(32), before.extend_digest()), ours.extend_digest())
    pcrs = {**tpm.pcrs(), 15: value}
    judge(tpm.item(pcrs=pcrs, events=(before, ours)), tpm.statement)
    refused("tpm2.runtime-log", tpm.item(pcrs=pcrs, events=(ours,)), tpm.statement)
    refused("tpm2.runtime-log", tpm.item(pcrs=pcrs, events=(ours, before)), tpm.statement)
    late = extend(tpm.pcrs()[15], before.extend_digest())  # somebody extended after the node had started
    refused("tpm2.runtime-log", tpm.item(pcrs={**pcrs, 15: late}, events=(ours, before)), tpm.statement)


def test_a_runtime_pcr_in_use_before_the_node_needs_the_policys_word(tpm: Tpm) -> None:
    before = b"\x09" * 32
    pcrs = {**tpm.pcrs(), 15: extend(before, event_of(tpm.statement).extend_digest())}
    item = tpm.item(pcrs=pcrs, pcr_before=before)
    judge(item, tpm.statement, trust=trust_in(item, pcr_before=(before.hex(),)))
    refused("tpm2.runtime-log", item, tpm.statement)
    refused("tpm2.runtime-log", replace(item, pcr_before=bytes(32)), tpm.statement)


def keylime() -> tuple[bytes, bytes, bytes]:
    """TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE of keylime's sample; its PEM hides the attributes (SPEC E6)."""
    key = load_pem_public_key(foreign("tpm2-quote/akpub.pem"))
    assert isinstance(key, rsa.RSAPublicKey)
    return rsa_public(key), foreign("tpm2-quote/quote.out"), foreign("tpm2-quote/quotesig.out")


def keylime_pcrs() -> dict[int, bytes]:
    dump = foreign("tpm2-quote/quotepcr.out")  # little-endian memory: per value a u16 length and 64 bytes
    values = [dump[at + 2 : at + 34] for at in range(0x8C, 0x8C + 3 * 66, 66)]
    return dict(zip((15, 16, 22), values, strict=True))


def test_keylimes_quote_passes_until_its_resettable_pcrs() -> None:
    public, attest, signature = keylime()
    findings, pcrs = Findings(), keylime_pcrs()
    quote = read_quote(attest, findings)
    check_signature(public_key(TpmtPublic.parse(public)), signature, attest, findings)
    check_key(public, Tpm2Trust(ak_names=(name_of(public).hex(),)), findings)
    check_qualifying_data(quote, NONCE, findings)
    with pytest.raises(AttestationError) as caught:
        check_selection(quote, pcrs, {15}, findings)
    assert caught.value.check == "tpm2.pcr-resettable"
    assert [check.name for check in findings.all()] == ORDER[: ORDER.index("tpm2.pcr-resettable") + 1]
    assert hashlib.sha256(b"".join(pcrs.values())).digest() == quote.pcr_digest


def test_every_bit_of_keylimes_quote_and_signature_matters() -> None:
    public, attest, signature = keylime()
    key = public_key(TpmtPublic.parse(public))

    def accepted(attest: bytes, signature: bytes) -> bool:
        try:
            findings = Findings()
            check_qualifying_data(read_quote(attest, findings), NONCE, findings)
            check_signature(key, signature, attest, findings)
        except AttestationError:
            return False
        return True

    assert accepted(attest, signature)
    for bit in range(8 * len(attest)):
        changed = bytearray(attest)
        changed[bit // 8] ^= 1 << bit % 8
        assert not accepted(bytes(changed), signature), bit
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not accepted(attest, bytes(changed)), bit


def test_without_a_release_the_policy_alone_names_the_boot() -> None:
    assert check_values(BOOT, {4: (HEX_BOOT[4],)}, (), Findings()) == {4}


BAD_TRUST: dict[str, dict[str, Any]] = {
    "tpm2.ak_names": {"ak_names": ("000b00",)},
    "tpm2.pcr_before": {"pcr_before": ("AA" * 32,)},
    "PCR 16": {"runtime_pcr": 16},
    "PCR 23": {"pcrs": {23: ("00" * 32,)}},
    "runtime PCR": {"pcrs": {15: ("00" * 32,)}},
    "no value": {"pcrs": {4: ()}},
    "tpm2.pcrs.4": {"pcrs": {4: ("00",)}},
}


@pytest.mark.parametrize("words", BAD_TRUST)
def test_trust_that_means_nothing_is_refused(words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Tpm2Trust(**BAD_TRUST[words])


def test_a_record_and_an_event_survive_encoding(tpm: Tpm) -> None:
    item = replace(tpm.item(), certificates=b"a certificate")
    assert Tpm2Item.decode(item.encode()) == item
    event = event_of(tpm.statement)
    assert TpmEvent.decode(event.encode()) == event
    assert len(event.encode()) == 97


def test_records_with_anything_else_in_them_are_refused(tpm: Tpm) -> None:
    item = tpm.item()
    event = event_of(tpm.statement)
    pairs = item.encode()
    ascending = b"".join(bytes([index]) + item.pcrs[index] for index in (4, 7))
    assert ascending in pairs
    descending = b"".join(bytes([index]) + item.pcrs[index] for index in (7, 4))
    bad = [
        pairs.replace(ascending, descending),
        pairs.replace(event.encode(), b"\x02" + event.encode()[1:]),
        b"HTP2" + pairs[4:],
        pairs + b"\0",
        pairs[:-1],
    ]
    for data in bad:
        with pytest.raises(Malformed):
            Tpm2Item.decode(data)
    wrong: list[dict[str, Any]] = [
        {"events": ()},
        {"events": (event,) * 65},
        {"pcrs": {}},
        {"pcrs": {24: bytes(32)}},
        {"pcr_before": bytes(31)},
    ]
    for changes in wrong:
        with pytest.raises(Malformed):
            replace(item, **changes).encode()


@given(st.binary(max_size=200), st.integers(0, 132), st.binary(min_size=1, max_size=4))
def test_other_bytes_raise_wire_errors_only(junk: bytes, at: int, patch: bytes) -> None:
    for whole in keylime():
        for data in (junk, whole[:at] + patch + whole[at + len(patch) :], whole[:at]):
            for decode in (TpmsAttest.parse, TpmtPublic.parse, TpmtSignature.parse, Tpm2Item.decode):
                with suppress(WireError):
                    decode(data)
