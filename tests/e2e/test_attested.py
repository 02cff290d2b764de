"""A tier 1 deployment end to end: swtpm, node, router, log, client. Freshness by nonce, and what the badge may say."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.cli.render import sent
from hybrid.client import Client
from hybrid.errors import AttestationError
from hybrid.state import write_private
from hybrid.testing import FakeEngine, FakeNode
from hybrid.trust.policy import Policy, ReleaseTrust
from hybrid.trust.toml import write_trust
from hybrid.trust.tpm2 import Tpm2Trust
from hybrid.wire.entries import sign
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.note import NoteSigner
from hybrid.wire.release import ReleaseEntry
from hybrid.wire.tpm2 import name_of
from pcc_server.attest.tpm_commands import AK_TEMPLATE
from pcc_server.config import RUNNING, Settings, config_digest
from pcc_server.tlog.log import Log
from tests.e2e.deployment import Hostile, hostile, router
from tests.pcc_server.software_tpm import SoftwareTpm
from tests.pcc_server.test_attested_node import BOOT, KERNEL

pytestmark = pytest.mark.linux

PUBLISHER = NoteSigner.generate("publisher.example/release")


@dataclass
class Attested:
    """A tier 1 deployment: its address, its log's and signer's policy, a folder."""

    address: str
    policy: Policy
    folder: Path


@pytest.fixture(scope="module")
def attested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attested]:
    folder = tmp_path_factory.mktemp("attested")
    with pytest.MonkeyPatch.context() as patch, SoftwareTpm(folder / "tpm") as tpm:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with tpm.commands() as commands:
            commands.extend(4, KERNEL)
            with commands.primary(AK_TEMPLATE) as key:
                trusted = Tpm2Trust(ak_names=(name_of(key.public).hex(),), pcrs={4: (BOOT[4],)})
        log, options = released(tpm, folder)
        keygen = [sys.executable, "-P", "-m", "pcc_server", "log", "keygen", str(folder / "d"), "--name", "localhost/d"]
        subprocess.run(keygen, capture_output=True, check=True)
        front = ("--log", str(folder / "log"), "--directory-key", str(folder / "d"))
        with FakeNode.run(options=options) as node, router([node.address], *front) as (address, signer):
            policy = Policy(
                deployment="localhost",
                endpoint=address,
                directory_signers=(signer,),
                min_tier=1,
                freshness="nonce",
                tpm2=trusted,
                release=ReleaseTrust(signers=(PUBLISHER.vkey,)),
                log_policy=LogPolicy.parse(f"log {log.vkey}\nquorum none\n"),
            )
            yield Attested(address=address, policy=policy, folder=folder)


def released(tpm: SoftwareTpm, folder: Path) -> tuple[Log, tuple[str, ...]]:
    """Log a release for exactly this node; returns the log and the node's options."""
    log, path, now = folder / "log", folder / "release.note", int(time.time())
    usual = {"engine": "fake", "max_running": RUNNING["fake"], "attester": "tpm2", "tpm": tpm.name}
    settings = Settings(**usual, log=str(log), release=str(path))  # type: ignore[arg-type]
    release = ReleaseEntry(
        name="hybrid-pcc",
        version="1",
        source_commit="00" * 20,
        artefacts={},
        sbom="00" * 32,
        measurements={"sev-snp": (), "tpm2": (BOOT,)},
        configs={"default": config_digest(settings).hex()},
        issued=now,
        expires=now + 3600,
    )
    path.write_bytes(sign(release, PUBLISHER))
    made = Log.init(log, "localhost/log")
    made.append([path.read_bytes()])
    made.checkpoint()
    return made, ("--attester", "tpm2", "--tpm", tpm.name, "--log", str(log), "--release", str(path))


def verify(attested: Attested, policy: Policy, state: Path, *words: str) -> Result:
    trust = state / "trust.toml"
    write_private(trust, write_trust({"localhost": policy}).encode())
    words = ("verify", *words, "--trust", str(trust))
    return CliRunner(env={"HYBRID_STATE": str(state)}).invoke(main, words)


def test_every_check_of_a_measured_node_is_shown_and_its_tier_is_1(attested: Attested, tmp_path: Path) -> None:
    result = verify(attested, attested.policy, tmp_path, attested.address, "--json")
    facts: dict[str, Any] = json.loads(result.stdout)
    assert facts["ok"], facts["error"]
    assert (facts["tier"], facts["tier_words"]) == (1, "tpm2, NOT private from the operator")
    (node,) = facts["nodes"]
    status = {check["name"]: check["status"] for check in node["checks"]}
    wanted = ("evidence.binding", "evidence.fresh", "tpm2.signature", "tpm2.pcr-values", "tpm2.runtime-log")
    wanted += ("release.logged", "release.signed", "release.measured", "config.known", "tier.minimum")
    assert {name: status.get(name) for name in wanted} == dict.fromkeys(wanted, "pass")


def test_an_answer_says_measured_and_never_private(attested: Attested, tmp_path: Path) -> None:
    given = {"trust": attested.policy, "engine": FakeEngine(), "state": tmp_path}
    with Client(node=attested.address, **given) as client:
        reply = client.ask("hello you", policy="only_private_cloud", max_tokens=2)
    assert reply.egress is not None
    assert "tier 1 tpm2, NOT private from the operator" in sent(reply.egress)
    result = verify(attested, attested.policy, tmp_path, reply.egress.receipt_id)
    assert result.exit_code == 0, result.stdout
    assert "private from the operator" not in result.stdout.replace("NOT private from the operator", "")


def test_without_a_nonce_of_its_own_the_client_does_not_take_the_evidence_for_fresh(
    attested: Attested, tmp_path: Path
) -> None:
    """A way that hands on everything but fresh evidence."""

    async def never(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        raise AssertionError("nothing may be sealed to it")
        yield b""

    with hostile([attested.address], never) as way:
        result = verify(attested, attested.policy, tmp_path, way.address)
        assert result.exit_code == 2  # the trust file names another endpoint
        policy = Policy(**{**{name: getattr(attested.policy, name) for name in KEPT}, "endpoint": way.address})
        result = verify(attested, policy, tmp_path, way.address)
        assert way.requests == []
    assert result.exit_code == AttestationError.exit_code
    assert "failed the check evidence.fresh" in result.stdout


KEPT = ("deployment", "directory_signers", "min_tier", "freshness", "tpm2", "release", "log_policy")


def test_a_node_of_another_tpm_is_refused(attested: Attested, tmp_path: Path) -> None:
    other = Policy(
        **{
            **{name: getattr(attested.policy, name) for name in KEPT},
            "endpoint": attested.address,
            "tpm2": Tpm2Trust(ak_names=("000b" + "11" * 32,), pcrs={4: (BOOT[4],)}),
        }
    )
    result = verify(attested, other, tmp_path, attested.address)
    assert result.exit_code == AttestationError.exit_code
    assert "failed the check tpm2.ak-trusted" in result.stdout
