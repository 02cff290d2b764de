"""Judges an AMD SEV-SNP report: the checks ``snp.*`` of SPEC section 13, in its order. Tier 2.

``verify_report`` says that AMD vouches for a report and the platform is good enough; ``check_snp`` also that the
report is about this node. Turin and VLEK are refused by name: no sample to test them with.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from hybrid.errors import ConfigurationError
from hybrid.wire.errors import Malformed, WireError
from hybrid.wire.release import SnpMeasurement
from hybrid.wire.snp import Report, SnpItem, Tcb

from .certificates import IA5_STRING, Certificate, DerReader, printable, small_integer
from .checks import Findings
from .clock import outside, utc
from .paravisor import check_vtpm, report_data_of
from .tpm2 import PcrValues

AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1, as DER writes it
PRODUCT_NAME, CHIP_ID = AMD + b"\x02", AMD + b"\x04"
TCB_PARTS = {
    "bootloader": AMD + b"\x03\x01",
    "tee": AMD + b"\x03\x02",
    "snp": AMD + b"\x03\x03",
    "microcode": AMD + b"\x03\x08",
}
VCEK = 0  # KEY_INFO: which key signed
SIGNING_KEYS = {VCEK: "VCEK", 1: "VLEK", 7: "no key"}
FAMILY_ZEN = 0x19
MAX_VMPL = 3
PARAVISOR_VMPL = 0
MAX_TCB_PART = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A processor line: its name in certificates, SHA-256 of its root's SubjectPublicKeyInfo, its models (CPUID)."""

    name: str
    root: str
    models: frozenset[int]


