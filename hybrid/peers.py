"""Where a node's address leads: numbers, whether they are this machine's, and why TLS to them failed.

Loopback is a property of the address that gets connected, never of a name (SPEC 11).
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .errors import APIConnectionError, ConfigurationError

ADDRESS_HINT = "write it as host:port, [IPv6]:port or unix:/path, for example 127.0.0.1:8443"
HOST_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
MAX_PORT = 65_535
CA_HINT = "if its operator has an authority of their own, name its certificate: node_ca='ca.crt', or --node-ca ca.crt"
OTHER_CA_HINT = "ask its operator for the certificate of the authority that signed it"
NEEDS_TLS = "off this machine TLS is required: start the node with a certificate this device trusts"
PLAIN_HINT = "start the node with a certificate; only one on this machine needs none, and then no node_ca or --node-ca"
ROUTER_HINT = "it is a node behind a router: connect to the router's address"
OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
WRONG_TIME = {9: "is not valid yet", 10: "has expired"}  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A node's address as the user wrote it, taken apart. ``path`` is set for Unix sockets, host and port otherwise."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``host:port``, ``[IPv6]:port`` or ``unix:PATH``. Raises ConfigurationError."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:"))
        match = HOST_PORT.fullmatch(text)
        if match is None or not 0 < int(match["port"]) <= MAX_PORT:
            raise ConfigurationError("the node's address is malformed", hint=ADDRESS_HINT)
        return cls(host=match["six"] or match["host"], port=int(match["port"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One place to connect to, in gRPC's own numeric form, so that no name is looked up after this."""

    target: str
    is_loopback: bool


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the numeric addresses of a host, in the system's order. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def peers_of(address: Address, resolver: Resolver = resolve) -> tuple[Peer, ...]:
    """Return where an address leads. Raises APIConnectionError when the name leads nowhere."""
    if address.path:
        return (Peer(target=f"unix:{address.path}", is_loopback=True),)
    try:
        numbers = await resolver(address.host, address.port)
    except (OSError, UnicodeError):  # the latter from names that no resolver may be asked about, such as a..b
        numbers = ()
    if not numbers:
        raise APIConnectionError(
            f"the name {address.host} leads to no address", hint="check the node's name and this device's network"
        )
    return tuple(_peer(number, address.port) for number in numbers)


def _peer(number: str, port: int) -> Peer:
    ip = ipaddress.ip_address(number.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or ip
    target = f"ipv4:{number}:{port}" if ip.version == 4 else f"ipv6:[{number}]:{port}"  # noqa: PLR2004 - IP versions
    return Peer(target=target, is_loopback=inner.is_loopback)


def tls_context(roots: bytes | None) -> ssl.SSLContext:
    """Make the TLS 1.3 settings of a client. roots: PEM, None for the system's. Raises ConfigurationError."""
    try:
        context = ssl.create_default_context(cadata=None if roots is None else roots.decode("ascii") or " ")
    except (ssl.SSLError, ValueError):
        raise ConfigurationError("the root certificates are not PEM", hint="give the bytes of a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsTrouble:
    """Why no TLS connection comes about, and what to do about it."""

    why: str
    hint: str


async def diagnose_tls(address: Address, roots: bytes | None, within_s: float) -> TlsTrouble | None:
    """Say why a TLS connection fails, by trying one of our own; None when nothing answers there at all."""
    context = tls_context(roots)
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        return _of_certificate(error.verify_code, address, named=roots is not None)
    except ssl.SSLError:
        return TlsTrouble(why="it does not speak TLS 1.3", hint=PLAIN_HINT if roots else NEEDS_TLS)
    except (OSError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(within_s):
            greeted = await reader.read(1)  # with TLS 1.3 a server refuses only now that we showed no certificate
    except (ssl.SSLError, ConnectionError):
        greeted = b""
    except (OSError, TimeoutError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            await writer.wait_closed()
    if not greeted:
        return TlsTrouble(why="it lets in only callers with a certificate of its own", hint=ROUTER_HINT)
    return None if roots else TlsTrouble(why="its authority is known to this device, not to gRPC", hint=CA_HINT)


def _of_certificate(code: int, address: Address, *, named: bool) -> TlsTrouble:
    """Say what OpenSSL's verdict (``X509_V_ERR_*``) means for whoever connects. named: they gave an authority."""
    if code in OTHER_NAME:
        hint = "connect by a name or address that it is for, or have its operator add this one"
        return TlsTrouble(why=f"its certificate is for another name than {address.host}", hint=hint)
    if code in WRONG_TIME:
        hint = "its operator renews it; or the clock of this device is wrong"
        return TlsTrouble(why=f"its certificate {WRONG_TIME[code]}", hint=hint)
    by = "the authority you named" if named else "this device"
    return TlsTrouble(why=f"its certificate is not trusted by {by}", hint=OTHER_CA_HINT if named else CA_HINT)
