"""What a node prints for its publishers to sign, and how that gets into the log: --print, add, revoke, vkey."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid.wire.entries import ModelEntryNote, RevokeEntry, entry_digest, open_entry
from hybrid.wire.note import NoteVerifier
from hybrid.wire.release import ReleaseEntry
from pcc_server import describe
from pcc_server.attest.collector import Ask, Parts
from pcc_server.cli import main
from pcc_server.config import Settings, config_digest
from pcc_server.tlog.log import Log
from tests.pcc_server.software_tpm import SoftwareTpm

SERVE = ("serve", "--engine", "fake", "--log", "log", "--release", "release.note")


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result.stderr if code else result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log, a release signer's key and a model signer's."""
    run("log", "init", tmp_path / "log", "--origin", "example.com/log")
    for key in ("release", "models"):
        run("log", "keygen", tmp_path / f"{key}.key", "--name", f"example.com/{key}")
    return tmp_path


def verifier(folder: Path, key: str) -> NoteVerifier:
    return NoteVerifier.parse(run("log", "vkey", folder / f"{key}.key").strip())


def test_a_printed_release_is_signed_only_once_its_publisher_has_filled_it_in(folder: Path) -> None:
    text = run(*SERVE, "--max-new", "64", "--print", "release")
    file = folder / "release.toml"
    add = ("log", "add", folder / "log", "--release", file, "--key", folder / "release.key", "--out", folder / "note")
    for name, value in (("source_commit", "1" * 40), ("sbom", "2" * 64)):
        file.write_text(text)
        assert f"field {name} " in run(*add, code=2)
        text = text.replace(f'{name} = ""', f'{name} = "{value}"')
    file.write_text(text)
    assert run(*add) == "0\n"
    entry = open_entry((folder / "note").read_bytes(), verifier(folder, "release"))
    assert isinstance(entry, ReleaseEntry)
    assert entry.configs == {"default": config_digest(Settings(engine="fake", max_new=64)).hex()}
    assert entry.measurements == {"sev-snp": (), "tpm2": ()}


def test_a_printed_model_is_signed_the_same_way(folder: Path) -> None:
    file = folder / "model.toml"
    file.write_text(run(*SERVE, "--print", "model"))
    words = ("log", "add", folder / "log", "--model", file, "--key", folder / "models.key")
    assert "licence" in run(*words, code=2)
    file.write_text(file.read_text().replace('licence = ""', 'licence = "Apache-2.0"'))
    assert run(*words) == "0\n"
    model = open_entry(Log.open(folder / "log").entry(0), verifier(folder, "models"))
    assert isinstance(model, ModelEntryNote)
    assert (model.model_id, model.licence) == ("fake", "Apache-2.0")


def test_a_revocation_names_its_entry_by_the_digest_that_show_prints(folder: Path) -> None:
    file = folder / "model.toml"
    file.write_text(run(*SERVE, "--print", "model").replace('licence = ""', 'licence = "MIT"'))
    log, key = folder / "log", folder / "release.key"
    run("log", "add", log, "--model", file, "--key", folder / "models.key")
    assert "reason is one of" in run("log", "revoke", log, 0, "--key", key, "--reason", "whim", code=2)
    assert run("log", "revoke", log, 0, "--key", key, "--reason", "superseded") == "1\n"
    entry, revocation = (Log.open(log).entry(index) for index in (0, 1))
    opened = open_entry(revocation, verifier(folder, "release"))
    assert isinstance(opened, RevokeEntry)
    assert opened.target == entry_digest(entry)
    shown = CliRunner().invoke(main, ["log", "show", str(log), "0"])
    assert (shown.stdout, opened.target.hex() in shown.stderr) == (entry.decode(), True)
    assert "is a revoke" in run("log", "revoke", log, 1, "--key", key, "--reason", "superseded", code=2)


def test_a_key_goes_with_one_kind_of_file(folder: Path) -> None:
    words = ("log", "add", folder / "log", "--release", "a", "--model", "b", "--key", folder / "models.key")
    assert "either --release or --model" in run(*words, code=2)
    assert "chmod 600" in run("log", "vkey", folder / "log" / "checkpoint", code=2)
    (note := folder / "note").touch(0o600)
    assert "no witness's key" in run("log", "vkey", note, code=2)


@pytest.mark.linux
def test_a_tpm_that_measured_no_boot_makes_no_release(tmp_path: Path) -> None:
    with SoftwareTpm(tmp_path / "tpm") as tpm:
        words = (*SERVE, "--attester", "tpm2", "--tpm", tpm.name, "--print", "release")
        refused = subprocess.run([sys.executable, "-P", "-m", "pcc_server", *words], capture_output=True, check=False)
        assert (refused.returncode, refused.stdout) == (4, b"")
        assert b"does not measure its boot" in refused.stderr
        with tpm.commands() as commands:
            commands.extend(9, b"\x01" * 32)
            commands.extend(0, b"\x02" * 32)
            measured = commands.read_pcrs([0, 9])
        text = run(*words)
    assert tomllib.loads(text)["measurements"] == {"tpm2": [{"9": measured[9].hex()}]}
    assert f'#   0 = "{measured[0].hex()}"' in text  # the firmware's is one machine's own, so only a remark


def test_a_guest_prints_what_it_was_launched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chip:
        formats = ("sev-snp",)

        def collect(self, ask: Ask) -> Parts:
            assert len(ask.challenge) == 64
            return {"report": bytes(0x90) + b"\x07" * 48 + bytes(1184 - 0x90 - 48)}

        def close(self) -> None: ...

    monkeypatch.setattr(describe, "collector_for", lambda *_: Chip())
    text = run(*SERVE, "--attester", "sev-snp", "--print", "release")
    assert tomllib.loads(text)["measurements"] == {"sev-snp": ["07" * 48]}
