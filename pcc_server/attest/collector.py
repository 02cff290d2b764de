"""What collects evidence: one ``Collector`` per tier, run by the launcher, which alone may open a TPM or SEV device.

Nothing here or in the collectors loads ``cryptography``: the launcher doesn't. They return the parts of an item as
bytes; the worker makes the record of them (``items.py``), with the one encoder that clients decode with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pcc_server.errors import StartFailure

Parts: TypeAlias = Mapping[str, bytes]


class CollectFailure(StartFailure):
    """Evidence cannot be collected: one sentence for the operator, about the device and never about a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for evidence.

    challenge: what the evidence must sign (``tpm2``: 32 bytes; ``sev-snp``: 64 bytes).
    event: 97 bytes that must be the last of the runtime log, and ``extend`` the 32 bytes that stand for them in the
    runtime PCR; both empty where the format has no such log.
    """

    format: str
    challenge: bytes
    event: bytes = b""
    extend: bytes = b""


class Collector(Protocol):
    """Collects evidence in its formats (SPEC 13)."""

    formats: tuple[str, ...]

    def collect(self, ask: Ask) -> Parts:
        """Return the parts of one item. Raises CollectFailure."""

    def close(self) -> None:
        """Let go of the device."""
