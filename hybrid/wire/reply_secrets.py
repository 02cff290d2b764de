"""What both ends of a reply derive alike: its keys from R_i, and the salted digest of parameters (SPEC 8, 9)."""

import hashlib
import hmac
from typing import NamedTuple

from .canonical import canonical_json
from .constants import DIGEST_BYTES
from .encoding import digest, expand, u8
from .header import CandidateRef
from .receipt import UsageReport

NO_PARAMS = bytes(DIGEST_BYTES)


class ReplySecrets(NamedTuple):
    """What both ends derive from R_i; a tuple that shows nothing."""

    key: bytes
    base: bytes
    commit: bytes
    tsalt: bytes

    def __repr__(self) -> str:
        """Show nothing."""
        return "ReplySecrets(<secret>)"


def reply_secrets(secret: bytes, salt: bytes, *, q: bytes, index: int, ref: CandidateRef) -> ReplySecrets:
    """Derive the secrets of one reply from R_i and the node's salt (SPEC 8)."""
    prk = hmac.digest(salt, secret, hashlib.sha256)
    out = expand(prk, "resp", q, salt, u8(index), *ref.parts(), length=108)
    return ReplySecrets(out[:32], out[32:44], out[44:76], out[76:])


def params_digest(tsalt: bytes, report: UsageReport | None) -> bytes:
    """Salt and hash the sampling parameters as applied; zeros where no usage was reported (SPEC 9)."""
    return digest("params", tsalt, canonical_json(report.params)) if report else NO_PARAMS
