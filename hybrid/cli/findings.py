"""What ``hybrid verify`` shows: numbered checks, their verdicts and reasons, the tier in words. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hybrid.bias import NodeCount, Skew, judge
from hybrid.cli.render import tier
from hybrid.cli.terminal import Screen, safe

if TYPE_CHECKING:
    from hybrid.inspection import Inspection
    from hybrid.trust.checks import Check
    from hybrid.trust.receipt_file import ReceiptFile
    from hybrid.trust.reverify import Verdict
    from hybrid.trust.verify import VerifiedNode

SHOWN_ID = 32  # hexadecimal digits of directory_id: 16 bytes, enough for two people to compare
SHORT_ID = 12
DETAIL_AT = 32  # the column in which a check's reason begins
MARKS = {
    "pass": ("✓ pass", "green"),
    "warn": ("! warn", "yellow"),
    "skip": ("- skip", "dim"),
    "fail": ("✗ fail", "bold"),
}

# The numbers of SPEC 12; one number may have several names.
NUMBERS: Mapping[str, int] = {
    "log.note": 1, "log.quorum": 2, "log.clock": 2, "log.rollback": 3, "log.consistency": 4,
    "directory.signature": 5, "directory.logged": 6, "directory.current": 7, "directory.unique": 8,
    "directory.intact": 9, "bundle.format": 10, "bundle.signature": 11, "bundle.deployment": 12,
    "bundle.validity": 13, "keys.suite": 14, "keys.epoch": 15, "evidence.complete": 16, "evidence.binding": 17,
    "evidence.fresh": 18, "tpm2": 19, "snp": 19, "release.logged": 20, "release.signed": 21, "release.valid": 22,
    "release.measured": 23, "config.known": 24, "model.logged": 25, "model.accepted": 26, "tier.accelerator": 27,
    "tier.software": 28, "tier.minimum": 29, "policy.require": 30,
}  # fmt: skip


def number_of(name: str) -> int | None:
    """Return the number of a named check; None for one that SPEC 12 does not number, such as a receipt's."""
    return NUMBERS.get(name) or NUMBERS.get(name.split(".", 1)[0])


def check_facts(check: "Check") -> dict[str, Any]:
    """Return one check as plain values."""
    return {"number": number_of(check.name), "name": check.name, "status": str(check.status), "detail": check.detail}


def inspected(address: str, found: "Inspection", counts: Mapping[str, NodeCount]) -> dict[str, Any]:
    """Return what a look at a deployment found, as plain values. counts: what is remembered of its nodes."""
    directory = found.directory
    nodes = directory.nodes if directory else ()
    weakest = min(nodes, key=lambda node: node.tier) if nodes else None
    return {
        "kind": "node",
        "target": address,
        "ok": found.error is None,
        "deployment": directory.deployment if directory else None,
        "epoch": directory.epoch if directory else None,
        "seq": directory.seq if directory else None,
        "directory_id": found.directory_id.hex(),
        "tier": weakest.tier if weakest else None,
        "tier_words": weakest.tier_words if weakest else None,
        "checks": [check_facts(check) for check in found.checks],
        "nodes": [_node(node, found) for node in nodes],
        "dropped": [
            {"node_id": d.node_id.hex(), "weight": d.weight, "check": d.check, "expected": d.expected, "got": d.got}
            for d in (directory.dropped if directory else ())
        ],
        "shares": [_share(skew) for skew in judge(counts)],
        "error": _error(found),
    }


def _node(node: "VerifiedNode", found: "Inspection") -> dict[str, Any]:
    common = {check.name for check in found.checks}
    own = [check for check in node.checks if check.name not in common]
    return {
        "node_id": node.node_id.hex(),
        "model": node.model.model_id,
        "manifest": node.manifest.hex(),
        "weight": node.weight,
        "tier": node.tier,
        "tier_words": node.tier_words,
        "measurement": node.measurement,
        "release": node.release,
        "valid_until": node.valid_until,
        "checks": [check_facts(check) for check in (*own, found.firmware[node.node_id])],
    }


def _share(skew: Skew) -> dict[str, Any]:
    return {"what": skew.what, "alarm": skew.alarm, "p": skew.p, "words": skew.words}


def _error(found: "Inspection") -> dict[str, str] | None:
    error = found.error
    if error is None:
        return None
    what = {"check": error.check, "expected": error.expected, "got": error.got}
    return {**what, "message": str(error), "hint": error.hint}


