"""One table: exception -> ErrorCode -> status. Every handler of the node ends in it.

Outside, the message is the code's name and nothing else (SPEC 10). What depends on content is a ``Sealed`` error and
travels inside the reply. Nothing here carries text of a request.
"""

from dataclasses import dataclass

from hybrid.wire.errors import (
    DecryptionError,
    ErrorCode,
    Malformed,
    Misuse,
    ProofFailure,
    ReceiptMismatch,
    Rejected,
    Replay,
    ReplyFull,
    ReplyOrder,
    SealedCode,
    SignatureFailure,
    StaleKey,
    TruncatedStream,
    WireError,
)

CONFIG_EXIT = 2  # a bad option
UNAVAILABLE_EXIT = 4  # port taken, model missing, does not fit
RETRY_CAP_MS = 30_000


class NodeError(Exception):
    """Root of what the node itself raises while it serves."""


class Busy(NodeError):
    """No room now: queue full, draining, starting, or the worker is gone. retry_ms: when to try again."""

    def __init__(self, retry_ms: int = 500) -> None:
        super().__init__()
        self.retry_ms = min(retry_ms, RETRY_CAP_MS)


class Limit(NodeError):
    """A bound of SPEC 15 is reached: the replay set is full, an address asks too often, a reader is too slow."""

    def __init__(self, retry_ms: int = 1_000) -> None:
        super().__init__()
        self.retry_ms = min(retry_ms, RETRY_CAP_MS)


class TokenRefused(NodeError):
    """The token is not the one the header was sealed with."""


class DeadlinePassed(NodeError):
    """The request's time was over before a reply had begun."""


class Refused(NodeError):
    """The worker refused a request with a code; the gateway passes it on."""

    def __init__(self, code: ErrorCode, retry_ms: int = 0) -> None:
        super().__init__()
        self.code = code
        self.retry_ms = retry_ms


class PassedOn(Refused):
    """A node refused a request; the router repeats code and hint as they are."""


class Sealed(NodeError):
    """An error that depends on content: told inside the reply only, with at most two integers."""

    def __init__(self, code: SealedCode, first: int = 0, second: int = 0) -> None:
        super().__init__()
        self.code = code
        self.first = first
        self.second = second


class StartFailure(Exception):
    """The node cannot start: one sentence for the operator and the exit code. Raised before any request exists."""

    def __init__(self, message: str, exit_code: int = UNAVAILABLE_EXIT) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a peer is told: a code and, where trying again helps, after how many milliseconds."""

    code: ErrorCode
    retry_ms: int = 0


CODES: dict[type[Exception], ErrorCode] = {
    Malformed: ErrorCode.MALFORMED,
    Rejected: ErrorCode.REJECTED,
    StaleKey: ErrorCode.STALE_KEY,
    Replay: ErrorCode.REPLAY,
    Busy: ErrorCode.BUSY,
    Limit: ErrorCode.LIMIT,
    TokenRefused: ErrorCode.TOKEN,
    DeadlinePassed: ErrorCode.DEADLINE,
    # What only a client can meet, or what should have been sealed: a fault of the node if it gets here.
    DecryptionError: ErrorCode.FAULT,
    TruncatedStream: ErrorCode.FAULT,
    ReplyOrder: ErrorCode.FAULT,
    ReceiptMismatch: ErrorCode.FAULT,
    SignatureFailure: ErrorCode.FAULT,
    ProofFailure: ErrorCode.FAULT,
    ReplyFull: ErrorCode.FAULT,
    Misuse: ErrorCode.FAULT,
    WireError: ErrorCode.FAULT,
    Sealed: ErrorCode.FAULT,
    NodeError: ErrorCode.FAULT,
    Exception: ErrorCode.FAULT,
}

STATUS: dict[ErrorCode, str] = {
    ErrorCode.MALFORMED: "INVALID_ARGUMENT",
    ErrorCode.REJECTED: "INVALID_ARGUMENT",
    ErrorCode.STALE_KEY: "FAILED_PRECONDITION",
    ErrorCode.REPLAY: "ALREADY_EXISTS",
    ErrorCode.BUSY: "UNAVAILABLE",
    ErrorCode.LIMIT: "RESOURCE_EXHAUSTED",
    ErrorCode.TOKEN: "UNAUTHENTICATED",
    ErrorCode.DEADLINE: "DEADLINE_EXCEEDED",
    ErrorCode.FAULT: "INTERNAL",
}


def refusal(error: Exception) -> Refusal:
    """Return what a peer is told about an error."""
    if isinstance(error, Refused):
        return Refusal(code=error.code, retry_ms=error.retry_ms)
    retry_ms = error.retry_ms if isinstance(error, Busy | Limit) else 0
    return Refusal(code=_code(type(error)), retry_ms=retry_ms)


def _code(kind: type[Exception]) -> ErrorCode:
    return next(CODES[base] for base in kind.__mro__ if base in CODES)


def sealed(error: Exception) -> Sealed:
    """Return what is told inside the reply about an error met after the request was opened."""
    if isinstance(error, Sealed):
        return error
    if isinstance(error, Malformed | ValueError):
        return Sealed(SealedCode.BAD_REQUEST)
    if isinstance(error, TimeoutError):
        return Sealed(SealedCode.DEADLINE)
    return Sealed(SealedCode.ENGINE_FAILED)
