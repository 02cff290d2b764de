"""CPU time of verifying a directory reply: one node for the first time, and 64 nodes, by kind of evidence.

Cold means what a first meeting is: a new verifier, the reply's bytes undecoded, no certificate known. Software runs
without a log, as on loopback; ``tpm2`` and ``sev-snp`` with a log, two witnesses, a release and a model. Baseline,
alternating with it: the two signatures of each bundle, which nobody can do without. Deployments are those of the tests,
with keys of their own; ``sev-snp`` has 4096-bit RSA as AMD's chain does, and one chip per node.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from _rows import row
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hybrid.trust import sev_snp
from hybrid.trust.policy import Policy
from hybrid.trust.verify import Verifier
from hybrid.wire.codec import DirectoryReply, decode_directory_reply, encode_directory_reply
from hybrid.wire.evidence import Bundle
from hybrid.wire.keys import EpochKey, IdentityKey

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.trust.log_maker import Cloud
from tests.trust.maker import EPOCH_S, NOW, Maker
from tests.trust.snp_maker import Amd

NODES = 64
ROUNDS = {1: 50, NODES: 10}
LIMIT_MS = {1: 20, NODES: 500}
RSA_BITS = 4096


class Deployment:
    """One reply as it arrives, and how a client judges it."""

    def __init__(self, maker: Maker, policy: Policy, reply: DirectoryReply, bundles: list[Bundle]) -> None:
        self._raw = encode_directory_reply(directory=reply.directory, leaf=reply.leaf, checkpoint=reply.checkpoint)
        self._policy, self._count = policy, len(bundles)
        self._bundles = bundles
        self._view = maker.view() if isinstance(maker, Cloud) else None

    def verify(self) -> None:
        """Judge the reply as one never seen before."""
        sev_snp._certificate.cache_clear()  # noqa: SLF001 - a first meeting, again and again
        sev_snp._verify_chain.cache_clear()  # noqa: SLF001
        verifier = Verifier(self._policy)
        reply = decode_directory_reply(self._raw)
        verifier.wanted(reply, None)
        found = verifier.verify(reply, peer_is_loopback=not self._view, now=NOW, log=self._view)
        assert len(found.nodes) == self._count

    def signatures(self) -> None:
        """Check what cannot be left out."""
        for bundle in self._bundles:
            bundle.verify_signature()


def made(maker: Maker, nodes: int) -> list[Bundle]:
    """Return one bundle per node, each with keys, and a chip or a TPM event log, of its own."""
    bundles = []
    for _ in range(nodes):
        maker.identity = IdentityKey.generate()
        maker.keys = [EpochKey.generate(maker.epoch + at, EPOCH_S) for at in range(2)]
        if isinstance(maker, Cloud) and maker.amd:
            maker.amd = replace(maker.amd, vcek_key=ec.generate_private_key(ec.SECP384R1()))
        bundles.append(maker.node() if isinstance(maker, Cloud) else maker.bundle())
    return bundles


def software(nodes: int) -> Deployment:
    """Return nodes of tier 0 on loopback."""
    maker = Maker()
    bundles = made(maker, nodes)
    return Deployment(maker, maker.policy(), maker.reply(*bundles), bundles)


def logged(cloud: Cloud, nodes: int) -> Deployment:
    """Return nodes whose hardware vouches for them, with a log."""
    bundles = made(cloud, nodes)
    return Deployment(cloud, cloud.policy(), cloud.publish(cloud.listed(*bundles)), bundles)


def confidential(nodes: int) -> Deployment:
    """Return nodes of tier 2; a root key of our own stands where AMD's does."""
    amd = Amd(ark_key=rsa.generate_private_key(65_537, RSA_BITS), ask_key=rsa.generate_private_key(65_537, RSA_BITS))
    sev_snp.PRODUCTS["milan"] = amd.root
    return logged(Cloud(amd=amd), nodes)


KINDS: dict[str, Callable[[int], Deployment]] = {
    "software": software,
    "tpm2": lambda nodes: logged(Cloud(), nodes),
    "sev-snp": confidential,
}


def cpu_ms(work: Callable[[], None]) -> float:
    """Measure one call's CPU time in milliseconds."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    """Print six rows."""
    for nodes, rounds in ROUNDS.items():
        for kind, make in KINDS.items():
            deployment = make(nodes)
            deployment.verify()
            deployment.signatures()
            figures = [(cpu_ms(deployment.verify), cpu_ms(deployment.signatures)) for _ in range(rounds)]
            row(
                f"verify: {kind}, {'the first node' if nodes == 1 else f'{nodes} nodes'}",
                ours=[pair[0] for pair in figures],
                baseline=[pair[1] for pair in figures],
                unit="ms",
                smaller_is_better=True,
                p95=round(sorted(pair[0] for pair in figures)[int(0.95 * rounds)], 4),
                limit=LIMIT_MS[nodes],
                baseline_name="both signatures of each bundle",
            )


if __name__ == "__main__":
    main()
