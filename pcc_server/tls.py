"""Certificates of the node's ports: TLS 1.3 alone, read again when the launcher says so, the old ones until then.

gRPC for Python has no setting for the lowest version of TLS, but one for the cipher suites of TLS 1.2. The only one it
gets needs a key shared beforehand, which no port of ours has: TLS 1.2 then ends in its handshake, and 1.3, whose suites
are fixed, does not (tests/pcc_server/test_tls.py proves it with openssl).
"""

import datetime as dt
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from . import events
from .config import Door, bad
from .environment import GRPC
from .errors import CONFIG_EXIT, StartFailure
from .events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a port shows, and whom it lets connect. callers: authority of their certificates; None: anybody."""

    key: bytes = field(repr=False)
    chain: bytes
    callers: bytes | None


def read_pair(door: Door, *, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> Pair:
    """Read and check the files of a port. Raises StartFailure with exit code 2, in one sentence."""
    try:
        key, chain = Path(door.tls_key).read_bytes(), Path(door.tls_cert).read_bytes()
        callers = Path(door.tls_client_ca).read_bytes() if door.tls_client_ca else None
    except OSError as error:
        raise StartFailure(f"cannot read {error.filename}: {error.strerror}", CONFIG_EXIT) from None
    ends = _check_chain(door, key, chain)
    if ends < now():
        raise StartFailure(f"the certificate in {door.tls_cert} ended at {ends:%Y-%m-%d %H:%M} UTC", CONFIG_EXIT)
    if callers is not None:
        _check_callers(door, callers)
    return Pair(key=key, chain=chain, callers=callers)


def _check_chain(door: Door, key: bytes, chain: bytes) -> dt.datetime:
    """Return when the certificate ends. Raises StartFailure where grpc would only fail to bind."""
    try:
        leaf, *_ = x509.load_pem_x509_certificates(chain)
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        private = None
    if private is None or private.public_key() != leaf.public_key():
        raise StartFailure(
            f"{door.tls_cert} and {door.tls_key} are not a certificate chain and its unencrypted key, both PEM",
            CONFIG_EXIT,
        )
    return leaf.not_valid_after_utc


def _check_callers(door: Door, callers: bytes) -> None:
    try:
        x509.load_pem_x509_certificates(callers)
    except ValueError:
        raise StartFailure(f"{door.tls_client_ca} holds no certificates in PEM", CONFIG_EXIT) from None


class Certificates:
    """The files of one port while it is open."""

    def __init__(self, door: Door) -> None:
        """Read them. Raises StartFailure with exit code 2."""
        self.pair = read_pair(door)
        self._news: Pair | None = None

    def reload(self, door: Door) -> bool:
        """Read the files again for connections to come. What is no valid pair changes nothing, and an event says so.

        Neither does a change in whether callers need a certificate.
        """
        try:
            pair = read_pair(door)
            if (pair.callers is None) is not (self.pair.callers is None):
                raise bad("whether callers show a certificate changes with a restart only")
        except StartFailure:
            events.emit(Event.CERTIFICATES, accepted=0)
            return False
        self.pair = self._news = pair
        events.emit(Event.CERTIFICATES, accepted=1)
        return True

    def news(self) -> Pair | None:
        """Return what was read since this was last asked, if anything. May be called from any thread."""
        news, self._news = self._news, None
        return news


def context(door: Door) -> ssl.SSLContext:
    """Return the same for a server of the standard library: call ``load_cert_chain`` on it again after a reload."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(door.tls_cert, door.tls_key)
    return made


def check_refused() -> None:
    """See that grpc was told to refuse TLS 1.2, which it reads when it is imported. Raises StartFailure."""
    if any(os.environ.get(name) != value for name, value in GRPC.items()):
        raise StartFailure("this process would speak TLS 1.2; start it with pcc-server")
