"""Errors of the wire floor, and the only error codes that travel between client and node.

``WireError`` is the root. Nothing in ``hybrid.wire`` raises anything else on hostile input.
SPEC section 10 holds the table of codes.
"""

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """A refusal outside the seal: the code's name is the whole gRPC message (SPEC 10)."""

    MALFORMED = "MALFORMED"
    REJECTED = "REJECTED"
    STALE_KEY = "STALE_KEY"
    REPLAY = "REPLAY"
    BUSY = "BUSY"
    LIMIT = "LIMIT"
    TOKEN = "TOKEN"  # noqa: S105 - the name of a refusal, not a secret
    DEADLINE = "DEADLINE"
    FAULT = "FAULT"


class SealedCode(IntEnum):
    """An error that depends on content, carried inside the sealed reply (SPEC 10)."""

    BAD_REQUEST = 1
    CONTEXT_LENGTH = 2
    MODEL_UNAVAILABLE = 3
    OVERLOADED = 4
    DEADLINE = 5
    REFUSAL = 6
    ENGINE_FAILED = 7


class WireError(Exception):
    """Root of everything ``hybrid.wire`` raises."""


class Malformed(WireError):
    """Bytes that do not decode: unknown, missing, doubled, trailing, oversized or non-canonical."""


class BadVersion(Malformed):
    """A record of another kind or version, or a suite this version does not have."""


class NonCanonical(Malformed):
    """Bytes that decode, but are not the one encoding of what they say."""


class Oversized(Malformed):
    """More bytes than the protocol allows.

    size, limit: bytes found and bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        """Name both numbers."""
        super().__init__(f"{size} bytes where {limit} are allowed")
        self.size = size
        self.limit = limit


class ReplyFull(WireError):
    """A reply has taken all the frames it may; the node ends it with ``length``."""


class Misuse(WireError):
    """Our own code used a single-use step twice, or out of order."""


class Rejected(WireError):
    """The node could not open a request; deliberately without detail (SPEC 7)."""


class StaleKey(WireError):
    """The request names a node, key or bundle that is not current here."""


class Replay(WireError):
    """The same request was already claimed under this epoch key."""


class DecryptionError(WireError):
    """A reply head or frame is not what this request's node would have made (SPEC 8)."""


class TruncatedStream(WireError):
    """The reply ended without its final frame; what came before it is partial."""


class ReplyOrder(WireError):
    """A reply message came where the protocol allows none: a second head, data after the end."""


class ReceiptMismatch(WireError):
    """The receipt does not describe this request, this reply or this node.

    check: the named check of SPEC 9 that failed, for example ``receipt.transcript``.
    """

    def __init__(self, check: str) -> None:
        """Name the check that failed."""
        super().__init__(check)
        self.check = check


class SignatureFailure(WireError):
    """A signature, or one half of a double signature, does not verify."""


class ProofFailure(WireError):
    """A proof of the transparency log, or a quorum of its witnesses, does not hold (SPEC 5)."""
