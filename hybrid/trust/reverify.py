"""Checks a receipt file again, without a network: C12 as of the moment it was sealed, then the receipt. SPEC section 9.

The verdict is under the verifier's own trust; anyone can write a file that agrees with itself.
"""

import hmac
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.wire.constants import CLOCK_TOLERANCE_S, HEAD_BYTES
from hybrid.wire.encoding import digest
from hybrid.wire.entries import DirectoryEntry
from hybrid.wire.errors import ReceiptMismatch, WireError
from hybrid.wire.evidence import SOFTWARE, Bundle
from hybrid.wire.header import Header, header_digest
from hybrid.wire.receipt import Receipt

from .bundle import check_bundle
from .checks import Check, Findings
from .clock import outside, utc
from .directory import check_logged, decode_directory, open_own_leaf
from .facts import NodeFacts
from .log_checks import check_log
from .log_view import LogView
from .policy import Policy, parse_signer
from .proof import NodeProof
from .receipt_file import ReceiptFile
from .scene import Scene
from .toml import parse_trust

Outcome = Literal["verified", "self-described", "failed"]

RECEIPT_SLACK_S = 150  # SPEC 9: a minute of rounding and 90 s of two clocks
NO_DIRECTORY = "a receipt does not keep the whole directory"
NO_FRAMES = "a receipt does not keep the frames of the answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a receipt file shows. checks: under today's trust, or the file's own where there is none today.

    verdict: ``verified`` under today's trust alone; ``self-described`` when only the file's own trust agrees.
    agreeing: keys of today's trust that the file was judged by as well.  tier_words: empty unless something verified.
    """

    checks: tuple[Check, ...]
    verdict: Outcome
    agreeing: tuple[str, ...]
    tier_words: str = ""


class _Judged(NamedTuple):
    checks: tuple[Check, ...]
    facts: NodeFacts | None


class _Opened(NamedTuple):
    header: Header
    receipt: Receipt
    bundle: Bundle


def reverify(file: ReceiptFile, policy_today: Policy | None, *, now: float) -> Verdict:
    """Judge a receipt file under the verifier's own trust. now: Unix seconds, years later for all it matters."""
    today = _judge(file, policy_today, now) if policy_today is not None else None
    agreeing = _agreeing(file, policy_today)
    if today is not None and today.facts is not None:
        return Verdict(checks=today.checks, verdict="verified", agreeing=agreeing, tier_words=today.facts.tier_words)
    own_policy = _own_policy(file)
    own = _judge(file, own_policy, now) if own_policy is not None else _Judged((), None)
    checks = today.checks if today is not None else own.checks
    if own.facts is None:
        return Verdict(checks=checks, verdict="failed", agreeing=agreeing)
    return Verdict(checks=checks, verdict="self-described", agreeing=agreeing, tier_words=own.facts.tier_words)


def _own_policy(file: ReceiptFile) -> Policy | None:
    try:
        policies = tuple(parse_trust(file.trust).deployments.values())
    except ConfigurationError:
        return None
    return policies[0] if len(policies) == 1 else None


def _agreeing(file: ReceiptFile, policy: Policy | None) -> tuple[str, ...]:
    own = _own_policy(file)
    then = _keys(own) if own else {}
    now = _keys(policy) if policy else {}
    return tuple(name for vkey, name in now.items() if vkey in then)


def _keys(policy: Policy) -> dict[str, str]:
    """Return every key of a policy with its role and name."""
    keys = dict.fromkeys(policy.directory_signers, "directory")
    keys |= dict.fromkeys(policy.release.signers if policy.release else (), "release")
    keys |= dict.fromkeys(policy.models.signers if policy.models else (), "models")
    if policy.log_policy is not None:
        keys |= {log.vkey: "log" for log in policy.log_policy.logs}
        keys |= {witness.vkey: "witness" for witness in policy.log_policy.witnesses.values()}
    return {vkey: f"{role} {vkey.split('+', 1)[0]}" for vkey, role in keys.items()}


def _judge(file: ReceiptFile, policy: Policy, now: float) -> _Judged:
    findings = Findings()
    try:
        facts = _node(file, policy, findings)
        opened = _open(file, findings)
        _request(file, opened, findings)
        findings.skipped(NO_FRAMES, "receipt.transcript", "receipt.final")
        served = _model(opened, facts, findings)
        findings.skipped(NO_FRAMES, "receipt.usage")
        _signature(opened, findings)
        _time(file, opened, now, findings)
    except AttestationError:
        return _Judged(findings.all(), None)
    return _Judged(findings.all(), served)


def _node(file: ReceiptFile, policy: Policy, findings: Findings) -> list[NodeFacts]:
    """Repeat C12 as of the moment of sealing, as far as it needs no whole directory."""
    proof, at = file.proof, float(file.sealed_at)
    view = LogView(tiles=proof.tiles)
    log = check_log(policy.log_policy, proof.checkpoint, proof.checkpoints, view=view, findings=findings, now=at)
    own, entry = open_own_leaf(proof.entry, [parse_signer(key) for key in policy.directory_signers], findings)
    _entry(file, entry, policy, findings)
    check_logged(own, log, findings)
    bundle = _bundle(file, findings)
    epoch_s = bundle.statement.keys[0].epoch_s
    _current(entry, epoch_s, at, findings)
    findings.skipped(NO_DIRECTORY, "directory.unique")
    _listed(proof, entry, bundle, findings)
    scene = Scene(
        policy=policy,
        deployment=entry.deployment,
        epoch_s=epoch_s,
        ends=(entry.epoch + 2) * epoch_s,
        leaves=proof.leaves,
        log=log,
        nonces={proof.nonce.bundle_id: proof.nonce} if proof.nonce else {},
        peer_is_loopback=proof.peer_is_loopback,
        now=at,
    )
    return check_bundle(bundle, scene, findings)


