"""What one case comes to in this library: the outcome's name as vectors spell it, and the values that came out."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.wire import errors

from . import kinds_basic, kinds_evidence, kinds_log, kinds_sealed, kinds_trust
from .cases import SUCCESS, Case, Values, from_hex

NAMES: Mapping[type[errors.WireError], str] = {
    errors.Malformed: "malformed",
    errors.Oversized: "malformed",
    errors.BadVersion: "bad_version",
    errors.NonCanonical: "non_canonical",
    errors.Rejected: "rejected",
    errors.StaleKey: "stale_key",
    errors.DecryptionError: "decrypt_failure",
    errors.TruncatedStream: "truncated",
    errors.ReplyOrder: "after_final",
    errors.SignatureFailure: "signature_failure",
    errors.ProofFailure: "proof_failure",
}

KINDS: Mapping[str, Callable[[Values], Values]] = {
    **kinds_basic.KINDS,
    **kinds_sealed.KINDS,
    **kinds_log.KINDS,
    **kinds_evidence.KINDS,
    **kinds_trust.KINDS,
}


class Outcome(NamedTuple):
    """How an implementation ended a case, and what it returned if it took the input."""

    name: str
    output: Values


def outcome(case: Case) -> Outcome:
    """Answer a case with this library. Raises KeyError for a kind it does not know."""
    return outcome_of(case.kind, case.given)


def outcome_of(kind: str, given: Values) -> Outcome:
    """Do what ``kind`` says with ``given`` and name the outcome; an error outside the table comes through."""
    run = KINDS[kind]
    try:
        return Outcome(SUCCESS, run(from_hex(given)))
    except errors.ReceiptMismatch as error:
        return Outcome(f"check_failure:{error.check}", {})
    except AttestationError as error:
        return Outcome(f"check_failure:{error.check}", {})
    except ConfigurationError:
        return Outcome("configuration", {})
    except errors.WireError as error:
        return Outcome(NAMES[type(error)], {})
