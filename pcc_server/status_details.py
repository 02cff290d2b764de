"""What a refusal carries beside its code: messages of google.rpc in ``grpc-status-details-bin``, by hand.

Field-compatible with google/rpc/status.proto and error_details.proto of googleapis, whose generated package would be a
dependency and clash in the descriptor pool. Every byte follows from code and hint: nothing of a request is in it.
"""

import secrets
from collections.abc import Callable

from hybrid.wire.errors import ErrorCode

from .errors import RETRY_CAP_MS

TRAILER = "grpc-status-details-bin"
DOMAIN = "hybrid.wire.v1"
_STEP_MS = 100
_LOWEST_PERMILLE, _PERMILLES = 800, 401  # 80 to 120 % of it, so that those who were refused together do not return so
_TYPES = "type.googleapis.com/google.rpc."
_VARINT, _BYTES = 0, 2  # protobuf's wire types
_MORE = 0x80


def hint_ms(predicted_ms: int, below: Callable[[int], int] = secrets.randbelow) -> int:
    """Return when to come back: the predicted wait rounded up to 100 ms, 20 % to either side, 30 s at most; 0 for 0.

    below: a random number under its argument.
    """
    rounded = -(-predicted_ms // _STEP_MS) * _STEP_MS
    return min(rounded * (_LOWEST_PERMILLE + below(_PERMILLES)) // 1000, RETRY_CAP_MS)


def encode(status: int, code: ErrorCode, retry_ms: int = 0) -> bytes:
    """Write google.rpc.Status: the gRPC status, the code's name, an ErrorInfo, and a RetryInfo if there is a hint."""
    info = _text(1, code.value) + _text(2, DOMAIN)
    details = _any("ErrorInfo", info)
    if retry_ms:
        duration = _number(1, retry_ms // 1000) + _number(2, retry_ms % 1000 * 1_000_000)
        details += _any("RetryInfo", _bytes(1, duration))
    return _number(1, status) + _text(2, code.value) + details


def _any(name: str, message: bytes) -> bytes:
    return _bytes(3, _text(1, _TYPES + name) + _bytes(2, message))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode("ascii"))


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    """Write a number; zero is absent, as proto3 has it."""
    return _varint(field << 3 | _VARINT) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _MORE:
        out.append(value % _MORE | _MORE)
        value //= _MORE
    out.append(value)
    return bytes(out)
