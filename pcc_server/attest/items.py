"""What the worker asks a collector for, and the record it makes of the answer: our records meet the device's parts."""

from hybrid.wire.constants import DIGEST_BYTES
from hybrid.wire.encoding import Reader
from hybrid.wire.evidence import EvidenceItem
from hybrid.wire.snp import SEV_SNP, SnpItem
from hybrid.wire.tpm2 import TPM2, Tpm2Item, TpmEvent, qualifying_data, read_pcrs

from .collector import Ask, Parts

_EVENT_BYTES = 97
_PCR_BYTES = 1 + DIGEST_BYTES


def ask_for(format_name: str, binding: bytes, event: TpmEvent | None) -> Ask:
    """Say what evidence in this format must sign for a binding of 64 bytes."""
    if format_name != TPM2:
        return Ask(format=format_name, challenge=binding)
    if event is None:
        raise ValueError("tpm2 evidence needs the node's event")
    challenge = qualifying_data(binding)
    return Ask(format=format_name, challenge=challenge, event=event.encode(), extend=event.extend_digest())


def make_item(format_name: str, parts: Parts) -> EvidenceItem:
    """Make the record of what a collector returned. Raises Malformed for parts that no client would accept."""
    encode = {TPM2: _tpm2, SEV_SNP: _sev_snp}[format_name]
    return EvidenceItem(format=format_name, item=encode(parts))


def _sev_snp(parts: Parts) -> bytes:
    return SnpItem(report=parts["report"], vcek=parts["vcek"], ask=parts["ask"], ark=parts["ark"]).encode()


def _tpm2(parts: Parts) -> bytes:
    events = parts["events"]
    cuts = range(0, len(events), _EVENT_BYTES)
    return Tpm2Item(
        public=parts["public"],
        attest=parts["attest"],
        signature=parts["signature"],
        pcrs=_pcrs(parts["pcrs"]),
        pcr_before=parts["before"],
        events=tuple(TpmEvent.decode(events[at : at + _EVENT_BYTES]) for at in cuts),
    ).encode()


def _pcrs(rows: bytes) -> dict[int, bytes]:
    reader = Reader(bytes([len(rows) // _PCR_BYTES]) + rows)
    pcrs = read_pcrs(reader)
    reader.end()
    return pcrs