def _entry(file: ReceiptFile, entry: DirectoryEntry, policy: Policy, findings: Findings) -> None:
    name = "directory.signature"
    try:
        used = Header.decode(file.header).directory_id
    except WireError:
        raise findings.failed("receipt.request", expected="a request header", got="malformed bytes") from None
    if not hmac.compare_digest(used, entry.directory_id):
        raise findings.failed(name, expected="the directory the request names", got="another one's entry")
    if policy.deployment is not None and entry.deployment != policy.deployment:
        raise findings.failed(name, expected=f"the deployment {policy.deployment}", got=entry.deployment)
    findings.passed(name, f"entry of {entry.deployment}, epoch {entry.epoch}, seq {entry.seq}")


def _listed(proof: NodeProof, entry: DirectoryEntry, bundle: Bundle, findings: Findings) -> None:
    """Check that the directory lists the node where the evidence is software: nothing else ties its key to anybody."""
    name = "directory.intact"
    if bundle.statement.formats != (SOFTWARE,) and not proof.directory:
        findings.skipped(NO_DIRECTORY, name)
        return
    directory = decode_directory(proof.directory)
    if directory is None or not hmac.compare_digest(directory.id, entry.directory_id):
        raise findings.failed(name, expected="the directory that was signed, as it lists the node", got="none")
    if bundle.raw not in (listed.bundle.raw for listed in directory.nodes):
        raise findings.failed(name, expected="a node of the directory", got="one it does not list")
    findings.skipped("it lists this node; the others are not judged again", name)


def _bundle(file: ReceiptFile, findings: Findings) -> Bundle:
    try:
        return Bundle.decode(file.proof.bundle)
    except WireError as error:
        raise findings.failed("bundle.format", expected="a bundle of this version", got=str(error)) from None


def _current(entry: DirectoryEntry, epoch_s: int, at: float, findings: Findings) -> None:
    name = "directory.current"
    start, end = entry.epoch * epoch_s, (entry.epoch + 2) * epoch_s
    if outside(at, start, end):
        raise findings.failed(name, expected="a directory of the moment of sealing", got="one of another time")
    findings.passed(name, f"until {utc(end)}")


def _open(file: ReceiptFile, findings: Findings) -> _Opened:
    try:
        return _Opened(Header.decode(file.header), Receipt.decode(file.receipt), Bundle.decode(file.proof.bundle))
    except WireError as error:
        raise findings.failed("receipt.request", expected="a header and a receipt", got=str(error)) from None


def _request(file: ReceiptFile, opened: _Opened, findings: Findings) -> None:
    """Check that header, body, head, node, key and bundle are those the receipt speaks of."""
    name, (header, receipt, bundle) = "receipt.request", opened
    q = digest("request", header_digest(file.header), file.body)
    if not hmac.compare_digest(q, receipt.request) or receipt.index >= len(header.candidates):
        raise findings.failed(name, expected="a receipt of this request", got="another request's")
    ref = header.candidates[receipt.index]
    keys = {key.key_id for key in bundle.statement.keys}
    said = (receipt.node_id, receipt.ek_id, receipt.bundle_id)
    if ref.parts() != said or said[0] != bundle.statement.identity.node_id or said[2] != bundle.id:
        raise findings.failed(name, expected="a receipt of this node and bundle", got="another's")
    if receipt.ek_id not in keys:
        raise findings.failed(name, expected="a key of the bundle", got="another")
    if len(file.head) != HEAD_BYTES or file.head[:33] != bytes((receipt.index,)) + receipt.resp_salt:
        raise findings.failed(name, expected="the head of this reply", got="another reply's")
    findings.passed(name, receipt.request.hex()[:32])


def _model(opened: _Opened, facts: list[NodeFacts], findings: Findings) -> NodeFacts:
    name, receipt = "receipt.model", opened.receipt
    asked = [fact for fact in facts if fact.model.model_id == opened.header.model_id == receipt.model_id]
    if not asked or asked[0].model.manifest != receipt.manifest:
        got = receipt.model_id
        raise findings.failed(name, expected=f"{opened.header.model_id} as the node's statement lists it", got=got)
    findings.passed(name, receipt.model_id)
    return asked[0]


def _signature(opened: _Opened, findings: Findings) -> None:
    try:
        opened.receipt.verify(opened.bundle.statement.identity)
    except ReceiptMismatch as error:
        got = "one that fails"
        raise findings.failed(error.check, expected="two good signatures of the node", got=got) from None
    findings.passed("receipt.signature", "Ed25519 and ML-DSA-65")


def _time(file: ReceiptFile, opened: _Opened, now: float, findings: Findings) -> None:
    """Hold the client's word about the moment of sealing against the node's about the end of the answer."""
    name, minute = "receipt.time", opened.receipt.minute
    earliest = minute - opened.header.deadline_ms / 1000 - RECEIPT_SLACK_S
    if not earliest <= file.sealed_at <= minute + RECEIPT_SLACK_S:
        raise findings.failed(name, expected="a request sealed shortly before its answer", got="another time")
    if file.sealed_at > now + CLOCK_TOLERANCE_S:
        raise findings.failed(name, expected="a request of the past", got="one of the future")
    findings.passed(name, f"sealed at {utc(file.sealed_at)}, answered in the minute of {utc(minute)}")
