"""``pcc-server audit`` against real nodes on this machine, and the audit a node runs of itself at its start."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from pcc_server.audit.darwin import rows as rows_of_a_mac
from pcc_server.audit.report import FAILED, FORMAT, Report, Row, State, Unseen
from pcc_server.audit.stranger import reach
from pcc_server.cli import main
from tests.pcc_server.leaks import leaky_interpreter
from tests.pcc_server.node_client import COMMAND, Node, until
from tests.pcc_server.sandboxes import NOBODY, as_user, command_as, need_root
from tests.pcc_server.test_admin import call

pytestmark = pytest.mark.linux

# What is of this machine and of no node: red or not proven where the machine is not as it should be, and rightly so.
OF_THE_MACHINE = {"swap", "hibernation", "crash_kernel", "yama", "clock", "mounts", "shell"}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "failures", "node", "rows"],
    "properties": {
        "format": {"const": FORMAT},
        "failures": {"type": "integer", "minimum": 0},
        "node": {"type": "object", "required": ["pids", "engine", "attester"]},
        "rows": {
            "type": "array",
            "minItems": 20,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "state", "want", "got", "consequence"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z_]+(\\.[a-z_]+)?$"},
                    "state": {"enum": [state.value for state in State]},
                    **{text: {"type": "string", "minLength": 1} for text in ("want", "got", "consequence")},
                },
            },
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    need_root()


def audit(*options: str, command: tuple[str, ...] = COMMAND) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([*command, "audit", "--json", *options], capture_output=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def red(report: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["got"] for row in report["rows"] if State(row["state"]) in FAILED}


# --- a node as it should be --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Iterator[tuple[int, dict[str, Any]]]:
    with Node("--admin", "127.0.0.1:0") as node:
        yield audit("--pid", str(node.launcher))


def test_all_that_is_of_the_node_is_green(found: tuple[int, dict[str, Any]]) -> None:
    code, report = found
    assert red(report).keys() <= OF_THE_MACHINE
    assert code == (1 if red(report) else 0)
    assert report["failures"] == len(red(report))


def test_what_is_red_of_this_machine_is_so(found: tuple[int, dict[str, Any]]) -> None:
    """Nothing is excused: a row of the machine is green if and only if the machine is as it should be."""
    failed = red(found[1])
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    assert ("yama" in failed) == (not scope.exists() or scope.read_text().strip() == "0")
    swapping = len(Path("/proc/swaps").read_text().splitlines()) > 1
    assert ("swap" in failed) == swapping


def test_the_json_keeps_its_schema_and_rows_their_names(found: tuple[int, dict[str, Any]]) -> None:
    jsonschema.validate(found[1], SCHEMA)
    names = [row["name"] for row in found[1]["rows"]]
    assert len(names) == len(set(names))
    assert {"threads.worker", "dumpable", "escapes.worker", "config_digest", "limit.operator", "weights"} <= set(names)


def test_full_root_can_read_the_worker_and_the_audit_says_so(found: tuple[int, dict[str, Any]]) -> None:
    row = next(row for row in found[1]["rows"] if row["name"] == "limit.operator")
    assert row["state"] == "limit"
    assert row["got"] == "tier 0 software; this user has just opened the worker's memory"


@pytest.mark.soak
@pytest.mark.model
def test_a_node_with_a_model_attests_the_weights_that_lie_on_the_disk() -> None:
    with Node("--model", "starter", engine="mlx") as node:
        report = audit("--pid", str(node.pid("worker")))[1]
    row = next(row for row in report["rows"] if row["name"] == "weights")
    assert row["state"] == "ok"
    assert red(report).keys() <= OF_THE_MACHINE


# --- a node as it should not be ------------------------------------------------------------------------


def test_control_a_node_without_its_sandbox_is_red(tmp_path: Path) -> None:
    with Node(command=leaky_interpreter(tmp_path, f"hold:{tmp_path / 'held'}", scrubbing=False)) as node:
        code, report = audit("--pid", str(node.launcher))
    assert code == 1
    wanted = {"threads.launcher", "threads.worker", "capabilities", "core_limit", "environment.worker", "descriptors"}
    assert wanted <= red(report).keys()
    assert str(tmp_path / "held") in red(report)["descriptors"]


def test_control_an_open_process_of_another_user_is_opened_by_a_program_of_that_user() -> None:
    plain = subprocess.Popen(as_user(NOBODY, "sleep", "60"))
    try:
        until(lambda: Path(f"/proc/{plain.pid}/comm").read_text() == "sleep\n")
        found = reach(NOBODY, NOBODY, [plain.pid])
    finally:
        plain.kill()
        plain.wait()
    assert (found.control, found.denied) == (True, {plain.pid: False})


def test_without_a_node_nothing_about_it_is_proven() -> None:
    code, report = audit("--pid", str(os.getpid()))
    assert code == 1
    assert {"node", "threads.worker", "dumpable", "listeners", "config_digest"} <= red(report).keys()
    assert "escapes.worker" not in red(report)  # the sandbox itself can be tried without one


def test_whoever_is_not_root_is_told_what_is_not_proven_and_what_to_do() -> None:
    """The node is root's: its memory, environment and descriptors are closed to others, which is right."""
    with Node() as node:
        code, report = audit("--pid", str(node.launcher), command=as_user(NOBODY, *COMMAND))
    assert code == 1
    unproven = {row["name"]: row["got"] for row in report["rows"] if row["state"] == "not_proven"}
    wanted = {"dumpable", "environment.launcher", "environment.worker", "descriptors", "listeners"}
    assert wanted <= unproven.keys()
    assert all("run the audit as root" in unproven[name] for name in wanted)
    assert not {"threads.worker", "capabilities", "core_limit"} & red(report).keys()  # anybody may see those


