"""Judges the vTPM of an Azure paravisor: profile 2 of ``sev-snp`` in SPEC section 13.

There the report was made when the machine started, and MEASUREMENT covers only the paravisor: its data names the key
``HCLAkPub``, and a quote by that key carries the binding and what was booted.
"""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import rsa

from hybrid.wire.snp import REPORT_DATA_BYTES, VtpmQuote
from hybrid.wire.tpm2 import RSA_BITS, qualifying_data

from .checks import Findings
from .tpm2 import (
    RSA_EXPONENT,
    PcrValues,
    check_qualifying_data,
    check_selection,
    check_signature,
    check_values,
    in_hex,
    read_quote,
)


def report_data_of(runtime: bytes) -> bytes:
    """Return the report data a paravisor puts: SHA-256 of its JSON, then 32 zero bytes."""
    return hashlib.sha256(runtime).digest().ljust(REPORT_DATA_BYTES, b"\0")


def check_vtpm(vtpm: VtpmQuote, *, binding: bytes, boots: Sequence[PcrValues], findings: Findings) -> PcrValues:
    """Run the checks ``tpm2.*`` that apply; there is no runtime PCR. Returns the quoted values in hex.

    boots: the PCR values a release allows together with the report's MEASUREMENT; without any the quote is refused.
    Raises AttestationError naming the first check that failed.
    """
    quote = read_quote(vtpm.attest, findings)
    check_signature(paravisor_key(vtpm.runtime, findings), vtpm.signature, vtpm.attest, findings)
    check_qualifying_data(quote, qualifying_data(binding), findings)
    check_selection(quote, vtpm.pcrs, (), findings)
    check_values(vtpm.pcrs, {}, boots, findings)
    return in_hex(vtpm.pcrs)


def paravisor_key(runtime: bytes, findings: Findings) -> rsa.RSAPublicKey:
    """Return the key ``HCLAkPub`` of the paravisor's JSON. Raises AttestationError (``tpm2.signature``)."""
    try:
        return _jwk(runtime)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        wanted = "one RSA 2048 key HCLAkPub in the paravisor's JSON"
        raise findings.failed("tpm2.signature", expected=wanted, got="none") from None


def _jwk(runtime: bytes) -> rsa.RSAPublicKey:
    document = json.loads(runtime.decode("ascii"), object_pairs_hook=_once)
    (key,) = (key for key in document["keys"] if key["kid"] == "HCLAkPub")
    exponent, modulus = _base64url(key["e"]), _base64url(key["n"])
    if key["kty"] != "RSA" or modulus.bit_length() != RSA_BITS or exponent != RSA_EXPONENT:
        raise ValueError
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two readers must not see two keys in one document
        raise ValueError
    return found


def _base64url(text: str) -> int:
    raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != text:  # the decoder drops what it does not know
        raise ValueError
    return int.from_bytes(raw, "big")
