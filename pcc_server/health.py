"""Health for machines: what the process is doing, whether it takes requests, and the messages of grpc.health.v1.

The two messages are written by hand: they are one field each, and the generated package is a dependency. Format:
grpc/grpc-proto:grpc/health/v1/health.proto. ``""`` is the process, ``hybrid.wire.v1.Inference`` readiness (node design
3.9): a process that loads or drains is alive and must not be restarted for it.
"""

import asyncio
from collections.abc import AsyncIterator
from enum import IntEnum, StrEnum

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


class Reason(StrEnum):
    """Why a node is not ready."""

    STARTING = "starting"
    WORKER_GONE = "worker_gone"
    WORKER_SILENT = "worker_silent"
    KEYS_EXPIRED = "keys_expired"  # also when this machine's clock has jumped
    DRAINING = "draining"
    FAULT = "fault"  # a switch for tests


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
    """Whether requests are answered, why not, and who waits to hear that it changed."""

    def __init__(self) -> None:
        self.reasons: frozenset[Reason] = frozenset({Reason.STARTING})
        self._open = True
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reasons

    def set(self, *reasons: Reason) -> None:
        """Say what keeps requests from being answered; nothing: they are."""
        if self._open and (now := frozenset(reasons)) != self.reasons:
            self.reasons = now
            self._wake()

    def close(self) -> None:
        """Say no for good, and end every follower."""
        self.reasons = frozenset({Reason.DRAINING})
        self._open = False
        self._wake()

    def status(self, service: str) -> Serving:
        """Return what a service's status is now."""
        if service == PROCESS:
            return Serving.SERVING if self._open else Serving.NOT_SERVING
        if service == INFERENCE:
            return Serving.SERVING if self.ready else Serving.NOT_SERVING
        return Serving.SERVICE_UNKNOWN

    async def follow(self, service: str) -> AsyncIterator[Serving]:
        """Yield the status now and whenever it changes, until the process ends."""
        told: Serving | None = None
        while self._open or told is not self.status(service):
            changed = self._changed
            if (status := self.status(service)) is not told:
                told = status
                yield status
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
