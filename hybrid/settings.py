"""What a client was given, settled before anything is made from it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from .credentials import read_roots
from .errors import ConfigurationError
from .exchange import Timeout
from .gate import Consent
from .state import default_folder
from .trust.policy import Policy
from .wire.constants import MAX_TOKEN_BYTES

if TYPE_CHECKING:
    from .config import Config
    from .exchange import Transport
    from .routing.budget import Budget

Receipts = Literal["keep", "off"]
Keep = Literal["keep", "off"]
Cascade = Literal["auto", "offer", "off"]
Detect = Literal["standard", "strict", "off"]
MOST_PRICE = 1e6
MOST_EXPLORED = 0.02  # of close calls: more would cost answers for little knowledge (routing design C7)


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
    """What a client was given, settled. transport: carries bytes instead of gRPC, for tests.

    trust: a policy, or a trust file; None looks the node up in the user's own.  node: an address, or the name of a
    deployment in that file.  node_token: the access key of a node that asks for one.
    node_ca: the authority of its TLS certificate, PEM or a file of it; None for the public ones.
    receipts: whether answers leave a receipt file.  state: folder for those, for what is seen of the log and for
    decisions; None is the platform's, and none at all with a transport of one's own.
    cascade: what a doubtful start of an answer on the device leads to.  detect: how much of text is recognised as
    personal.  deny: words that never leave.  budget: share of requests that may go to the node, or a ``Budget``.
    explore: share of close calls answered on the device to learn from.
    price: of 1,000 tokens on the node, in a unit of one's own.  decisions: whether decisions are logged,
    without content.  learn: whether questions are kept, encrypted, to learn from.
    policy: what the node must prove, once settled.  roots: PEM of the authority, once read.
    """

    model: str | None = None
    models: Path | None = None
    node: str | NodeAddress | None = None
    node_token: bytes = field(default=b"", repr=False)
    node_ca: bytes | Path | None = field(default=None, repr=False)
    trust: Policy | Path | None = None
    on_handoff: Consent = "always"
    timeout: Timeout | float | None = None
    max_retries: int = 2
    offline: bool = False
    receipts: Receipts = "keep"
    state: Path | None = None
    cascade: Cascade = "auto"
    detect: Detect = "standard"
    deny: tuple[str, ...] = field(default=(), repr=False)
    budget: "float | Budget | None" = None
    explore: float = 0.0
    price: float | None = None
    decisions: Keep = "keep"
    learn: Keep = "off"
    transport: "Transport | None" = field(default=None, repr=False)
    policy: Policy | None = field(default=None, init=False)
    roots: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a node without a key, and values that mean nothing. Raises ConfigurationError."""
        if self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, got {self.max_retries}")
        for name, words in WORDS.items():
            _check_word(name, getattr(self, name), words)
        object.__setattr__(self, "deny", _terms(self.deny))
        _check_share("budget", self.budget, 1.0)
        _check_share("explore", self.explore, MOST_EXPLORED)
        _check_share("price", self.price, MOST_PRICE)
        check_money(self.budget, self.price)
        if len(self.node_token) > MAX_TOKEN_BYTES:
            raise ConfigurationError(f"an access key has at most {MAX_TOKEN_BYTES} bytes")
        as_timeout(self.timeout)
        object.__setattr__(self, "roots", read_roots(self.node_ca))
        if not self.has_node:
            return
        object.__setattr__(self, "policy", self._settled())
        if self.policy is None:
            raise ConfigurationError(
                f"the key of node {self.address} is not known, so nothing may be sealed to it",
                hint="pass trust=Policy.pinned(KEY) with the key the node printed at its start, or hybrid trust add",
            )

    @property
    def has_node(self) -> bool:
        """Whether there is a node to hand over to."""
        return self.node is not None or self.transport is not None

    @property
    def address(self) -> str:
        """The node as the user named it, or where its deployment is reached; empty without one."""
        if isinstance(self.node, str):
            by_name = self.policy is not None and self.policy.deployment == self.node
            return (self.policy.endpoint or self.node) if by_name and self.policy else self.node
        return self.node.address if self.node else self.transport.address if self.transport else ""

    @property
    def folder(self) -> Path | None:
        """Where this client remembers, None for nowhere."""
        if self.state is not None or self.transport is not None:
            return self.state
        return default_folder()

    def _settled(self) -> Policy | None:
        """Return the policy as given, of a node that knows its own key, or of a trust file."""
        if isinstance(self.trust, Policy):
            return self.trust
        if self.node is not None and not isinstance(self.node, str):
            return Policy.pinned(self.node.key)
        return trusted(self.node, self.trust) if isinstance(self.node, str) else None


WORDS = {
    "receipts": get_args(Receipts),
    "cascade": get_args(Cascade),
    "detect": get_args(Detect),
    "decisions": get_args(Keep),
    "learn": get_args(Keep),
}
"""Settings that are one of a few words."""


def _check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        said = ", ".join(repr(word) for word in words[:-1])
        raise ConfigurationError(f"{name} accepts {said} or {words[-1]!r} and nothing else")


def _terms(deny: Sequence[str]) -> tuple[str, ...]:
    if isinstance(deny, str) or not all(isinstance(term, str) and term.strip() for term in deny):
        raise ConfigurationError("deny takes a list of words or phrases, none of them empty")
    return tuple(deny)


def _check_share(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or (isinstance(value, int | float) and not 0 <= value <= most):
        raise ConfigurationError(f"{name} must lie between 0 and {most:g}, got {value}")


def check_money(budget: "float | Budget | None", price: float | None, *, where: str = "") -> None:
    """Refuse a limit on money where nothing could ever count it. where: who set it, in words."""
    if getattr(budget, "money_per_month", None) and not price:
        raise ConfigurationError(
            f"a budget of money{where} needs a price, or it would limit nothing",
            hint="set price to what 1,000 tokens on the node cost, in the unit of the budget",
        )


def trusted(node: str, file: Path | None = None) -> Policy | None:
    """Return what a trust file says of the deployment that has this name or endpoint; None where it says nothing.

    file: None is the user's own, which need not exist. Raises ConfigurationError for a file that can't be read.
    """
    from .trust_file import default_trust_path, read_trust_file

    path = file or default_trust_path()
    if file is None and not path.exists():
        return None
    deployments = read_trust_file(path).deployments
    by_endpoint = (policy for policy in deployments.values() if policy.endpoint == node)
    return deployments.get(node) or next(by_endpoint, None)


def deciding(config: "Config", *, target: str | None = None) -> Policy | Path | None:
    """Return what says what a node must prove: the key or the trust file, whichever was set in the later layer.

    A key is that of a node set no later: for another one that the trust file knows, the file decides.
    target: a node named on the command line.  Raises ConfigurationError where both come from one layer.
    """
    from .config import layer_of

    if config.node_key is None:
        return config.trust
    key, file = layer_of(config, "node_key"), layer_of(config, "trust")
    if config.trust is not None and key == file:
        raise ConfigurationError(
            "a node key and a trust file are both given, and only one can decide",
            hint="drop the key: the file can ask for more than a key can",
        )
    node, node_layer = (target, layer_of(config, None)) if target else (config.node, layer_of(config, "node"))
    other = node is not None and node_layer > key and trusted(node, config.trust) is not None
    return config.trust if file > key or other else Policy.pinned(config.node_key)


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