PRODUCTS = {
    "milan": Product(
        name="Milan",
        root="9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
        models=frozenset(range(0x10)),
    ),
    "genoa": Product(
        name="Genoa",
        root="429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
        models=frozenset((*range(0x10, 0x20), *range(0xA0, 0xB0))),  # Genoa; Bergamo and Siena
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpTrust:
    """Which platforms are trusted. min_tcb: lowest version numbers by product and part of the firmware."""

    products: tuple[str, ...] = ("milan", "genoa")
    vmpl: tuple[int, ...] = (0,)
    min_tcb: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what names no product, level or part. Raises ConfigurationError naming the field."""
        _names("sev_snp.products", self.products, PRODUCTS)
        _names("sev_snp.min_tcb", self.min_tcb, PRODUCTS)
        for product, floor in self.min_tcb.items():
            _names(f"sev_snp.min_tcb.{product}", floor, TCB_PARTS)
            if not all(0 <= number <= MAX_TCB_PART for number in floor.values()):
                raise ConfigurationError(
                    f"the trust policy's sev_snp.min_tcb.{product} must have numbers from 0 to {MAX_TCB_PART}"
                )
        if not all(0 <= level <= MAX_VMPL for level in self.vmpl):
            raise ConfigurationError(f"the trust policy's sev_snp.vmpl must have numbers from 0 to {MAX_VMPL}")


def _names(name: str, given: Sequence[str] | Mapping[str, object], known: Mapping[str, object]) -> None:
    for word in given:
        if word not in known:
            raise ConfigurationError(f"the trust policy's {name} accepts {', '.join(known)} and nothing else")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """A report that AMD's key signed on a platform the policy accepts. ends: earliest certificate end, Unix seconds."""

    report: Report
    product: str
    ends: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpFacts:
    """What an item proved. measurement: hex.  profile: 1 direct, 2 through a vTPM, whose PCR values in hex are pcrs.

    ends: earliest certificate end, Unix seconds.
    """

    measurement: str
    product: str
    profile: int
    ends: int
    pcrs: PcrValues = field(default_factory=dict)


def check_snp(
    item: bytes,
    *,
    binding: bytes,
    trust: SnpTrust,
    release: Sequence[SnpMeasurement],
    findings: Findings,
    now: float,
) -> SnpFacts:
    """Run every check ``snp.*`` over one item, and for profile 2 those ``tpm2.*`` that apply.

    binding: the item's ``B_j``, 64 bytes.  release: what the release entry allows.  now: Unix seconds.
    Raises AttestationError naming the first check that failed.
    """
    try:
        decoded = SnpItem.decode(item)
    except Malformed as error:
        raise findings.failed("snp.format", expected="a sev-snp item", got=f"malformed bytes: {error}") from None
    if decoded.vtpm is not None:  # what runs below a paravisor has its MEASUREMENT too, and must not name a vTPM
        trust = replace(trust, vmpl=tuple(level for level in trust.vmpl if level == PARAVISOR_VMPL))
    vouched = verify_report(
        decoded.report, vcek=decoded.vcek, ask=decoded.ask, ark=decoded.ark, trust=trust, findings=findings, now=now
    )
    report, vtpm = vouched.report, decoded.vtpm
    check_report_data(report, binding if vtpm is None else report_data_of(vtpm.runtime), findings)
    pcrs: PcrValues = {}
    if vtpm is not None:
        boots = tuple(each.pcrs for each in release if each.measurement == report.measurement.hex())
        pcrs = check_vtpm(vtpm, binding=binding, boots=boots, findings=findings)
    return SnpFacts(
        measurement=report.measurement.hex(),
        product=vouched.product,
        profile=decoded.profile,
        ends=vouched.ends,
        pcrs=pcrs,
    )


def verify_report(
    report: bytes, *, vcek: bytes, ask: bytes, ark: bytes, trust: SnpTrust, findings: Findings, now: float
) -> Vouched:
    """Run the checks from ``snp.format`` to ``snp.vmpl``: all but what the report is about.

    vcek, ask, ark: certificates in DER.  Raises AttestationError naming the first check that failed.
    """
    parsed = _format(report, findings)
    chain = _parse_chain(vcek, ask, ark, findings)
    product = _product(parsed, chain, trust, findings)
    _chain(vcek, ask, ark, product, findings)
    _dates(chain, now, findings)
    _signing_key(parsed, findings)
    _signature(parsed, chain.vcek, findings)
    _chip(parsed, chain.vcek, findings)
    _tcb(parsed, chain.vcek, findings)
    _tcb_floor(parsed, trust.min_tcb.get(product, {}), findings)
    _guest_policy(parsed, trust, findings)
    return Vouched(report=parsed, product=product, ends=chain.ends)


def _format(report: bytes, findings: Findings) -> Report:
    try:
        parsed = Report.parse(report)
    except Malformed as error:
        raise findings.failed("snp.format", expected="a report of version 2 to 5", got=str(error)) from None
    findings.passed("snp.format", f"version {parsed.version}")
    return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    vcek: Certificate
    ask: Certificate
    ark: Certificate

    @property
    def starts(self) -> int:
        return max(self.vcek.not_before, self.ask.not_before, self.ark.not_before)

    @property
    def ends(self) -> int:
        return min(self.vcek.not_after, self.ask.not_after, self.ark.not_after)


@lru_cache(maxsize=64)  # ASK and ARK are the same for every node of a product
def _certificate(der: bytes) -> Certificate:
    return Certificate.parse(der)


def _parse_chain(vcek: bytes, ask: bytes, ark: bytes, findings: Findings) -> _Chain:
    try:
        return _Chain(vcek=_certificate(vcek), ask=_certificate(ask), ark=_certificate(ark))
    except Malformed as error:
        raise findings.failed("snp.product", expected="AMD's three certificates", got=str(error)) from None


def _product(report: Report, chain: _Chain, trust: SnpTrust, findings: Findings) -> str:
    name = "snp.product"
    try:
        found = _product_name(chain.vcek)
        names = (chain.ask.common_name, chain.ark.common_name)
    except Malformed as error:
        raise findings.failed(name, expected="certificates that name a product", got=str(error)) from None
    product = PRODUCTS.get(found.lower())
    if product is None or found != product.name or found.lower() not in trust.products:
        raise findings.failed(name, expected=" or ".join(trust.products), got=found)
    if names != (f"SEV-{found}", f"ARK-{found}"):
        raise findings.failed(name, expected=f"SEV-{found} under ARK-{found}", got=" under ".join(names))
    if report.cpuid is not None and (report.cpuid[0] != FAMILY_ZEN or report.cpuid[1] not in product.models):
        got = f"family 0x{report.cpuid[0]:02x}, model 0x{report.cpuid[1]:02x}"
        raise findings.failed(name, expected=f"a report from {found}", got=got)
    findings.passed(name, found)
    return found.lower()


def _product_name(vcek: Certificate) -> str:
    """Return what comes before the stepping in ``Milan-B0``. Raises Malformed."""
    reader = DerReader(vcek.extensions.get(PRODUCT_NAME, b""))
    name = printable(reader.take(IA5_STRING))
    reader.end()
    return name.split("-", 1)[0]


def _chain(vcek: bytes, ask: bytes, ark: bytes, product: str, findings: Findings) -> None:
    name = "snp.chain"
    root = hashlib.sha256(_certificate(ark).public_key_info).hexdigest()
    if not hmac.compare_digest(root, PRODUCTS[product].root):
        raise findings.failed(name, expected=f"AMD's root key for {PRODUCTS[product].name}", got=f"the key {root}")
    try:
        _verify_chain(vcek, ask, ark)
    except WireError as error:
        raise findings.failed(name, expected="VCEK signed by ASK, ASK by ARK, ARK by itself", got=str(error)) from None
    findings.passed(name, "VCEK, ASK, ARK, with AMD's root key")


@lru_cache(maxsize=64)  # a node's chain stays the same from epoch to epoch; failures are not kept
def _verify_chain(vcek: bytes, ask: bytes, ark: bytes) -> None:
    child, middle, root = _certificate(vcek), _certificate(ask), _certificate(ark)
    root.verify_issued_by(root)
    middle.verify_issued_by(root)
    child.verify_issued_by(middle)
    p384_key(child)


def p384_key(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    """Return the key of a VCEK. Raises Malformed for one of another kind."""
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Malformed("a VCEK that is not a P-384 key")
    return key


def _dates(chain: _Chain, now: float, findings: Findings) -> None:
    off = outside(now, chain.starts, chain.ends)
    if off:
        raise findings.failed("snp.cert-dates", expected="certificates of this time", got=off)
    findings.passed("snp.cert-dates", f"until {utc(chain.ends)}")


def _signing_key(report: Report, findings: Findings) -> None:
    used = SIGNING_KEYS.get(report.signing_key, f"key {report.signing_key}")
    if report.signing_key != VCEK:
        raise findings.failed("snp.signing-key", expected="a report signed by the chip's own key (VCEK)", got=used)
    findings.passed("snp.signing-key", used)


def _signature(report: Report, vcek: Certificate, findings: Findings) -> None:
    try:
        p384_key(vcek).verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(SHA384()))
    except (InvalidSignature, Malformed):
        got = "a signature that fails"
        raise findings.failed("snp.signature", expected="a report signed by its VCEK", got=got) from None
    findings.passed("snp.signature", "ECDSA P-384 with SHA-384")


def _chip(report: Report, vcek: Certificate, findings: Findings) -> None:
    if not hmac.compare_digest(vcek.extensions.get(CHIP_ID, b""), report.chip_id):
        raise findings.failed("snp.chip", expected="the certificate of this chip", got="another chip's")
    findings.passed("snp.chip", report.chip_id.hex()[:16])


def _tcb(report: Report, vcek: Certificate, findings: Findings) -> None:
    try:
        certified = Tcb(**{part: small_integer(vcek.extensions.get(oid, b"")) for part, oid in TCB_PARTS.items()})
    except Malformed as error:
        raise findings.failed("snp.tcb", expected="a certificate with version numbers", got=str(error)) from None
    if certified != report.reported_tcb:  # the certificate's word counts, the report's alone never does (SPEC E11)
        raise findings.failed("snp.tcb", expected=f"{certified}, as certified", got=str(report.reported_tcb))
    findings.passed("snp.tcb", str(certified))


def _tcb_floor(report: Report, floor: Mapping[str, int], findings: Findings) -> None:
    for when, tcb in (("now", report.reported_tcb), ("at launch", report.launch_tcb)):
        low = [part for part, least in floor.items() if tcb.parts()[part] < least]
        if low:
            wanted = f"at least {floor[low[0]]} for {low[0]}"
            raise findings.failed("snp.tcb-floor", expected=wanted, got=f"{tcb.parts()[low[0]]} {when}")
    if floor:
        findings.passed("snp.tcb-floor", "now and at launch")
    else:
        findings.skipped("the trust policy sets no lowest firmware versions", "snp.tcb-floor")


def _guest_policy(report: Report, trust: SnpTrust, findings: Findings) -> None:
    if report.debug:
        raise findings.failed("snp.policy-debug", expected="a guest that can't be debugged", got="one that can")
    findings.passed("snp.policy-debug", "debugging is off")
    if report.migration:
        raise findings.failed("snp.policy-migration", expected="a guest that can't be migrated", got="one that can")
    findings.passed("snp.policy-migration", "migration is off")
    if report.vmpl not in trust.vmpl:
        wanted = " or ".join(str(level) for level in trust.vmpl) or "none"
        raise findings.failed("snp.vmpl", expected=f"privilege level {wanted}", got=str(report.vmpl))
    findings.passed("snp.vmpl", str(report.vmpl))


def check_report_data(report: Report, wanted: bytes, findings: Findings) -> None:
    """Check what the report is about. wanted: 64 bytes.  Raises AttestationError."""
    if not hmac.compare_digest(report.report_data, wanted):
        raise findings.failed("snp.report-data", expected="a report over this statement", got="one over something else")
    findings.passed("snp.report-data", "covers this statement")
