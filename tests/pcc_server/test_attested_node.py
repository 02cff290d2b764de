"""A whole node at tier 1: its launcher quotes the TPM, its bundle passes the client's checks."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hybrid.trust.checks import Findings
from hybrid.trust.tpm2 import Tpm2Trust, check_tpm2
from hybrid.wire import codec
from hybrid.wire.directory import Directory
from hybrid.wire.entries import sign
from hybrid.wire.evidence import Bundle, binding
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteSigner
from hybrid.wire.release import ReleaseEntry
from hybrid.wire.tpm2 import Tpm2Item, name_of
from pcc_server.attest.tpm_commands import AK_TEMPLATE
from pcc_server.config import RUNNING, Settings, config_digest
from pcc_server.tlog.log import Log
from tests.pcc_server.node_client import Node
from tests.pcc_server.software_tpm import SoftwareTpm

pytestmark = pytest.mark.linux

KERNEL = hashlib.sha256(b"a kernel").digest()
BOOT = {4: hashlib.sha256(bytes(32) + KERNEL).hexdigest()}


@pytest.fixture
def tpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftwareTpm]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with SoftwareTpm(tmp_path / "tpm") as running:
        with running.commands() as commands:
            commands.extend(4, KERNEL)
        yield running


def released(tpm: SoftwareTpm, folder: Path) -> tuple[tuple[str, ...], bytes]:
    """A log with a release for exactly this node: the options that name both, and the release's leaf hash."""
    log, path, now = folder / "log", folder / "release.note", int(time.time())
    options = ("--attester", "tpm2", "--tpm", tpm.name, "--log", str(log), "--release", str(path))
    settings = Settings(
        engine="fake",
        max_running=RUNNING["fake"],
        attester="tpm2",
        tpm=tpm.name,
        log=str(log),
        release=str(path),
    )
    entry = sign(
        ReleaseEntry(
            name="hybrid-pcc",
            version="1",
            source_commit="00" * 20,
            artefacts={},
            sbom="00" * 32,
            measurements={"sev-snp": (), "tpm2": (BOOT,)},
            configs={"default": config_digest(settings).hex()},
            issued=now,
            expires=now + 3600,
        ),
        NoteSigner.generate("publisher.example/release"),
    )
    path.write_bytes(entry)
    made = Log.init(log, "localhost/log")
    made.append([entry])
    made.checkpoint()
    return options, leaf_hash(entry)


def bundle_of(node: Node) -> Bundle:
    with grpc.insecure_channel(node.address) as channel:
        get: Any = channel.unary_stream(codec.METHODS["Directory.Get"])
        parts = list(get(b"", timeout=10))
    return Directory.decode(codec.decode_directory_reply(codec.join_parts(parts)).directory).nodes[0].bundle


def judge(bundle: Bundle, trust: Tpm2Trust) -> int:
    """How many checks a bundle's quote passes. Raises AttestationError for one that it doesn't."""
    findings = Findings()
    check_tpm2(
        bundle.items[0].item,
        binding=binding(bundle.statement_bytes, (), "tpm2"),
        statement=bundle.statement,
        trust=trust,
        release_pcrs=(BOOT,),
        findings=findings,
    )
    return len(findings.all())


def test_a_node_quotes_its_tpm_and_goes_on_after_a_restart(tpm: SoftwareTpm, tmp_path: Path) -> None:
    options, release_leaf = released(tpm, tmp_path)
    with tpm.commands() as commands, commands.primary(AK_TEMPLATE) as key:
        trust = Tpm2Trust(ak_names=(name_of(key.public).hex(),))
    for number in (1, 2):
        with Node(*options) as node:
            bundle = bundle_of(node)
            assert node.ready["tier"] == 1
        bundle.verify_signature()
        assert (bundle.statement.formats, bundle.statement.release_leaf) == (("tpm2",), release_leaf)
        assert judge(bundle, trust) == 11
        assert len(Tpm2Item.decode(bundle.items[0].item).events) == number


def test_a_node_whose_tpm_is_away_does_not_start(tpm: SoftwareTpm, tmp_path: Path) -> None:
    options, _ = released(tpm, tmp_path)
    tpm.stop()
    node = Node(*options, wait=False)
    assert node.process.wait(60) == 4
    node.stop()
    assert f"the TPM {tpm.name} cannot be opened" in node.words()
