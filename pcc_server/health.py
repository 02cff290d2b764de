"""The two messages of grpc.health.v1, by hand: they are one field each, and the generated package is a dependency.

Format: grpc/grpc-proto:grpc/health/v1/health.proto.
"""

import asyncio
from collections.abc import AsyncIterator
from enum import IntEnum

from hybrid.wire.errors import Malformed

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
PROCESS = ""
INFERENCE = "hybrid.wire.v1.Inference"
_SERVICE_TAG = 0x0A  # field 1, length-delimited
_STATUS_TAG = 0x08  # field 1, varint
_ONE_BYTE = 0x80


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


class Readiness:
    """Whether requests are answered, and who waits to hear that it changed."""

    def __init__(self) -> None:
        self.ready = False
        self._open = True
        self._changed = asyncio.Event()

    def set_ready(self, ready: bool) -> None:
        """Say whether requests are answered."""
        if ready != self.ready:
            self.ready = ready
            self._wake()

    def close(self) -> None:
        """Say no for good, and end every follower."""
        self.ready = self._open = False
        self._wake()

    def status(self, service: str) -> Serving:
        """Return what a service's status is now: the process's and the one service's are the same here."""
        if service not in (PROCESS, INFERENCE):
            return Serving.SERVICE_UNKNOWN
        return Serving.SERVING if self.ready else Serving.NOT_SERVING

    async def follow(self, service: str) -> AsyncIterator[Serving]:
        """Yield the status now and whenever it changes."""
        told: Serving | None = None
        while self._open:
            changed = self._changed
            if (status := self.status(service)) is not told:
                told = status
                yield status
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