@pytest.mark.parametrize(
    ("options", "code"), [(("--config", "/nowhere.toml"), 2), (("--pid", "nobody"), 2), (("--help",), 0)]
)
def test_a_bad_option_is_no_audit(options: tuple[str, ...], code: int) -> None:
    assert CliRunner().invoke(main, ["audit", *options]).exit_code == code


def row(state: State, name: str = "swap") -> Row:
    return Row(name=name, state=state, want="none", got="some", consequence="pages can be written")


@pytest.mark.parametrize(("state", "code"), [(state, 1 if state in FAILED else 0) for state in State])
def test_the_exit_code_is_of_what_failed(monkeypatch: pytest.MonkeyPatch, state: State, code: int) -> None:
    report = Report(rows=(row(state),), node={})
    monkeypatch.setattr("pcc_server.audit.run.audit", lambda **_: report)
    done = CliRunner().invoke(main, ["audit"])
    assert done.exit_code == code
    assert ("pages can be written" in done.output) == (state in FAILED or state is State.LIMIT)


# --- the audit at a start ------------------------------------------------------------------------------


AUDITED = ("env", "PCC_TRUST_REQUIRE_AUDIT=true")


def without_machine(names: set[str]) -> tuple[str, ...]:
    """Words that start a node which takes no notice of rows of this machine: it is what it is."""
    code = (
        "from pcc_server.audit.inside import Inside; whole = Inside.report; "
        f"names = {sorted(names)!r}; "
        "Inside.report = lambda self: None if (red := whole(self)) is None else "
        "[row for row in red if row.partition(' ')[0] not in names]; "
        "from pcc_server.cli import main; main()"
    )
    return (sys.executable, "-P", "-c", code)


@pytest.mark.parametrize("user", [0, NOBODY])
def test_a_node_that_requires_it_is_ready_after_a_green_audit(user: int) -> None:
    """Also as a user who may read nothing of his own node: the processes say it themselves."""
    command = (*AUDITED, *without_machine(OF_THE_MACHINE))
    with Node("--admin", "127.0.0.1:0", command=as_user(user, *command) if user else command) as node:
        assert b"pcc_audit_failures 0.0" in call(node, "GET", "/metrics")[1]
        assert node.stop() == 0


def test_a_red_audit_ends_the_start_with_5_and_says_what_is_red() -> None:
    command = (*AUDITED, "LD_LIBRARY_PATH=/nowhere", *without_machine(OF_THE_MACHINE))
    node = Node(command=command, wait=False)
    assert node.process.wait(60) == 5
    node.stop()
    assert "trust.require_audit is set and the audit is red" in node.words()
    assert "environment.launcher (LD_LIBRARY_PATH: start it without)" in node.words()
    assert not any('"ready"' in line for line in node.stdout)


def test_an_audit_that_dies_is_red() -> None:
    code = (
        "from pcc_server.audit.inside import Inside; "
        "Inside.ask = lambda self, **_: self._process.stdin.close(); "
        "from pcc_server.cli import main; main()"
    )
    node = Node(command=(*AUDITED, sys.executable, "-P", "-c", code), wait=False)
    assert node.process.wait(60) == 5
    node.stop()
    assert "the audit did not come to an end" in node.words()


# --- a Mac -----------------------------------------------------------------------------------------------


def test_a_mac_is_asked_what_it_tells_and_its_processes_are_not_proven() -> None:
    said = {"fdesetup": "FileVault is On.", "sysctl": "total = 0 (encrypted)", "csrutil": "status: enabled."}

    def ask(command: str) -> str:
        return next(words for name, words in said.items() if name in command)

    states = {row.name: row.state for row in rows_of_a_mac(ask)}
    assert states.pop("processes") is State.NOT_PROVEN
    assert set(states.values()) == {State.OK}
    said["fdesetup"] = "FileVault is Off."
    assert {row.name: row.state for row in rows_of_a_mac(ask)}["filevault"] is State.RED


def test_a_command_that_gives_no_answer_is_not_proven() -> None:
    def ask(command: str) -> str:
        raise Unseen(f"{command} gives no answer")

    assert {row.state for row in rows_of_a_mac(ask)} == {State.NOT_PROVEN}


def test_a_node_of_an_unprivileged_user_is_audited_by_root() -> None:
    with Node(command=command_as(NOBODY)) as node:
        report = audit("--pid", str(node.pid("worker")))[1]
    assert red(report).keys() <= OF_THE_MACHINE