def block(facts: Mapping[str, Any], screen: Screen) -> str:
    """Return the same facts for people."""
    return "\n".join(_node_lines(facts, screen) if facts["kind"] == "node" else _receipt_lines(facts, screen))


def _node_lines(facts: Mapping[str, Any], screen: Screen) -> Iterable[str]:
    name = facts["deployment"]
    yield safe(
        f"{facts['target']}  deployment {name}, epoch {facts['epoch']}, seq {facts['seq']}" if name else facts["target"]
    )
    yield screen.wrap(f"directory {facts['directory_id'][:SHOWN_ID]}  compare it: all must be shown this", indent=3)
    yield from _check_lines(facts["checks"], screen)
    for node in facts["nodes"]:
        yield ""
        yield safe(f"node {node['node_id'][:SHORT_ID]}  {node['model']}  weight {node['weight']}")
        yield from _check_lines(node["checks"], screen)
        yield f"   {screen.paint(tier(node['tier'], node['tier_words']), 'bold')}"
    for dropped in facts["dropped"]:
        got = f"expected {dropped['expected']}, got {dropped['got']}"
        line = safe(f"node {dropped['node_id'][:SHORT_ID] or '?'}  not used: {dropped['check']}: {got}")
        yield f"\n{screen.wrap(line, indent=3)}"
    yield ""
    for share in facts["shares"] if facts["nodes"] else ():
        status = "warn" if share["alarm"] else "pass" if share["p"] < 1 else "skip"
        yield _check_line("  ", "nodes.bias", status, f"{share['what']}: {share['words']}", screen)
    yield _verdict(facts, screen)


def _verdict(facts: Mapping[str, Any], screen: Screen) -> str:
    error = facts["error"]
    if error is None:
        return f"{screen.paint('✓ verified', 'green')}  {tier(facts['tier'], facts['tier_words'])}"
    hint = "\n" + screen.wrap(f"hint: {safe(error['hint'])}", indent=6) if error["hint"] else ""
    return _marked("✗ not verified", "bold", f"  {safe(error['message'])}", screen) + hint


def _marked(mark: str, colour: str, words: str, screen: Screen) -> str:
    return screen.wrap(f"{mark}{words}", indent=3).replace(mark, screen.paint(mark, colour), 1)


def _check_lines(checks: Iterable[Mapping[str, Any]], screen: Screen) -> Iterable[str]:
    for check in checks:
        number = f"{check['number']:>2}" if check["number"] else "  "
        yield _check_line(number, check["name"], check["status"], check["detail"], screen)


def _check_line(number: str, name: str, status: str, detail: str, screen: Screen) -> str:
    words = screen.wrap(safe(detail), indent=DETAIL_AT)
    return f"{number} {name:<20} {screen.paint(*MARKS[status])}  {words}".rstrip()


# --- receipts -------------------------------------------------------------------------------------

VERDICTS = {
    "verified": ("✓ verified", "green", "under the trust of this device"),
    "self-described": ("! self-described", "yellow", "under the trust inside it alone, which anyone can write"),
    "failed": ("✗ failed", "bold", "it does not hold, under any trust"),
}


def rejudged(path: str, file: "ReceiptFile", verdict: "Verdict") -> dict[str, Any]:
    """Return what a receipt file shows, as plain values."""
    failed = next((check for check in verdict.checks if check.status == "fail"), None)
    return {
        "kind": "receipt",
        "target": path,
        "ok": verdict.verdict == "verified",
        "verdict": verdict.verdict,
        "sealed_at": file.sealed_at,
        "policy": file.policy,
        "tier_words": verdict.tier_words,
        "agreeing": list(verdict.agreeing),
        "checks": [check_facts(check) for check in verdict.checks],
        "error": {"check": failed.name, "message": failed.detail} if failed else None,
    }


def _receipt_lines(facts: Mapping[str, Any], screen: Screen) -> Iterable[str]:
    sealed = datetime.fromtimestamp(facts["sealed_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield screen.wrap(safe(f"{facts['target']}  sealed {sealed}, by the clock of who wrote it"), indent=3)
    yield from _check_lines(facts["checks"], screen)
    keys = f"keys of today's trust that it was judged by: {', '.join(facts['agreeing']) or 'none'}"
    yield f"   {screen.wrap(safe(keys), indent=3)}"
    yield ""
    mark, colour, words = VERDICTS[facts["verdict"]]
    tail = f": {safe(facts['tier_words'])}" if facts["ok"] else ""
    yield _marked(mark, colour, f"  {words}{tail}", screen)
