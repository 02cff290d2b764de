"""Evidence of AMD SEV-SNP: the record ``HSN1`` and the attestation report inside it (SPEC 13).

The report follows AMD "SEV Secure Nested Paging Firmware ABI", table ATTESTATION_REPORT (little-endian).
Decoders are strict and judge nothing; ``hybrid.trust.sev_snp`` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from .constants import MAX_BUNDLE_BYTES
from .encoding import Reader, fixed, u8, v2, v4
from .errors import Malformed
from .tpm2 import encode_pcrs, read_pcrs

SEV_SNP = "sev-snp"  # SPEC 13: tier 2
REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0
SCALAR_BYTES = 72
REPORT_DATA_BYTES = 64
VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1
DIRECT, PARAVISOR = 1, 2  # SPEC 13: profiles
DEBUG_BIT, MIGRATION_BIT = 19, 18
_MAX_CERTIFICATE = 4096
_MAX_ATTEST = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """Security version numbers of the platform's firmware, one byte each, as Milan and Genoa order them."""

    bootloader: int
    tee: int
    snp: int
    microcode: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the 8 bytes of a TCB_VERSION; bytes 2 to 5 are reserved."""
        return cls(bootloader=data[0], tee=data[1], snp=data[6], microcode=data[7])

    def parts(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {"bootloader": self.bootloader, "tee": self.tee, "snp": self.snp, "microcode": self.microcode}

    def __str__(self) -> str:
        """Say them as one phrase."""
        return " ".join(f"{name} {number}" for name, number in self.parts().items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An attestation report of 1,184 bytes, parsed and not yet trusted.

    policy: the guest policy's 64 bits.  signing_key: 0 VCEK, 1 VLEK.  cpuid: family and model, versions 3 and up.
    signed: the bytes under the signature.  signature: the numbers r and s.
    """

    version: int
    policy: int
    vmpl: int
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    reported_tcb: Tcb
    launch_tcb: Tcb
    cpuid: tuple[int, int] | None
    chip_id: bytes
    signed: bytes = field(repr=False)
    signature: tuple[int, int] = field(repr=False)

    @property
    def debug(self) -> bool:
        """Whether the host may read the guest's memory."""
        return bool(self.policy >> DEBUG_BIT & 1)

    @property
    def migration(self) -> bool:
        """Whether a migration agent may be given the guest's memory."""
        return bool(self.policy >> MIGRATION_BIT & 1)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse exactly one report: versions 2 to 5, ECDSA P-384, zeros after the signature. Raises Malformed."""
        fixed(data, REPORT_BYTES, "an SNP report")
        version, algorithm = _u32(data, 0x00), _u32(data, 0x34)
        if version not in VERSIONS:
            raise Malformed(f"an SNP report of version {version}; 2 to 5 are known")
        if algorithm != ECDSA_P384_SHA384:
            raise Malformed(f"the signature algorithm {algorithm}; 1 is ECDSA P-384 with SHA-384")
        end = SIGNED_BYTES + 2 * SCALAR_BYTES
        if any(data[end:]):
            raise Malformed("bytes after the signature that are not zero")
        return cls(
            version=version,
            policy=int.from_bytes(data[0x08:0x10], "little"),
            vmpl=_u32(data, 0x30),
            signing_key=_u32(data, 0x48) >> 2 & 0b111,
            report_data=data[0x50:0x90],
            measurement=data[0x90:0xC0],
            host_data=data[0xC0:0xE0],
            reported_tcb=Tcb.parse(data[0x180:0x188]),
            launch_tcb=Tcb.parse(data[0x1F0:0x1F8]),
            cpuid=(data[0x188], data[0x189]) if version > VERSIONS.start else None,
            chip_id=data[0x1A0:0x1E0],
            signed=data[:SIGNED_BYTES],
            signature=(_scalar(data, SIGNED_BYTES), _scalar(data, SIGNED_BYTES + SCALAR_BYTES)),
        )


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _scalar(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + SCALAR_BYTES], "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class VtpmQuote:
    """Profile 2: what an Azure paravisor adds, since the report itself was made when the machine started.

    runtime: the JSON whose SHA-256 is in the report's data; its ``HCLAkPub`` signs.  attest: TPMS_ATTEST.
    signature: TPMT_SIGNATURE over attest.  pcrs: value of every quoted PCR, 32 bytes each.
    """

    runtime: bytes = field(repr=False)
    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]

    def encode(self) -> bytes:
        """Encode the tail of the record."""
        return v4(self.runtime) + v2(self.attest) + v2(self.signature) + encode_pcrs(self.pcrs)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read the tail of the record. Raises Malformed."""
        return cls(
            runtime=reader.v4(MAX_BUNDLE_BYTES),
            attest=reader.v2(_MAX_ATTEST),
            signature=reader.v2(_MAX_ATTEST),
            pcrs=read_pcrs(reader),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpItem:
    """The record ``HSN1``: a report and the certificates (DER) of the key that signed it.

    vtpm: None for profile 1, where the report itself carries the binding.
    """

    report: bytes
    vcek: bytes
    ask: bytes
    ark: bytes
    vtpm: VtpmQuote | None = None

    @property
    def profile(self) -> int:
        """1 direct, 2 through a paravisor's vTPM."""
        return DIRECT if self.vtpm is None else PARAVISOR

    def encode(self) -> bytes:
        """Encode the record. Raises Malformed for an item that would not decode."""
        tail = self.vtpm.encode() if self.vtpm else b""
        report = fixed(self.report, REPORT_BYTES, "an SNP report")
        data = b"HSN1" + u8(self.profile) + report + v2(self.vcek) + v2(self.ask) + v2(self.ark) + tail
        SnpItem.decode(data)
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode exactly one record; report and certificates stay bytes. Raises Malformed."""
        reader = Reader(data)
        reader.magic(b"HSN1")
        profile = reader.count(DIRECT, PARAVISOR)
        item = cls(
            report=reader.take(REPORT_BYTES),
            vcek=reader.v2(_MAX_CERTIFICATE),
            ask=reader.v2(_MAX_CERTIFICATE),
            ark=reader.v2(_MAX_CERTIFICATE),
            vtpm=VtpmQuote.read(reader) if profile == PARAVISOR else None,
        )
        reader.end()
        return item
