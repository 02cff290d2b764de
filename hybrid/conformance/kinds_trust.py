"""Cases about judgement: trust files, and a directory reply under one of them (SPEC 11, 12)."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from hybrid.trust.checks import CheckStatus, attestation_error
from hybrid.trust.log_view import LogView
from hybrid.trust.receipt_file import ReceiptFile
from hybrid.trust.reverify import reverify
from hybrid.trust.toml import parse_trust
from hybrid.trust.verify import VerifiedDirectory, Verifier
from hybrid.wire.codec import DirectoryReply

from .cases import Values


def _trust_file(v: Values) -> Values:
    found = parse_trust(v["trust"])
    return {
        "digest": found.digest,
        "deployments": {
            name: [policy.min_tier, policy.candidates, policy.freshness] for name, policy in found.deployments.items()
        },
    }


@lru_cache(maxsize=8)  # many cases are put to one policy
def _verifier(trust: str, deployment: str) -> Verifier:
    return Verifier(parse_trust(trust).deployments[deployment])


def _verify(v: Values) -> Values:
    """Run every check over a directory reply, as a client that has seen nothing of the log before."""
    reply = DirectoryReply(directory=v["directory"], leaf=v["leaf"], checkpoint=v["checkpoint"])
    found = _verifier(v["trust"], v["deployment"]).verify(
        reply, peer_is_loopback=bool(v["loopback"]), now=v["now"], log=LogView(tiles=v["tiles"])
    )
    return {
        "directory_id": found.directory_id.hex(),
        "t0": found.t0,
        "nodes": [[node.node_id.hex(), node.tier, node.measurement, node.release] for node in found.nodes],
        "dropped": [one.check for one in found.dropped],
        "checks": _checks(found),
    }


def _receipt_file(v: Values) -> Values:
    """Re-verify a stored receipt; the first failing check names the outcome, also of a self-described one."""
    file = ReceiptFile.decode(v["file"])
    verdict = reverify(file, _verifier(v["trust"], v["deployment"]).policy, now=v["now"])
    failed = [check.name for check in verdict.checks if check.status is CheckStatus.FAIL]
    if failed:
        raise attestation_error(failed[0], expected="a check that holds", got=verdict.verdict)
    return {"verdict": verdict.verdict, "agreeing": list(verdict.agreeing), "sealed_at": file.sealed_at}


def _checks(found: VerifiedDirectory) -> list[list[str]]:
    return [[check.name, check.status.value] for check in found.nodes[0].checks]


KINDS: Mapping[str, Callable[[Values], Values]] = {
    "trust_file": _trust_file,
    "verify": _verify,
    "receipt_file": _receipt_file,
}
