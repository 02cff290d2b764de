"""``hybrid verify`` and ``hybrid trust`` at the true node: every check, the tier in words, exit codes, and receipts."""

import asyncio
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.bias import NodeCount
from hybrid.cli import main
from hybrid.cli.findings import NUMBERS, block, number_of
from hybrid.cli.terminal import Screen
from hybrid.client import Client
from hybrid.errors import APITimeoutError, AttestationError, UnavailableError
from hybrid.receipts import ReceiptStore
from hybrid.shares import ShareBook
from hybrid.testing import FakeEngine, FakeNode
from hybrid.wire.note import NoteSigner

NUMBERED = range(1, 31)
CANARY = "plan-the-marmalade-7391"


@pytest.fixture(scope="module")
def node() -> Iterator[FakeNode]:
    with FakeNode.run() as running:
        yield running


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HYBRID_TRUST", "")
    return tmp_path / "state"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def facts_of(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def asked(node: FakeNode, state: Path, **given: Any) -> str:
    with Client(node=node, engine=FakeEngine(), state=state, **given) as client:
        reply = client.ask(CANARY, policy="only_private_cloud", max_tokens=4)
    assert reply.egress is not None
    return reply.egress.receipt_id


def test_a_node_shows_every_numbered_check_and_its_tier_in_words(node: FakeNode) -> None:
    result = run("verify", node.address, "--node-key", node.key)
    assert result.exit_code == 0, result.stderr
    seen = {int(line[:2]) for line in result.stdout.splitlines() if line[:2].strip().isdigit()}
    assert seen == set(NUMBERED)
    assert "tier 0 software, NOT private from the operator" in result.stdout
    assert result.stdout.count("private from the operator") == result.stdout.count("NOT private from the operator")


def test_the_json_says_the_same_and_names_the_directory(node: FakeNode) -> None:
    shown, facts = run("verify", node.address, "--node-key", node.key), None
    facts = facts_of(run("verify", node.address, "--node-key", node.key, "--json"))
    (only,) = facts["nodes"]
    checks = [*facts["checks"], *only["checks"]]
    assert (facts["ok"], facts["kind"], facts["tier"]) == (True, "node", 0)
    assert {check["number"] for check in checks} == {*NUMBERED, None}  # None: the firmware's log, which is only shown
    assert [check["name"] for check in checks if check["number"] is None] == ["firmware.log"]
    assert all(check["detail"] for check in checks if check["status"] == "skip")  # a skip says why
    assert f"directory {facts['directory_id'][:32]}  " in shown.stdout
    assert len(facts["directory_id"]) == 64


def test_every_number_has_a_name_and_formats_share_theirs() -> None:
    assert set(NUMBERS.values()) == {*NUMBERED}
    assert number_of("tpm2.qualifying-data") == number_of("snp.vmpl") == 19
    assert number_of("receipt.signature") is None


def test_another_key_is_exit_5_and_names_the_check(node: FakeNode) -> None:
    other = NoteSigner.generate("localhost/directory").vkey
    result = run("verify", node.address, "--node-key", other)
    assert result.exit_code == AttestationError.exit_code
    assert "✗ fail" in result.stdout
    assert "✗ not verified  the node failed the check directory.signature" in result.stdout
    assert "private from the operator" not in result.stdout
    facts = facts_of(run("verify", node.address, "--node-key", other, "--json"))
    assert (facts["ok"], facts["error"]["check"], facts["nodes"]) == (False, "directory.signature", [])
    assert facts["checks"][-1]["status"] == "fail"


def test_an_address_where_nobody_is_is_exit_4(node: FakeNode) -> None:
    assert run("verify", "127.0.0.1:1", "--node-key", node.key).exit_code == UnavailableError.exit_code


def test_an_unknown_node_without_a_key_is_exit_2(node: FakeNode) -> None:
    result = run("verify", node.address)
    assert result.exit_code == 2
    assert "not known" in result.stderr


def test_offline_asks_no_node_elsewhere(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> None:
    monkeypatch.setenv("HYBRID_OFFLINE", "1")
    assert run("verify", "192.0.2.1:443", "--node-key", node.key).exit_code == UnavailableError.exit_code
    assert run("verify", node.address, "--node-key", node.key).exit_code == 0  # this machine is not elsewhere


# --- receipts ---------------------------------------------------------------------------------------


def test_an_answer_leaves_a_receipt_that_verifies_offline_under_the_verifiers_own_trust(
    node: FakeNode, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt_id = asked(node, state)
    (kept,) = ReceiptStore(state).list()
    monkeypatch.setattr("hybrid.cloud.GrpcTransport.__init__", _no_network)
    for target in (str(kept.path), receipt_id, receipt_id[:8]):
        result = run("verify", target, "--node-key", node.key)
        assert result.exit_code == 0, result.stdout
        assert "✓ verified" in result.stdout
        assert "NOT private from the operator" in result.stdout
    facts = facts_of(run("verify", str(kept.path), "--node-key", node.key, "--json"))
    assert (facts["kind"], facts["verdict"], facts["ok"]) == ("receipt", "verified", True)
    assert "receipt.signature" in [check["name"] for check in facts["checks"] if check["status"] == "pass"]


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("a receipt is checked without a network")


def test_a_receipt_holds_no_content(node: FakeNode, state: Path) -> None:
    asked(node, state)
    for path in state.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for word in (CANARY, "token 1", "fake engine"):
                assert word.encode() not in path.read_bytes()


def test_a_receipt_that_agrees_with_itself_alone_is_exit_1(node: FakeNode, state: Path) -> None:
    result = run("verify", asked(node, state))
    assert result.exit_code == 1
    assert "! self-described" in result.stdout
    assert "✓ verified" not in result.stdout
    other = NoteSigner.generate("localhost/directory").vkey
    assert run("verify", asked(node, state)[:16], "--node-key", other).exit_code == 1


def test_a_receipt_with_one_digit_changed_is_exit_5(node: FakeNode, state: Path) -> None:
    asked(node, state)
    (kept,) = ReceiptStore(state).list()
    value = json.loads(kept.path.read_bytes())
    value["body"] = value["body"][:-2] + ("A=" if value["body"][-2] != "A" else "E=")
    kept.path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    result = run("verify", str(kept.path), "--node-key", node.key)
    assert result.exit_code == AttestationError.exit_code
    assert "✗ failed" in result.stdout
    assert "receipt.request" in result.stdout


def test_a_file_that_is_no_receipt_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "x.receipt").write_text("{}")
    assert run("verify", str(tmp_path / "x.receipt")).exit_code == 2


def test_receipts_off_keeps_none(node: FakeNode, state: Path) -> None:
    asked(node, state, receipts="off")
    assert ReceiptStore(state).list() == ()


def test_a_folder_that_cannot_be_written_costs_the_receipt_and_never_the_answer(node: FakeNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert asked(node, tmp_path / "file" / "below")


# --- the trust file ---------------------------------------------------------------------------------


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_TRUST", str(tmp_path / "trust.toml"))
    return tmp_path / "trust.toml"


def test_a_trusted_node_needs_no_key_any_more(node: FakeNode, trust: Path) -> None:
    assert run("trust", "add", node.address, "--key", node.key).exit_code == 0
    assert stat.S_IMODE(trust.stat().st_mode) == 0o600
    for target in (node.address, "localhost"):
        assert run("verify", target).exit_code == 0
        answer = run("ask", "--private-cloud", "--node", target, "--max-tokens", "2", "hello you")
        assert (answer.exit_code, answer.stdout) == (0, "fake engine: token 1 token 2 \n")
    with Client(node=node.address, engine=FakeEngine(), trust=trust) as client:
        assert client.ask("hello", policy="only_private_cloud", max_tokens=1).text
    assert node.address in run("trust", "list").stdout
    assert run("trust", "rm", "localhost").exit_code == 0
    assert run("verify", node.address).exit_code == 2


def test_a_trust_file_that_others_may_write_decides_nothing(node: FakeNode, trust: Path) -> None:
    run("trust", "add", node.address, "--key", node.key)
    trust.chmod(0o622)
    result = run("verify", node.address)
    assert result.exit_code == 2
    assert "can be written by others" in result.stderr


def test_a_trust_file_that_was_handed_over_is_taken_in_and_shown(node: FakeNode, trust: Path, tmp_path: Path) -> None:
    run("trust", "add", node.address, "--key", node.key, "--name", "one.example")
    given = tmp_path / "given.toml"
    given.write_bytes(trust.read_bytes())
    given.chmod(0o600)
    run("trust", "rm", "one.example")
    assert run("trust", "add", str(given)).exit_code == 0
    listed = json.loads(run("trust", "list", "--json").stdout)
    assert listed["one.example"]["directory_signers"] == [node.key]
    assert run("trust", "rm", "two.example").exit_code == 2


def test_a_key_that_calls_its_deployment_otherwise_is_told_at_once(node: FakeNode, trust: Path) -> None:
    assert "hint: this key calls its deployment" not in run("trust", "add", node.address, "--key", node.key).stderr
    other = NoteSigner.generate("pcc.example.org/directory").vkey
    assert "say --name pcc.example.org" in run("trust", "add", "192.0.2.1:443", "--key", other).stderr


def test_accepting_software_everywhere_says_so(node: FakeNode, trust: Path) -> None:
    result = run("trust", "add", node.address, "--key", node.key, "--allow-software", "always")
    assert "warning: " in result.stderr
    assert "NOT private from its operator" in result.stderr
    shown = run("verify", node.address)
    assert "! warn" in shown.stdout


def test_an_access_key_file_that_others_may_read_is_refused(node: FakeNode, trust: Path, tmp_path: Path) -> None:
    run("trust", "add", node.address, "--key", node.key)
    token = tmp_path / "token"
    token.write_text("a key\n")
    token.chmod(0o644)
    words = ("ask", "--private-cloud", "--node", node.address, "--node-token-file", str(token), "hello you")
    assert run(*words).exit_code == 2
    token.chmod(0o600)
    assert run(*words).exit_code == 0  # this node lets everybody in, with a key or without


def test_every_use_of_a_node_that_is_trusted_blindly_is_warned_of(node: FakeNode, trust: Path) -> None:
    run("trust", "add", node.address, "--key", node.key, "--allow-software", "always")
    for _ in range(2):
        result = run("ask", "--private-cloud", "--node", "localhost", "--max-tokens", "2", "hello you")
        assert result.exit_code == 0
        assert "warning: tier.software: " in result.stderr
        assert "NOT private from the operator" in result.stderr
    run("trust", "add", node.address, "--key", node.key)
    assert "warning" not in run("ask", "--private-cloud", "--node", "localhost", "--max-tokens", "2", "hi you").stderr


def test_doctor_shows_receipts_and_skewed_nodes(state: Path) -> None:
    def status(name: str) -> str:
        checks = json.loads(run("doctor", "--json").stdout)["checks"]
        return str(next(check["status"] for check in checks if check["name"] == name))

    assert (status("receipts"), status("nodes"), status("log")) == ("ok", "ok", "ok")
    book = ShareBook(state)
    book.open("pcc.example.com")
    book.counts = {"aa": NodeCount(due=100, answered=190), "bb": NodeCount(due=100, answered=10)}
    book.save()
    assert status("nodes") == "warn"


# --- which trust decides, and what is said to a newcomer --------------------------------------------


def test_a_trust_file_that_is_named_beats_a_key_from_the_environment(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round, a strict file would be judged no more, in silence."""
    run("trust", "add", node.address, "--key", node.key)
    file = Path(run("trust", "path").stdout.strip())
    other = NoteSigner.generate("localhost/directory").vkey
    monkeypatch.setenv("HYBRID_NODE_KEY", other)
    assert run("verify", node.address, "--trust", str(file)).exit_code == 0
    strict = tmp_path / "strict.toml"
    strict.write_text(file.read_text().replace("min_tier = 0", "min_tier = 1"))
    strict.chmod(0o600)
    assert "min_tier = 1" in strict.read_text()
    monkeypatch.setenv("HYBRID_NODE_KEY", node.key)
    assert run("verify", node.address, "--trust", str(strict)).exit_code == AttestationError.exit_code
    both = run("verify", node.address, "--trust", str(strict), "--node-key", node.key)
    assert both.exit_code == 2
    assert "only one can decide" in both.stderr


def test_a_key_of_the_usual_node_judges_no_other_node_that_is_known(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    run("trust", "add", node.address, "--key", node.key, "--name", "localhost")
    monkeypatch.setenv("HYBRID_NODE", "192.0.2.1:443")
    monkeypatch.setenv("HYBRID_NODE_KEY", NoteSigner.generate("elsewhere/directory").vkey)
    assert run("verify", node.address).exit_code == 0
    assert run("verify", "localhost").exit_code == 0
    assert run("ask", "--private-cloud", "--node", "localhost", "hello").exit_code == 0
    (kept,) = ReceiptStore(state).list()
    assert run("verify", str(kept.path)).exit_code == 0  # judged by the file that names its deployment


def test_a_node_that_answers_drop_by_drop_is_not_waited_for_for_ever(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr("hybrid.cli.verify.LOOK_S", 0.2)
    monkeypatch.setattr("hybrid.cloud.GrpcTransport.directory", never)
    result = run("verify", node.address, "--node-key", node.key)
    assert result.exit_code == APITimeoutError.exit_code
    assert "did not show its evidence in time" in result.stderr


def test_a_broken_file_of_counts_hides_no_check(node: FakeNode, state: Path) -> None:
    (state / "shares").mkdir(parents=True)
    (state / "shares" / "localhost.json").write_text("nonsense")
    result = run("verify", node.address, "--node-key", node.key)
    assert result.exit_code == 0
    assert "warning:" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "./none.receipt"), "there is no file ./none.receipt"),
        (("verify", "abcd1234"), "no receipt begins with abcd1234"),
        (("verify", "elsewhere"), "no HOST:PORT, no deployment you trust, and no receipt"),
        (("verify", "127.0.0.1:99999"), "malformed"),
        (("verify", "127.0.0.1:8443"), "hybrid trust add 127.0.0.1:8443 --key KEY"),
        (("verify", "127.0.0.1:1", "--trust", "/none"), "/none cannot be read: No such file or directory"),
        (("trust", "add", "./none"), "there is no file ./none"),
        (("trust", "add", "elsewhere", "--key", "x"), "neither HOST:PORT nor a file"),
        (("trust", "add", "127.0.0.1:8443"), "--key is needed"),
        (("trust", "rm", "elsewhere"), "there is no deployment elsewhere"),
    ],
)
def test_a_mistake_is_named_in_the_words_of_the_command_line(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.trust_file.default_trust_path", lambda: tmp_path / "trust.toml")
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    for sdk in ("Policy.pinned", "Errno", "Traceback", "trust="):
        assert sdk not in result.stderr


def test_trust_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_TRUST", str(tmp_path / "trust.toml"))
    key = NoteSigner.generate("localhost/directory").vkey
    assert "no deployment is trusted yet" in run("trust", "list").stderr
    assert "hybrid verify localhost" in run("trust", "add", "127.0.0.1:8443", "--key", key).stderr
    again = run("trust", "add", "127.0.0.1:9443", "--key", key)
    assert "in place of the one at 127.0.0.1:8443" in again.stderr
    assert run("trust", "list").stdout.endswith(f"directory signed by {'+'.join(key.split('+')[:2])}\n")
    assert "trusted no longer" in run("trust", "rm", "localhost").stderr
    bare = run("trust")
    assert bare.exit_code == 2
    assert bare.stderr.startswith("Usage: ")


def test_on_a_terminal_every_line_keeps_within_80_columns(node: FakeNode) -> None:
    facts = facts_of(run("verify", node.address, "--node-key", node.key, "--json"))
    other = NoteSigner.generate("localhost/directory").vkey
    failed = facts_of(run("verify", node.address, "--node-key", other, "--json"))
    for each in (facts, failed):
        plain = block(each, Screen(tty=True, width=80))
        assert max(map(len, plain.splitlines())) <= 80
        assert "\x1b" not in plain
        coloured = block(each, Screen(tty=True, width=80, colour=True))
        assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == plain
        wide = block(each, Screen())
        assert wide.split() == plain.split()  # a pipe gets whole lines, of the same words
    assert len(plain.splitlines()) > len(wide.splitlines())
