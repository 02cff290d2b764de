"""Cases about evidence: TPM quotes, SEV-SNP reports, firmware event logs (SPEC 13)."""

import hashlib
from collections.abc import Callable, Mapping

from hybrid.trust import event_log, paravisor, sev_snp, tpm2
from hybrid.trust.checks import Findings
from hybrid.wire.attest import AttestReply
from hybrid.wire.evidence import Statement
from hybrid.wire.snp import Report, SnpItem
from hybrid.wire.tpm2 import Tpm2Item, TpmtPublic, name_of

from .cases import Values


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- TPM 2.0 ----------------------------------------------------------------------------------------


def _tpm2_item(v: Values) -> Values:
    item = Tpm2Item.decode(v["item"])
    return {
        "ak_name": name_of(item.public).hex(),
        "pcrs": {str(index): value.hex() for index, value in item.pcrs.items()},
        "events": [_sha256(event.encode()) for event in item.events],
        "encoded": _sha256(item.encode()),
    }


def _pcrs(values: Mapping[str, bytes]) -> dict[int, bytes]:
    return {int(index): value for index, value in values.items()}


def _tpm2(v: Values) -> Values:
    """Run every check ``tpm2.*`` over an item, under a policy and a release."""
    trust = tpm2.Tpm2Trust(
        ak_names=tuple(name.hex() for name in v["ak_names"]),
        runtime_pcr=v["runtime_pcr"],
        pcrs={int(index): tuple(value.hex() for value in values) for index, values in v["pcrs"].items()},
        pcr_before=tuple(value.hex() for value in v["pcr_before"]),
    )
    facts = tpm2.check_tpm2(
        v["item"],
        binding=v["binding"],
        statement=Statement.decode(v["statement"]),
        trust=trust,
        release_pcrs=[tpm2.in_hex(_pcrs(boot)) for boot in v["release_pcrs"]],
        findings=Findings(),
    )
    return {"measurement": facts.measurement}


def _tpm2_signature(v: Values) -> Values:
    """Check a quote as such: magic, type, signature, qualifying data."""
    findings = Findings()
    quote = tpm2.read_quote(v["attest"], findings)
    key = tpm2.public_key(TpmtPublic.parse(v["public"]))
    tpm2.check_signature(key, v["signature"], v["attest"], findings)
    tpm2.check_qualifying_data(quote, v["qualifying_data"], findings)
    return {"pcr_digest": quote.pcr_digest.hex(), "selected": [list(indices) for _, indices in quote.selections]}


def _tpm2_selection(v: Values) -> Values:
    """Check which PCRs were quoted and that these are their values."""
    findings = Findings()
    quote = tpm2.read_quote(v["attest"], findings)
    tpm2.check_selection(quote, _pcrs(v["pcrs"]), v["required"], findings)
    return {"attest": _sha256(v["attest"])}


# --- SEV-SNP ----------------------------------------------------------------------------------------


def _snp_item(v: Values) -> Values:
    item = SnpItem.decode(v["item"])
    report = Report.parse(item.report)
    certificates = [_sha256(der) for der in (item.vcek, item.ask, item.ark)]
    return {
        "profile": item.profile,
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        "certificates": certificates,
        "runtime": _sha256(item.vtpm.runtime) if item.vtpm else "",
        "encoded": _sha256(item.encode()),
    }


def _snp_trust(v: Values) -> sev_snp.SnpTrust:
    return sev_snp.SnpTrust(products=tuple(v["products"]), vmpl=tuple(v["vmpl"]), min_tcb=v["min_tcb"])


def _vouched(v: Values) -> sev_snp.Vouched:
    certificates = {name: v[name] for name in ("vcek", "ask", "ark")}
    return sev_snp.verify_report(v["report"], **certificates, trust=_snp_trust(v), findings=Findings(), now=v["now"])


def _snp_report(v: Values) -> Values:
    """Run the checks from ``snp.format`` to ``snp.vmpl`` at a time ``now``."""
    found = _vouched(v)
    return {"product": found.product, "measurement": found.report.measurement.hex(), "ends": found.ends}


def _sev_snp(v: Values) -> Values:
    """Run every check over an item, for a binding."""
    facts = sev_snp.check_snp(
        v["item"], binding=v["binding"], trust=_snp_trust(v), release=(), findings=Findings(), now=v["now"]
    )
    return {"product": facts.product, "measurement": facts.measurement, "profile": facts.profile}


def _vtpm_quote(v: Values) -> Values:
    """Check profile 2 up to the qualifying data: the report, its data, the paravisor's key, the quote."""
    findings = Findings()
    sev_snp.check_report_data(_vouched(v).report, paravisor.report_data_of(v["runtime"]), findings)
    quote = tpm2.read_quote(v["attest"], findings)
    tpm2.check_signature(paravisor.paravisor_key(v["runtime"], findings), v["signature"], v["attest"], findings)
    tpm2.check_qualifying_data(quote, v["qualifying_data"], findings)
    return {"pcr_digest": quote.pcr_digest.hex()}


# --- the rest ---------------------------------------------------------------------------------------


def _event_log(v: Values) -> Values:
    """Replay a log; the first ``digits`` hexadecimal digits of one PCR of one bank."""
    replay = event_log.replay(v["log"])
    return {"begins": replay.banks[v["bank"]][v["pcr"]].hex()[: v["digits"]]}


def _attest_reply(v: Values) -> Values:
    reply = AttestReply.decode(v["reply"])
    items = [[item.format, _sha256(item.item)] for item in reply.items]
    return {"nonces": [nonce.hex() for nonce in reply.nonces], "items": items}


KINDS: Mapping[str, Callable[[Values], Values]] = {
    "tpm2_item": _tpm2_item,
    "tpm2": _tpm2,
    "tpm2_signature": _tpm2_signature,
    "tpm2_selection": _tpm2_selection,
    "snp_item": _snp_item,
    "snp_report": _snp_report,
    "sev_snp": _sev_snp,
    "vtpm_quote": _vtpm_quote,
    "event_log": _event_log,
    "attest_reply": _attest_reply,
}
