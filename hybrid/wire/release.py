"""The release entry: which software a node may run, by its measurements and configurations (SPEC 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from .canonical import JsonValue
from .constants import MAX_RELEASE_S
from .errors import Malformed
from .fields import Fields, hex_text

_PCRS = range(24)
_SHA1_HEX, _SHA256_HEX = 40, 64
_MEASUREMENT_BYTES = 48


@dataclass(frozen=True, slots=True)
class SnpMeasurement:
    """A launch measurement of SEV-SNP, 96 hexadecimal digits.

    pcrs: for profile 2 the vTPM's PCR values that must come with it; empty for profile 1, whose measurement covers
    everything. Without PCRs it is written as the bare digits.
    """

    measurement: str
    pcrs: Mapping[int, str] = field(default_factory=dict)

    def words(self) -> JsonValue:
        """Return it as JSON."""
        return {"measurement": self.measurement, "pcrs": _named(self.pcrs)} if self.pcrs else self.measurement

    @classmethod
    def read(cls, value: JsonValue) -> "SnpMeasurement":
        """Read it. Raises Malformed."""
        if isinstance(value, str):
            return cls(hex_text(value, _MEASUREMENT_BYTES, "measurement"))
        fields = Fields(value)
        measurement = hex_text(fields.take("measurement"), _MEASUREMENT_BYTES, "measurement")
        pcrs = _read_pcrs(fields.take("pcrs"))
        fields.end()
        return cls(measurement, pcrs)


Measurements = TypedDict("Measurements", {"sev-snp": tuple[SnpMeasurement, ...], "tpm2": tuple[Mapping[int, str], ...]})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseEntry:
    """What the release signer says: this is our software, and so it measures.

    source_commit: Git object name.  artefacts: file name to SHA-256.  sbom: SHA-256 of the bill of materials.
    measurements: by evidence format; for ``tpm2`` PCR number to SHA-256 value.  configs: profile name to
    config_digest.  issued, expires: Unix seconds, at most 180 days apart.  Digests are lower-case hexadecimal.
    """

    name: str
    version: str
    source_commit: str
    artefacts: Mapping[str, str]
    sbom: str
    measurements: Measurements
    configs: Mapping[str, str]
    issued: int
    expires: int

    def fields(self) -> dict[str, JsonValue]:
        """Return the entry's words."""
        return {
            "artefacts": dict(self.artefacts),
            "configs": dict(self.configs),
            "expires": self.expires,
            "issued": self.issued,
            "measurements": {
                "sev-snp": [each.words() for each in self.measurements["sev-snp"]],
                "tpm2": [_named(pcrs) for pcrs in self.measurements["tpm2"]],
            },
            "name": self.name,
            "sbom": self.sbom,
            "source_commit": self.source_commit,
            "version": self.version,
        }

    @classmethod
    def read(cls, fields: Fields) -> "ReleaseEntry":
        """Read the entry's words. Raises Malformed."""
        entry = cls(
            name=fields.identifier("name"),
            version=fields.text("version"),
            source_commit=_commit(fields.text("source_commit")),
            artefacts=fields.mapping("artefacts", _sha256),
            sbom=hex_text(fields.take("sbom"), 32, "sbom"),
            measurements=_read_measurements(fields.take("measurements")),
            configs=fields.mapping("configs", _sha256),
            issued=fields.number("issued"),
            expires=fields.number("expires"),
        )
        if not 0 < entry.expires - entry.issued <= MAX_RELEASE_S:
            raise Malformed("a release expires after it is issued, and within 180 days")
        return entry


def _read_measurements(value: JsonValue) -> Measurements:
    fields = Fields(value)
    found: Measurements = {
        "sev-snp": fields.items("sev-snp", SnpMeasurement.read),
        "tpm2": fields.items("tpm2", _read_pcrs),
    }
    fields.end()
    return found


def _named(pcrs: Mapping[int, str]) -> dict[str, JsonValue]:
    return {str(number): value for number, value in pcrs.items()}


def _read_pcrs(value: JsonValue) -> dict[int, str]:
    fields = Fields(value)
    pcrs = {number: _sha256(fields.take(str(number))) for number in _PCRS if fields.has(str(number))}
    fields.end()
    if not pcrs:
        raise Malformed("a measurement names at least one PCR")
    return pcrs


def _sha256(value: JsonValue) -> str:
    return hex_text(value, 32, "SHA-256 digest")


def _commit(value: str) -> str:
    if len(value) not in {_SHA1_HEX, _SHA256_HEX}:
        raise Malformed("a source commit is a Git object name of 40 or 64 hexadecimal digits")
    return hex_text(value, len(value) // 2, "source_commit")
