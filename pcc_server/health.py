"""The two messages of grpc.health.v1, by hand: they are one field each, and the generated package is a dependency.

Format: grpc/grpc-proto:grpc/health/v1/health.proto.
"""

from enum import IntEnum

from hybrid.wire.errors import Malformed

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
PROCESS = ""
INFERENCE = "hybrid.wire.v1.Inference"
_SERVICE_TAG = 0x0A  # field 1, length-delimited
_STATUS_TAG = 0x08  # field 1, varint
_ONE_BYTE = 0x80
MAX_NAME_BYTES = 127  # longer names need a second length byte, and there is no service with one


class Serving(IntEnum):
    """ServingStatus of the health protocol."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def decode_request(data: bytes) -> str:
    """Read HealthCheckRequest: the service's name, empty for the process. Raises Malformed."""
    if not data:
        return PROCESS
    if data[0] != _SERVICE_TAG or len(data) < 2 or data[1] >= _ONE_BYTE or len(data) != data[1] + 2:  # noqa: PLR2004
        raise Malformed("not a health request")
    try:
        return data[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("not a health request") from None


def encode_reply(status: Serving) -> bytes:
    """Write HealthCheckResponse; the default value is absent, as proto3 has it."""
    return bytes((_STATUS_TAG, status)) if status else b""
