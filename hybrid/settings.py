"""What a client was given, settled before anything is made from it."""

import contextlib
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import ConfigurationError
from .exchange import Timeout
from .gate import Consent
from .trust.policy import Policy

if TYPE_CHECKING:
    from .exchange import Transport


class NodeAddress(Protocol):
    """A node that knows its own address and key, such as ``OwnNode``."""

    @property
    def address(self) -> str:
        """``host:port``."""

    @property
    def key(self) -> str:
        """The key it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client was given, settled. transport: carries bytes instead of gRPC, for tests."""

    model: str | None = None
    models: Path | None = None
    node: str | NodeAddress | None = None
    trust: Policy | None = None
    on_handoff: Consent = "always"
    timeout: Timeout | float | None = None
    max_retries: int = 2
    offline: bool = False
    transport: "Transport | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a node without a key, and values that mean nothing. Raises ConfigurationError."""
        if self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, got {self.max_retries}")
        as_timeout(self.timeout)
        if self.has_node and self.policy is None:
            raise ConfigurationError(
                f"the key of node {self.address} is not known, so nothing may be sealed to it",
                hint="pass trust=Policy.pinned(KEY) with the key the node printed at its start",
            )

    @property
    def has_node(self) -> bool:
        """Whether there is a node to hand over to."""
        return self.node is not None or self.transport is not None

    @property
    def address(self) -> str:
        """The node as the user named it; empty without one."""
        if isinstance(self.node, str):
            return self.node
        return self.node.address if self.node else self.transport.address if self.transport else ""

    @property
    def policy(self) -> Policy | None:
        """What the node must prove: as given, or the key of a node that knows its own."""
        if self.trust is not None or self.node is None or isinstance(self.node, str):
            return self.trust
        return Policy.pinned(self.node.key)


def as_timeout(value: Timeout | float | None) -> Timeout:
    """Return the limits of a turn; a plain number is the whole turn's. Raises ConfigurationError."""
    if value is None:
        return Timeout()
    if isinstance(value, Timeout):
        return value
    try:
        total = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError("timeout must be a number of seconds or a Timeout") from None
    usual = Timeout()
    shorter = {n: min(getattr(usual, n), total) for n in ("connect", "attest", "first_token", "idle")}
    return Timeout(**shorter, total=total)


def is_loopback(address: str) -> bool:
    """Whether an address names this machine without asking anybody: ``localhost``, a loopback IP, a Unix socket."""
    if address.startswith("unix:"):
        return True
    host = address.rsplit(":", 1)[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
