"""SNP reports and AMD-like certificates of our own: any one thing can be wrong, and is then signed anew.

They pass only where a test has put ``Amd.root`` in the place of AMD's root key.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hybrid.trust.sev_snp import PRODUCTS, Product
from hybrid.wire.snp import Tcb

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
TCB = Tcb(bootloader=3, tee=1, snp=8, microcode=200)
CHIP = bytes(range(64))
REPORT_ID = b"\x1d" * 32
ARC = "1.3.6.1.4.1.3704.1."
GOOD_POLICY = 0x30000  # SMT allowed, the reserved bit set; no debugging, no migration


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _integer(number: int) -> bytes:
    body = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return bytes([2, len(body)]) + body


def amd_extensions(*, product: str = "Milan-B0", tcb: Tcb = TCB, chip: bytes = CHIP) -> dict[str, bytes]:
    """What AMD writes into a VCEK."""
    parts = {"3.1": tcb.bootloader, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.microcode}
    return {
        "2": bytes([0x16, len(product)]) + product.encode(),
        "4": chip,
        **{end: _integer(number) for end, number in parts.items()},
    }


@dataclass(kw_only=True)
class Amd:
    """A certificate authority that signs as AMD's does, for one product."""

    product: str = "Milan"
    ark_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65_537, 2048))
    ask_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65_537, 2048))
    vcek_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    @property
    def root(self) -> Product:
        """The product as it is in ``PRODUCTS``, with this root key."""
        info = self.ark_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return replace(PRODUCTS[self.product.lower()], root=hashlib.sha256(info).hexdigest())

    def certificate(
        self,
        subject: str,
        issuer: str,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        signer: rsa.RSAPrivateKey,
        *,
        extensions: Mapping[str, bytes] | None = None,
        salt: int = 48,
        years: tuple[int, int] = (2020, 2045),
    ) -> bytes:
        """One certificate in DER."""
        builder = x509.CertificateBuilder(
            subject_name=_name(subject),
            issuer_name=_name(issuer),
            public_key=key,
            serial_number=1,
            not_valid_before=datetime(years[0], 1, 1, tzinfo=UTC),
            not_valid_after=datetime(years[1], 1, 1, tzinfo=UTC),
        ).add_extension(x509.BasicConstraints(ca=extensions is None, path_length=None), critical=True)
        for end, value in (extensions or {}).items():
            oid = x509.ObjectIdentifier(ARC + end)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        made = builder.sign(signer, SHA384(), rsa_padding=padding.PSS(padding.MGF1(SHA384()), salt))
        return made.public_bytes(Encoding.DER)

    def ark(self) -> bytes:
        name = f"ARK-{self.product}"
        return self.certificate(name, name, self.ark_key.public_key(), self.ark_key)

    def ask(self, name: str = "") -> bytes:
        subject = name or f"SEV-{self.product}"
        return self.certificate(subject, f"ARK-{self.product}", self.ask_key.public_key(), self.ark_key)

    def vcek(
        self,
        extensions: Mapping[str, bytes] | None = None,
        *,
        issuer: str = "",
        salt: int = 48,
        years: tuple[int, int] = (2023, 2030),
    ) -> bytes:
        return self.certificate(
            "SEV-VCEK",
            issuer or f"SEV-{self.product}",
            self.vcek_key.public_key(),
            self.ask_key,
            extensions=amd_extensions() if extensions is None else extensions,
            salt=salt,
            years=years,
        )

    def report(
        self,
        *,
        version: int = 2,
        policy: int = GOOD_POLICY,
        vmpl: int = 0,
        key_info: int = 0,
        data: bytes = bytes(64),
        measurement: bytes = b"\x99" * 48,
        reported: Tcb = TCB,
        launch: Tcb = TCB,
        cpuid: bytes = bytes(3),
        chip: bytes = CHIP,
        report_id: bytes = REPORT_ID,
    ) -> bytes:
        """A report of 1,184 bytes, signed by this VCEK."""
        made = bytearray(0x2A0)
        for at, part in {
            0x00: version.to_bytes(4, "little"),
            0x08: policy.to_bytes(8, "little"),
            0x30: vmpl.to_bytes(4, "little"),
            0x34: (1).to_bytes(4, "little"),
            0x48: key_info.to_bytes(4, "little"),
            0x50: data,
            0x90: measurement,
            0x140: report_id,
            0x180: _tcb(reported),
            0x188: cpuid,
            0x1A0: chip,
            0x1F0: _tcb(launch),
        }.items():
            made[at : at + len(part)] = part
        r, s = decode_dss_signature(self.vcek_key.sign(bytes(made), ec.ECDSA(SHA384())))
        return bytes(made) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def _tcb(tcb: Tcb) -> bytes:
    return bytes((tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))
