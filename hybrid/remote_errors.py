"""What a refusal or a broken reply means to a program: the tables from wire errors to the SDK's (SPEC 10).

Outer refusals are unauthenticated, so nothing but their code is read. No message here holds content.
"""

from collections.abc import Callable, Mapping

from .errors import (
    APITimeoutError,
    ContextOverflowError,
    HybridError,
    IntegrityError,
    KeyExpiredError,
    NodeAuthError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    RefusalError,
    RemoteError,
    ServerError,
)
from .wire.errors import (
    BadVersion,
    DecryptionError,
    ErrorCode,
    Malformed,
    Misuse,
    NonCanonical,
    Oversized,
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
from .wire.receipt import SealedError

SAME_VERSION = "install the same version of hybrid-pcc on both ends"
TRY_LATER = "try again in a moment, or answer on the device"
ASK_OPERATOR = "ask the node's operator to look at its log"
TAMPERED = "something between here and the node altered or cut the reply; don't rely on what was shown"


def _protocol() -> RemoteError:
    return ProtocolError("the node refused the sealed request", hint=SAME_VERSION)


def _stale() -> RemoteError:
    return KeyExpiredError("the node no longer has the key this request was sealed to", hint=TRY_LATER)


def _replay() -> RemoteError:
    return IntegrityError(
        "the node has seen this very request before",
        hint="something between here and the node sent it twice; ask again to seal it anew",
        left_device="ciphertext",
    )


def _busy() -> RemoteError:
    return OverloadedError("the node is busy", hint=TRY_LATER)


def _limit() -> RemoteError:
    return RateLimitError("a limit of the node was reached", scope="node", hint=TRY_LATER)


def _token() -> RemoteError:
    hint = "give the access key that its operator gave you: node_token=..., or --node-token-file FILE"
    return NodeAuthError("the node refuses this client's credentials", hint=f"{hint}; it may have been revoked")


def _deadline() -> RemoteError:
    return APITimeoutError(
        "the node did not answer before the deadline", phase="total", hint=TRY_LATER, left_device="ciphertext"
    )


def _fault() -> RemoteError:
    return ServerError("the node had a fault", hint=ASK_OPERATOR)


REFUSALS: Mapping[ErrorCode, Callable[[], RemoteError]] = {
    ErrorCode.MALFORMED: _protocol,
    ErrorCode.REJECTED: _protocol,
    ErrorCode.STALE_KEY: _stale,
    ErrorCode.REPLAY: _replay,
    ErrorCode.BUSY: _busy,
    ErrorCode.LIMIT: _limit,
    ErrorCode.TOKEN: _token,
    ErrorCode.DEADLINE: _deadline,
    ErrorCode.FAULT: _fault,
}


def refused(code: ErrorCode, *, retry_after: float | None = None) -> RemoteError:
    """Return the error of a refusal outside the seal. retry_after: seconds the other side asked for."""
    error = REFUSALS[code]()
    error.retry_after = retry_after
    return error


def _context(error: SealedError) -> HybridError:
    return ContextOverflowError(
        f"the prompt needs {error.second} tokens and the node's model takes {error.first}",
        limit=error.first,
        needed=error.second,
        hint="send a shorter text, or a part of it",
    )


def _refusal(_: SealedError) -> HybridError:
    return RefusalError("the node's policy refused to answer", by="node", hint="ask it differently, or on the device")


SEALED: Mapping[SealedCode, Callable[[SealedError], HybridError]] = {
    SealedCode.BAD_REQUEST: lambda _: ProtocolError("the node can't read the request", hint=SAME_VERSION),
    SealedCode.CONTEXT_LENGTH: _context,
    SealedCode.MODEL_UNAVAILABLE: lambda _: ServerError("the node has no such model loaded", hint=ASK_OPERATOR),
    SealedCode.OVERLOADED: lambda _: _busy(),
    SealedCode.DEADLINE: lambda _: _deadline(),
    SealedCode.REFUSAL: _refusal,
    SealedCode.ENGINE_FAILED: lambda _: ServerError("the node's model failed while answering", hint=ASK_OPERATOR),
}


def sealed(error: SealedError) -> HybridError:
    """Return the error a node reported inside the seal; the node has read the request, so ``left_device`` is yes."""
    mapped = SEALED[error.code](error)
    mapped.left_device = "yes"
    return mapped


def _forged(message: str) -> Callable[[WireError], RemoteError]:
    return lambda _: IntegrityError(message, hint=TAMPERED)


def _disagree(message: str) -> Callable[[WireError], RemoteError]:
    return lambda _: ProtocolError(message, hint=SAME_VERSION)


BROKEN: Mapping[type[WireError], Callable[[WireError], RemoteError]] = {
    Malformed: _disagree("the node's reply can't be decoded"),
    BadVersion: _disagree("the node's reply is of another protocol version"),
    NonCanonical: _disagree("the node's reply is not in its one allowed encoding"),
    Oversized: _disagree("the node's reply is larger than the protocol allows"),
    ReplyFull: _disagree("the node's reply is longer than the protocol allows"),
    Misuse: _disagree("the exchange with the node was used out of order"),
    Rejected: _disagree("the node's reply can't be opened"),
    StaleKey: lambda _: _stale(),
    Replay: lambda _: _replay(),
    DecryptionError: _forged("a part of the reply is not what this node would have made"),
    TruncatedStream: _forged("the reply was cut off before its end"),
    ReplyOrder: _disagree("the reply's parts came in an order the protocol does not allow"),
    ReceiptMismatch: lambda error: _forged(f"the receipt fails the check {error}")(error),  # names, never content
    ProofFailure: _forged("a proof of the transparency log does not hold"),
    SignatureFailure: _forged("a signature of the reply does not verify"),
}


def broken(error: WireError, *, left_device_yes: bool) -> RemoteError:
    """Return the error of a reply that failed its checks. left_device_yes: a node proved it had opened the request."""
    mapped = BROKEN[type(error)](error)
    mapped.left_device = "yes" if left_device_yes else "ciphertext"
    return mapped
