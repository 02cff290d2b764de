"""Judges a TPM 2.0 quote: the checks ``tpm2.*`` of SPEC section 13, in its order. Tier 1.

A quote says what was booted and which events were extended since; it does not say who is root now (SPEC F3).
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.wire.canonical import canonical_json
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import Statement
from hybrid.wire.tpm2 import (
    ALG_SHA256,
    ST_ATTEST_QUOTE,
    TPM_GENERATED,
    Attributes,
    Scheme,
    Tpm2Item,
    TpmEvent,
    TpmsAttest,
    TpmtPublic,
    TpmtSignature,
    extend,
    name_of,
    qualifying_data,
)

from .checks import Findings

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PcrValues = Mapping[int, str]

RESETTABLE_FROM = 16  # SPEC E7: software can reset PCR 16 and 23, a late launch 17 to 22
BOOT_PCRS = frozenset({4, 8, 9, 11})  # boot loader, its configuration, kernel and initrd, unified kernel image
RSA_EXPONENT = 65_537
AK_MUST = (
    Attributes.RESTRICTED
    | Attributes.SIGN
    | Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
)
_NAME = re.compile(r"000b[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm2Trust:
    """Which TPM keys and which boots are trusted; digests and Names in lower-case hex.

    ak_names: enrolled attestation keys by TPM Name (``000b`` and 64 digits); nobody else's quote counts.
    runtime_pcr: where nodes extend their release, configuration and identity.
    pcrs: accepted values by PCR.  pcr_before: accepted values of the runtime PCR before the node's first event,
    besides zeros.
    """

    ak_names: tuple[str, ...] = ()
    runtime_pcr: int = 15
    pcrs: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    pcr_before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can't be a Name, a PCR or a digest. Raises ConfigurationError naming the field."""
        _hex("tpm2.ak_names", self.ak_names, _NAME, "000b and 64 lower-case hex digits")
        _hex("tpm2.pcr_before", self.pcr_before, _DIGEST, "64 lower-case hex digits")
        for index in (self.runtime_pcr, *self.pcrs):
            if index not in range(RESETTABLE_FROM):
                raise ConfigurationError(
                    f"the trust policy's tpm2 table names PCR {index}; only 0 to 15 can be trusted"
                )
        if self.runtime_pcr in self.pcrs:
            raise ConfigurationError("the trust policy's tpm2.pcrs names the runtime PCR, which differs for every node")
        for index, values in self.pcrs.items():
            if not values:
                raise ConfigurationError(f"the trust policy's tpm2.pcrs accepts no value of PCR {index}")
            _hex(f"tpm2.pcrs.{index}", values, _DIGEST, "64 lower-case hex digits")


