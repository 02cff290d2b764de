"""Settings of one router: flags and defaults become frozen values here."""

from dataclasses import dataclass
from typing import Self

from .config import (
    ACCESS,
    EPOCH_RANGE_S,
    bad,
    check_access,
    check_range,
    check_tls,
    is_loopback,
    need_tls,
    one_of,
    split_address,
)

MAX_NODES = 64  # SPEC 15
MAX_WEIGHT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """A node as the router is told of it. weight: how often clients draw it, 1 to 1000."""

    address: str
    weight: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read HOST:PORT or HOST:PORT=WEIGHT. Raises StartFailure with exit code 2."""
        address, equals, weight = text.partition("=")
        split_address(address, "--node")
        if not equals:
            return cls(address=address)
        if not weight.isascii() or not weight.isdigit() or not 1 <= int(weight) <= MAX_WEIGHT:
            raise bad(f"--node takes HOST:PORT=WEIGHT with a weight of 1 to {MAX_WEIGHT}, not {text!r}")
        return cls(address=address, weight=int(weight))

    @property
    def is_local(self) -> bool:
        """Whether the node runs on this machine."""
        return is_loopback(split_address(self.address)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """What a router runs with."""

    nodes: tuple[NodePlace, ...]
    listen: str = "127.0.0.1:8443"
    deployment: str = "localhost"
    epoch_s: int = 300
    directory_key: str = ""  # file of a note key; empty: one is made, for this run
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    node_ca: str = ""  # PEM file: who signs the nodes' certificates
    node_cert: str = ""  # PEM file: what the router shows to nodes
    node_key: str = ""
    allow_software: bool = False
    access: str = "open"
    access_keys: str = ""
    log: str = ""
    witnesses: tuple[str, ...] = ()
    streams: int = 256
    drain_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuse settings that do not fit together. Raises StartFailure with exit code 2."""
        host, _ = split_address(self.listen)
        if not is_loopback(host):
            need_tls(self)
        check_tls(self)
        one_of("--access", self.access, ACCESS[:2])
        check_access(self)
        self._check_nodes()
        self._check_log()
        check_range("--epoch-s", self.epoch_s, *EPOCH_RANGE_S)
        check_range("--max-streams", self.streams, 1, 65_536)
        check_range("--drain-timeout", self.drain_timeout_s, 0, 3600)

    def _check_nodes(self) -> None:
        addresses = [node.address for node in self.nodes]
        if not 1 <= len(addresses) <= MAX_NODES:
            raise bad(f"name 1 to {MAX_NODES} nodes, each with --node HOST:PORT")
        if len(set(addresses)) != len(addresses):
            raise bad("a --node is named twice")
        if bool(self.node_cert) != bool(self.node_key):
            raise bad("--node-cert and --node-key go together")
        far = next((node.address for node in self.nodes if not node.is_local), "")
        if far and not self.node_ca:
            raise bad(f"--node {far} is not loopback: --node-ca FILE is required, the authority of its certificate")

    def _check_log(self) -> None:
        if self.log and not self.directory_key:
            raise bad("--log needs --directory-key FILE: what is logged is signed by a lasting key")
        if self.witnesses and not self.log:
            raise bad("--witness needs --log DIR")
