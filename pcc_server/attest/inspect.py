"""What a bundle says, and what can be checked of it without a trust policy: the operator's look at their own node.

Whether hardware, release and log are to be trusted is judged by clients (``hybrid verify``), not here.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce

from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import SOFTWARE, Bundle, EvidenceItem, binding
from hybrid.wire.snp import SEV_SNP, Report, SnpItem
from hybrid.wire.tpm2 import TPM2, Tpm2Item, TpmEvent, TpmsAttest, extend, name_of, qualifying_data

from .tpm2 import RUNTIME_PCR

_COVERS = "covers this statement"
NOT_JUDGED = (
    "Not judged here: who signed the evidence, which boot and release it shows, and the log. "
    "hybrid verify judges these against a trust file."
)


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of SPEC 12 and 13, whether it holds, and what was found."""

    name: str
    ok: bool
    words: str


def facts(bundle: Bundle) -> dict[str, str]:
    """Return what the statement and its evidence say, in words."""
    statement = bundle.statement
    said = {
        "bundle_id": bundle.id.hex(),
        "node_id": statement.identity.node_id.hex(),
        "deployment": statement.deployment,
        "valid": f"{_time(statement.not_before)} to {_time(statement.not_after)}",
        "epochs": ", ".join(f"{key.epoch} of {key.epoch_s} s" for key in statement.keys),
        "models": ", ".join(f"{model.model_id}@{model.manifest.hex()}" for model in statement.models),
        "release_leaf": statement.release_leaf.hex(),
        "config_digest": statement.config_digest.hex(),
        "accelerator": statement.accelerator.name,
        "checkpoint_digest": statement.checkpoint_digest.hex(),
        "formats": ", ".join(statement.formats),
    }
    for item in bundle.items:
        said |= {f"{item.format}.{name}": words for name, words in _item_facts(item).items()}
    return said


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds < 2**35 else str(seconds)


def _item_facts(item: EvidenceItem) -> dict[str, str]:
    if item.format == TPM2:
        tpm = Tpm2Item.decode(item.item)
        pcrs = {f"pcr_{index}": value.hex() for index, value in tpm.pcrs.items()}
        return {"ak_name": name_of(tpm.public).hex(), **pcrs, "events": str(len(tpm.events))}
    if item.format == SEV_SNP:
        report = Report.parse(SnpItem.decode(item.item).report)
        return {"measurement": report.measurement.hex(), "reported_tcb": str(report.reported_tcb)}
    return {"size": f"{len(item.item)} bytes"}


def checks(data: bytes, now: float) -> list[Check]:
    """Check a bundle as it was served. now: unix seconds."""
    try:
        bundle = Bundle.decode(data)
    except WireError as error:
        return [Check("bundle.format", ok=False, words=str(error))]
    return [Check("bundle.format", ok=True, words=f"{len(data)} bytes"), *_bundle_checks(bundle, now)]


def _bundle_checks(bundle: Bundle, now: float) -> Iterator[Check]:
    statement = bundle.statement
    yield _attempt("bundle.signature", bundle.verify_signature, "Ed25519 and ML-DSA-65")
    in_time = statement.not_before - CLOCK_TOLERANCE_S <= now <= statement.not_after + CLOCK_TOLERANCE_S
    yield Check("bundle.validity", in_time, f"until {_time(statement.not_after)}")
    formats = tuple(item.format for item in bundle.items)
    yield Check("evidence.complete", formats == statement.formats, ", ".join(formats) or "none")
    for number, item in enumerate(bundle.items):
        bound = binding(bundle.statement_bytes, bundle.items[:number], item.format)
        try:
            yield from _JUDGES.get(item.format, _unknown)(item.item, bound, bundle)
        except WireError as error:
            yield Check(f"{item.format}.format", ok=False, words=str(error))


def _attempt(name: str, check: Callable[[], None], words: str) -> Check:
    try:
        check()
    except WireError as error:
        return Check(name, ok=False, words=str(error))
    return Check(name, ok=True, words=words)


def _software(item: bytes, _bound: bytes, _bundle: Bundle) -> Iterator[Check]:
    yield Check("software.item", not item, "empty: tier 0, the operator can read every prompt")


def _unknown(_item: bytes, _bound: bytes, _bundle: Bundle) -> Iterator[Check]:
    yield Check("evidence.known", ok=False, words="a format that this program does not know")


def _tpm2(data: bytes, bound: bytes, bundle: Bundle) -> Iterator[Check]:
    item, statement = Tpm2Item.decode(data), bundle.statement
    attest = TpmsAttest.parse(item.attest)
    yield Check("tpm2.format", ok=True, words=f"AK Name {name_of(item.public).hex()}")
    yield Check("tpm2.qualifying-data", attest.qualifying_data == qualifying_data(bound), _COVERS)
    values = b"".join(item.pcrs.values())
    yield Check("tpm2.pcr-digest", hashlib.sha256(values).digest() == attest.pcr_digest, f"{len(item.pcrs)} PCRs")
    last = TpmEvent(
        release_leaf=statement.release_leaf,
        config_digest=statement.config_digest,
        node_id=statement.identity.node_id,
    )
    value = reduce(extend, (event.extend_digest() for event in item.events), item.pcr_before)
    ended = item.events[-1] == last and item.pcrs.get(RUNTIME_PCR) == value
    yield Check("tpm2.runtime-log", ended, f"{len(item.events)} events; the last one is this node's")


def _sev_snp(data: bytes, bound: bytes, _bundle: Bundle) -> Iterator[Check]:
    item = SnpItem.decode(data)
    report = Report.parse(item.report)
    yield Check("snp.format", ok=True, words=f"profile {item.profile}, measurement {report.measurement.hex()}")
    expected = bound if item.vtpm is None else hashlib.sha256(item.vtpm.runtime).digest() + bytes(32)
    yield Check("snp.report-data", report.report_data == expected, _COVERS)
    if item.vtpm is not None:
        quoted = TpmsAttest.parse(item.vtpm.attest).qualifying_data
        yield Check("tpm2.qualifying-data", quoted == qualifying_data(bound), _COVERS)


_JUDGES: dict[str, Callable[[bytes, bytes, Bundle], Iterator[Check]]] = {
    SOFTWARE: _software,
    TPM2: _tpm2,
    SEV_SNP: _sev_snp,
}