def _hex(name: str, values: Iterable[str], pattern: re.Pattern[str], wanted: str) -> None:
    if not all(pattern.fullmatch(value) for value in values):
        raise ConfigurationError(f"the trust policy's {name} must be {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm2Facts:
    """What a quote proved. pcrs: every quoted PCR in hex.

    measurement: SHA-256, in hex, of the canonical JSON {PCR: value} of the PCRs that policy and release named.
    """

    measurement: str
    pcrs: PcrValues


def check_tpm2(
    item: bytes,
    *,
    binding: bytes,
    statement: Statement,
    trust: Tpm2Trust,
    release_pcrs: Sequence[PcrValues],
    findings: Findings,
) -> Tpm2Facts:
    """Run every check ``tpm2.*`` over one item; binding: its ``B_j``, 64 bytes.

    release_pcrs: the boots the release entry allows, one mapping each, empty without a release.
    Raises AttestationError naming the first check that failed.
    """
    decoded = _item(item, findings)
    quote = read_quote(decoded.attest, findings)
    key = _attestation_key(decoded.public, findings)
    check_signature(key, decoded.signature, decoded.attest, findings)
    check_key(decoded.public, trust, findings)
    check_qualifying_data(quote, qualifying_data(binding), findings)
    check_selection(quote, decoded.pcrs, {*trust.pcrs, trust.runtime_pcr}, findings)
    named = check_values(decoded.pcrs, trust.pcrs, release_pcrs, findings)
    _runtime_log(decoded, statement, trust, findings)
    return Tpm2Facts(measurement=measurement_of(decoded.pcrs, named), pcrs=in_hex(decoded.pcrs))


def _item(item: bytes, findings: Findings) -> Tpm2Item:
    try:
        return Tpm2Item.decode(item)
    except Malformed as error:
        raise findings.failed("tpm2.magic", expected="a tpm2 item", got=f"malformed bytes: {error}") from None


def read_quote(attest: bytes, findings: Findings) -> TpmsAttest:
    """Check that these bytes are what a TPM signs, and a quote. Raises AttestationError."""
    magic, kind = TpmsAttest.magic_of(attest), TpmsAttest.type_of(attest)
    if magic != TPM_GENERATED:
        raise findings.failed("tpm2.magic", expected="bytes made inside a TPM", got=f"the magic 0x{magic:08x}")
    findings.passed("tpm2.magic", "made inside a TPM")
    if kind != ST_ATTEST_QUOTE:
        raise findings.failed("tpm2.type", expected="a quote", got=f"an attestation of type 0x{kind:04x}")
    try:
        quote = TpmsAttest.parse(attest)
    except Malformed as error:
        raise findings.failed("tpm2.type", expected="a well-formed quote", got=f"malformed bytes: {error}") from None
    findings.passed("tpm2.type", "a quote")
    return quote


def _attestation_key(public: bytes, findings: Findings) -> PublicKey:
    try:
        return public_key(TpmtPublic.parse(public))
    except (Malformed, ValueError) as error:  # ValueError: a point that is not on the curve, an even modulus
        raise findings.failed("tpm2.signature", expected="a P-256 or RSA 2048 key", got=f"{error}") from None


def public_key(public: TpmtPublic) -> PublicKey:
    """Return the key as something that verifies. Raises ValueError for a point off the curve."""
    if public.point is not None:
        x, y = (int.from_bytes(part, "big") for part in public.point)
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    return rsa.RSAPublicNumbers(RSA_EXPONENT, int.from_bytes(public.modulus or b"", "big")).public_key()


def check_signature(key: PublicKey, signature: bytes, attest: bytes, findings: Findings) -> None:
    """Check a TPMT_SIGNATURE over a TPMS_ATTEST. Raises AttestationError."""
    name = "tpm2.signature"
    try:
        parsed = TpmtSignature.parse(signature)
        _verify(key, parsed, attest)
    except Malformed as error:
        raise findings.failed(name, expected="a signature with SHA-256", got=f"malformed bytes: {error}") from None
    except InvalidSignature:
        raise findings.failed(name, expected="the quote signed by its key", got="a signature that fails") from None
    findings.passed(name, f"{parsed.scheme.name} with SHA-256")


def _verify(key: PublicKey, signature: TpmtSignature, attest: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if signature.scheme is not Scheme.ECDSA:
            raise InvalidSignature
        key.verify(encode_dss_signature(*signature.ecdsa), attest, ec.ECDSA(SHA256()))
    elif signature.scheme is Scheme.RSASSA:
        key.verify(signature.rsa, attest, padding.PKCS1v15(), SHA256())
    elif signature.scheme is Scheme.RSAPSS:  # Part 1, B.7: the salt is as long as fits, or as the hash
        pss = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=padding.PSS.AUTO)
        key.verify(signature.rsa, attest, pss, SHA256())
    else:
        raise InvalidSignature


def check_key(public: bytes, trust: Tpm2Trust, findings: Findings) -> None:
    """Check that the key can only sign what its TPM made, and that it is enrolled. Raises AttestationError."""
    attributes = TpmtPublic.parse(public).attributes
    if attributes & AK_MUST != AK_MUST or Attributes.DECRYPT in attributes:
        wanted = "a restricted signing key born in this TPM and fixed to it"
        raise findings.failed("tpm2.ak-attributes", expected=wanted, got=f"the attributes 0x{attributes:08x}")
    findings.passed("tpm2.ak-attributes", "restricted, signing, fixed to its TPM")
    name = name_of(public).hex()
    if not any(hmac.compare_digest(name, known) for known in trust.ak_names):
        raise findings.failed("tpm2.ak-trusted", expected="an attestation key of the trust policy", got=name)
    findings.passed("tpm2.ak-trusted", name)


def check_qualifying_data(quote: TpmsAttest, wanted: bytes, findings: Findings) -> None:
    """Check that the quote was made over this binding. Raises AttestationError."""
    name = "tpm2.qualifying-data"
    if not hmac.compare_digest(quote.qualifying_data, wanted):
        raise findings.failed(name, expected="a quote over this statement", got="a quote over something else")
    findings.passed(name, "covers this statement")


def check_selection(quote: TpmsAttest, pcrs: Mapping[int, bytes], required: Iterable[int], findings: Findings) -> None:
    """Check which PCRs were quoted, and that these are their values. Raises AttestationError."""
    selected = _one_bank(quote, findings)
    missing = sorted(set(required) - set(selected))
    if missing:
        raise findings.failed("tpm2.pcr-selection", expected=f"{_list(missing)} in the quote", got=_list(selected))
    findings.passed("tpm2.pcr-selection", _list(selected))
    resettable = [index for index in selected if index >= RESETTABLE_FROM]
    if resettable:
        raise findings.failed("tpm2.pcr-resettable", expected="PCRs from 0 to 15 only", got=_list(resettable))
    findings.passed("tpm2.pcr-resettable", "only PCRs that nothing but a restart resets")
    digest = hashlib.sha256(b"".join(pcrs[index] for index in sorted(pcrs))).digest()
    if sorted(pcrs) != list(selected) or not hmac.compare_digest(digest, quote.pcr_digest):
        raise findings.failed("tpm2.pcr-digest", expected="the values that were quoted", got="others")
    findings.passed("tpm2.pcr-digest", "the values are those that were quoted")


def _one_bank(quote: TpmsAttest, findings: Findings) -> tuple[int, ...]:
    banks = [algorithm for algorithm, _ in quote.selections]
    if banks != [ALG_SHA256]:
        got = " and ".join(f"0x{algorithm:04x}" for algorithm in banks) or "none"
        raise findings.failed("tpm2.pcr-selection", expected="one SHA-256 bank (0x000b)", got=got)
    return quote.selections[0][1]


def _list(indices: Iterable[int]) -> str:
    return "PCR " + (", ".join(str(index) for index in indices) or "none")


def check_values(
    pcrs: Mapping[int, bytes],
    accepted: Mapping[int, tuple[str, ...]],
    release: Sequence[PcrValues],
    findings: Findings,
) -> frozenset[int]:
    """Check the values against policy and release; returns the PCRs they name. Raises AttestationError.

    accepted: values by PCR that the policy allows, each of which is in ``pcrs``.
    release: the boots of the release entry, of which one must hold as a whole; empty without a release.
    """
    name, values = "tpm2.pcr-values", in_hex(pcrs)
    for index, allowed in accepted.items():
        if values[index] not in allowed:
            raise findings.failed(name, expected=f"a value of PCR {index} the policy accepts", got=values[index])
    boot = matching_boot(values, release)
    if boot is None:
        raise findings.failed(name, expected="PCR values of the release", got="others")
    named = frozenset(accepted) | frozenset(boot)
    if not named & BOOT_PCRS:
        wanted = f"policy or release to name one of {_list(sorted(BOOT_PCRS))}"
        raise findings.failed(name, expected=wanted, got=_list(sorted(named)))
    findings.passed(name, f"{_list(sorted(named))} as policy and release name them")
    return named


def matching_boot(values: PcrValues, release: Sequence[PcrValues]) -> PcrValues | None:
    """Return the boot of the release that these values are; an empty one without a release, None for no match."""
    if not release:
        return {}
    return next((boot for boot in release if all(values.get(index) == boot[index] for index in boot)), None)


def in_hex(pcrs: Mapping[int, bytes]) -> dict[int, str]:
    """Return PCR values in lower-case hex."""
    return {index: value.hex() for index, value in pcrs.items()}


def measurement_of(pcrs: Mapping[int, bytes], named: Iterable[int]) -> str:
    """Return one digest, in hex, for the named PCRs: SHA-256 of the canonical JSON {PCR: value}."""
    return hashlib.sha256(canonical_json({str(index): pcrs[index].hex() for index in named})).hexdigest()


def _runtime_log(item: Tpm2Item, statement: Statement, trust: Tpm2Trust, findings: Findings) -> None:
    name, value = "tpm2.runtime-log", item.pcr_before
    if any(value) and value.hex() not in trust.pcr_before:
        raise _log_failure(findings, "zeros in the runtime PCR before the node, or a value of the policy", value.hex())
    for event in item.events:
        value = extend(value, event.extend_digest())
    if not hmac.compare_digest(value, item.pcrs[trust.runtime_pcr]):
        raise _log_failure(findings, "events that explain the runtime PCR", "others")
    if item.events[-1] != event_of(statement):
        raise _log_failure(findings, "this release, configuration and node as the last event", "another event")
    findings.passed(name, f"the last of {len(item.events)} is this node")


def _log_failure(findings: Findings, expected: str, got: str) -> AttestationError:
    return findings.failed("tpm2.runtime-log", expected=expected, got=got)


def event_of(statement: Statement) -> TpmEvent:
    """Return the event a node with this statement extends when it starts."""
    return TpmEvent(
        release_leaf=statement.release_leaf,
        config_digest=statement.config_digest,
        node_id=statement.identity.node_id,
    )
