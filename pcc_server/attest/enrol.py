"""Enrolment: show that the attestation key lives in a genuine TPM, and name it for clients' trust files (SPEC 13).

The maker's certificate says that the endorsement key (EK) belongs to a genuine TPM; make/activate credential shows
that the attestation key (AK) is in the same one. It speaks for the machine as it was when this ran on it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .collector import CollectFailure
from .credential import EkKey, make_credential
from .tpm_commands import AK_TEMPLATE, ECC_EK_TEMPLATE, RSA_EK_TEMPLATE, SHA256, Tpm

EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
MAX_CHAIN = 5
_RSA_BYTES = 256
_P256_BYTES = 32
_EXPONENT = 65_537


@dataclass(frozen=True, slots=True)
class EkKind:
    """One kind of EK: the NV index of its certificate, its template, what its key is read from."""

    words: str
    index: int
    template: bytes
    tail: int

    def read(self, public: bytes) -> EkKey:
        """Return the key in a TPMT_PUBLIC made from the template. Raises CollectFailure for any other."""
        head, tail = public[: -self.tail], public[-self.tail :]
        if head != self.template[: -self.tail]:
            raise CollectFailure("the TPM made another endorsement key than the template asks for")
        if self.tail == _RSA_BYTES:
            return rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(tail, "big")).public_key()
        x, y = (int.from_bytes(part, "big") for part in (tail[:_P256_BYTES], tail[-_P256_BYTES:]))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


# TCG EK Credential Profile, 2.2.1.4
KINDS = (
    EkKind("RSA 2048", 0x01C00002, RSA_EK_TEMPLATE, _RSA_BYTES),
    EkKind("ECC P-256", 0x01C0000A, ECC_EK_TEMPLATE, 2 * _P256_BYTES + 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What was found. name: the AK's, 34 bytes.  certificate: the EK's, None where the TPM holds none.

    root: the certificate its chain ends in; None when no roots were given.
    """

    name: bytes
    ek: str
    certificate: x509.Certificate | None
    root: x509.Certificate | None

    def lines(self) -> tuple[str, ...]:
        """Say in words what holds, and what does not follow from it."""
        passed = f"the attestation key {self.name.hex()} is in the TPM with this {self.ek} endorsement key"
        if self.certificate is None:
            return (passed, "the TPM holds no EK certificate: that it is genuine is your word alone")
        issuer = f"its certificate {self.certificate.serial_number:x} is by {self.certificate.issuer.rfc4514_string()}"
        if self.root is None:
            return (passed, issuer, "not judged: give the maker's certificates with --ek-root")
        return (passed, issuer, f"the chain ends in {_words(self.root)}")


def enrol(
    tpm: Tpm,
    given: Sequence[x509.Certificate] = (),
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    rng: Callable[[int], bytes] = secrets.token_bytes,
) -> Enrolment:
    """Check the EK and run make/activate credential. Raises CollectFailure with the step that did not hold.

    given: the maker's root and intermediate certificates; empty: the EK's certificate is shown and not judged.
    """
    kind, certificate = _find(tpm)
    if given and certificate is None:
        raise CollectFailure("this TPM holds no EK certificate at the indices of the TCG profile, so no root can vouch")
    root = check_chain(certificate, given, now()) if certificate and given else None
    with tpm.primary(kind.template) as ek, tpm.primary(AK_TEMPLATE) as ak:
        key = kind.read(ek.public)
        if certificate and certificate.public_key() != key:
            raise CollectFailure("the EK certificate is for another key than this TPM's")
        name = SHA256.to_bytes(2, "big") + hashlib.sha256(ak.public).digest()
        credential = rng(32)
        sealed = make_credential(key, name, credential, rng(32))
        if not hmac.compare_digest(tpm.activate(ak.handle, ek.handle, *sealed), credential):
            raise CollectFailure("the TPM opened another credential: attestation key and EK are not in one TPM")
    return Enrolment(name=name, ek=kind.words, certificate=certificate, root=root)


def _find(tpm: Tpm) -> tuple[EkKind, x509.Certificate | None]:
    for kind in KINDS:
        if data := tpm.read_nv(kind.index):
            try:
                return kind, x509.load_der_x509_certificate(_der(data))
            except ValueError:
                raise CollectFailure(f"the EK certificate at 0x{kind.index:08x} cannot be read") from None
    return KINDS[0], None


def _der(data: bytes) -> bytes:
    """Return the certificate without what fills up its NV index."""
    return data[: 4 + int.from_bytes(data[2:4], "big")] if data[:2] == b"\x30\x82" else data


def check_chain(leaf: x509.Certificate, given: Sequence[x509.Certificate], now: datetime) -> x509.Certificate:
    """Return the self-signed certificate among ``given`` that the chain ends in. Raises CollectFailure."""
    _check_purpose(leaf)
    certificate = leaf
    for _ in range(MAX_CHAIN):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise CollectFailure(f"the certificate of {_words(certificate)} is not valid today")
        issuer = next((one for one in given if _issued(certificate, one)), None)
        if issuer is None:
            raise CollectFailure(f"none of the given certificates signed that of {_words(certificate)}")
        if issuer == certificate:
            return issuer
        certificate = issuer
    raise CollectFailure("the EK certificate's chain is too long")


def _check_purpose(leaf: x509.Certificate) -> None:
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # older TPMs
    if EK_CERTIFICATE not in usages:
        raise CollectFailure("the certificate in the TPM is not that of an endorsement key")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def _words(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "the endorsement key"
