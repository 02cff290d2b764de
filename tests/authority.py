"""An authority for tests and what it signs, and an address of this machine that is not loopback."""

import datetime as dt
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOUR = dt.timedelta(hours=1)
SIOCGIFADDR = 0x8915
IFREQ_ADDRESS = slice(20, 24)  # of struct ifreq: the name's 16 bytes, family and port


@dataclass
class Authority:
    """Signs certificates into a folder. crt: its own certificate, PEM."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self._build(_name("test authority"), self.key, -2 * HOUR, HOUR)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.crt.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    @property
    def crt(self) -> Path:
        return self.folder / "ca.crt"

    def issue(
        self, stem: str, names: Sequence[str], *, begins: dt.timedelta = -HOUR, ends: dt.timedelta = HOUR
    ) -> tuple[Path, Path]:
        """Write ``stem``.crt and .key for these names and addresses. begins, ends: from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._build(_name(names[0]), key, begins, ends)
        made = made.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        crt, private = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        crt.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pkcs8, no = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, no))
        return crt, private

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: dt.timedelta, ends: dt.timedelta
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(_name("test authority"))
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return made.not_valid_before(now + begins).not_valid_after(now + ends)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def own_address() -> str:
    """Return an IPv4 address of this machine that is not loopback: packets to it never leave the machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, interface in socket.if_nameindex():
            try:
                asked = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
            except OSError:  # it has none
                continue
            address = ipaddress.ip_address(asked[IFREQ_ADDRESS])
            if not address.is_loopback:
                return str(address)
    raise AssertionError("this machine has no address but loopback; give it one: ip addr add 192.0.2.2/32 dev lo")
