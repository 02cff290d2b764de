"""A deployment with a transparency log and a witness, all true: what a client and ``hybrid verify`` make of it."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.client import Client
from hybrid.errors import AttestationError
from hybrid.seen import LogMemory
from hybrid.state import write_private
from hybrid.testing import FakeEngine
from hybrid.trust.policy import Policy
from hybrid.trust.toml import write_trust
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.log_policy import LogPolicy
from pcc_server.tlog.key_files import read_signer
from pcc_server.tlog.log import Log
from tests.e2e.deployment import Deployment, deployed, router

ORIGIN = "example.com/log"
NODE = (sys.executable, "-P", "-m", "pcc_server")


@dataclass
class Logged:
    """A deployment, its log, the trust file of a client that knows both, and the directory signer's key."""

    deployment: Deployment
    log: Log
    trust: Path
    key: Path
    options: tuple[str, ...]


@contextlib.contextmanager
def witness(folder: Path, log: Log) -> Iterator[tuple[str, str]]:
    """Run the witness; yields its address and its public key."""
    key = folder / "witness.key"
    made = [*NODE, "log", "keygen", str(key), "--name", "witness.example/w1", "--kind", "witness"]
    subprocess.run(made, capture_output=True, check=True)
    options = ("--key", str(key), "--log", log.vkey, "--listen", "127.0.0.1:0")
    words = [*NODE, "log", "witness", str(folder / "w"), *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            vkey, url = process.stdout.readline().split()
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield url, vkey
        finally:
            process.kill()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("logged")
    log, key = Log.init(folder / "log", ORIGIN), folder / "directory.key"
    subprocess.run([*NODE, "log", "keygen", str(key), "--name", "localhost/directory"], capture_output=True, check=True)
    with witness(folder, log) as (url, vkey):
        seen = [*NODE, "log", "checkpoint", str(folder / "log"), "--witness", f"{vkey} {url}"]
        subprocess.run(seen, capture_output=True, check=True)  # or the first directory names one no witness saw
        options = ("--log", str(folder / "log"), "--directory-key", str(key), "--witness", f"{vkey} {url}")
        with deployed(None, None, options=options) as deployment:
            policy = Policy(
                deployment="localhost",
                endpoint=deployment.address,
                directory_signers=(deployment.key,),
                log_policy=LogPolicy.parse(f"log {log.vkey}\nwitness w1 {vkey}\nquorum w1\n"),
            )
            trust = folder / "trust.toml"
            write_private(trust, write_trust({"localhost": policy}).encode())
            yield Logged(deployment=deployment, log=log, trust=trust, key=key, options=options)


def verify(logged: Logged, state: Path, *words: str, trust: Path | None = None) -> Result:
    words = ("verify", *words, "--trust", str(trust or logged.trust))
    return CliRunner(env={"HYBRID_STATE": str(state)}).invoke(main, words)


def facts_of(logged: Logged, state: Path, *words: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(verify(logged, state, *words, "--json").stdout)
    return value


def status_of(facts: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in facts["checks"]}


def test_every_check_of_log_and_directory_holds_and_is_shown(logged: Logged, tmp_path: Path) -> None:
    facts = facts_of(logged, tmp_path, logged.deployment.address)
    assert facts["ok"], facts["error"]
    wanted = ("log.note", "log.quorum", "log.clock", "log.rollback", "log.consistency", "directory.logged")
    assert {name: status_of(facts)[name] for name in wanted} == dict.fromkeys(wanted, "pass")
    assert status_of(facts)["directory.unique"] == "pass"  # the tail was read
    assert facts["tier"] == 0  # a log makes nobody private
    assert LogMemory(tmp_path).load(ORIGIN).seen is not None


def test_an_answer_comes_with_a_receipt_that_holds_the_proofs_of_the_log(logged: Logged, tmp_path: Path) -> None:
    with Client(node="localhost", trust=logged.trust, engine=FakeEngine(), state=tmp_path) as client:
        reply = client.ask("hello you", policy="only_private_cloud", max_tokens=2)
    assert reply.egress is not None
    facts = facts_of(logged, tmp_path, reply.egress.receipt_id)
    assert (facts["verdict"], facts["ok"]) == ("verified", True)
    assert status_of(facts)["directory.logged"] == "pass"
    assert "log example.com/log" in facts["agreeing"]
    known = LogMemory(tmp_path).load(ORIGIN)
    assert known.tail is not None  # also of a run this short


def test_another_log_than_the_trusted_one_is_exit_5(logged: Logged, tmp_path: Path) -> None:
    other = Log.init(tmp_path / "other", ORIGIN)
    text = logged.trust.read_text().replace(logged.log.vkey, other.vkey)
    trust = tmp_path / "trust.toml"
    write_private(trust, text.encode())
    result = verify(logged, tmp_path, logged.deployment.address, trust=trust)
    assert result.exit_code == AttestationError.exit_code
    assert "failed the check log.note" in result.stdout


def test_a_directory_made_for_one_client_is_found_by_another_through_the_log(logged: Logged, tmp_path: Path) -> None:
    """Last in this file: after it the log holds the proof for good."""
    facts = facts_of(logged, tmp_path, logged.deployment.address)
    signer = read_signer(logged.key)
    special = DirectoryEntry(
        deployment="localhost", epoch=facts["epoch"], seq=facts["seq"], directory_id=bytes(32), nodes=1
    )
    logged.log.append([sign(special, signer)])
    addresses = [node.address for node in logged.deployment.nodes]
    with router(addresses, *logged.options) as (address, _):  # its first checkpoint covers what was appended
        trust = tmp_path / "trust.toml"
        write_private(trust, logged.trust.read_text().replace(logged.deployment.address, address).encode())
        result = verify(logged, tmp_path, address, trust=trust)
    assert result.exit_code == AttestationError.exit_code, result.stdout
    assert "failed the check directory.unique" in result.stdout
    assert len(LogMemory(tmp_path).contradictions()) == 1
    doctor = CliRunner(env={"HYBRID_STATE": str(tmp_path)}).invoke(main, ["doctor", "--json"])
    checks = {check["name"]: check["status"] for check in json.loads(doctor.stdout)["checks"]}
    assert checks["log"] == "fail"
