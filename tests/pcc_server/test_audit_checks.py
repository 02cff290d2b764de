"""Each check of the audit on trees of files: green as they should be, and red with the one thing broken (S4)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pcc_server.audit import host, limit, processes, served
from pcc_server.audit.escapes import escapes, protections
from pcc_server.audit.machine import Machine
from pcc_server.audit.node import Node, Told
from pcc_server.audit.processes import Reach
from pcc_server.audit.report import FAILED, Found, Row, State, Unseen
from pcc_server.config import Settings, config_digest
from pcc_server.errors import StartFailure
from pcc_server.events import Program
from pcc_server.harden.probe import PROBES
from tests.pcc_server.audit_tree import CLOSED, GATEWAY, IMAGE_ROOT, LAUNCHER, LISTENS, PORT, WORKER, Tree

pytestmark = pytest.mark.linux

SWAP_ON = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2\tpartition\t8388604\t0\t-2\n"


def rows(node: Node, reach: Reach = CLOSED, *, synchronised: bool | None = True) -> dict[str, Row]:
    found = (*processes.rows(node, reach), *host.rows(node, lambda: synchronised))
    return {row.name: row for row in found}


def red(node: Node, **more: object) -> dict[str, State]:
    return {name: row.state for name, row in rows(node, **more).items() if row.state in FAILED}  # type: ignore[arg-type]


def test_a_machine_as_it_should_be_is_green(tmp_path: Path) -> None:
    assert red(Tree(tmp_path).node()) == {}


# --- one thing broken ----------------------------------------------------------------------------------


def swap_on(tree: Tree) -> None:
    tree.write("proc/swaps", SWAP_ON)


def swapped(tree: Tree) -> None:
    tree.change(f"proc/{WORKER}/status", "0 kB", "8 kB")


def hibernates(tree: Tree) -> None:
    swap_on(tree)
    tree.write("sys/power/state", "freeze mem disk\n")
    tree.write("sys/power/disk", "[platform] shutdown\n")
    tree.write("sys/fs/cgroup/system.slice/pcc.service/memory.swap.max", "0\n")


def image_root(tree: Tree, options: str) -> None:
    for pid in (LAUNCHER, GATEWAY, WORKER):
        tree.write(f"proc/{pid}/mountinfo", IMAGE_ROOT.replace("ro,relatime", options))


def with_shell(tree: Tree) -> None:
    image_root(tree, "ro,relatime")
    tree.write(f"proc/{WORKER}/root/bin/sh", "")


BROKEN: dict[str, tuple[str, Callable[[Tree], None]]] = {
    "swap on": ("swap", swap_on),
    "pages of the worker swapped": ("swap", swapped),
    "hibernation into swap": ("hibernation", hibernates),
    "a crash kernel": ("crash_kernel", lambda tree: tree.write("sys/kernel/kexec_crash_loaded", "1\n")),
    "a kernel without Yama": ("yama", lambda tree: tree.remove("proc/sys/kernel/yama/ptrace_scope")),
    "Yama off": ("yama", lambda tree: tree.write("proc/sys/kernel/yama/ptrace_scope", "0\n")),
    "a writable image": ("mounts", lambda tree: image_root(tree, "rw,relatime")),
    "a shell in an image": ("shell", with_shell),
    "a thread without filter": (
        "threads.worker",
        lambda tree: tree.change(f"proc/{WORKER}/task/{WORKER + 1000}/status", "Seccomp:\t2", "Seccomp:\t0"),
    ),
    "a thread that may gain": (
        "threads.gateway",
        lambda tree: tree.change(f"proc/{GATEWAY}/task/{GATEWAY}/status", "NoNewPrivs:\t1", "NoNewPrivs:\t0"),
    ),
    "a launcher without filter": (
        "threads.launcher",
        lambda tree: tree.change(f"proc/{LAUNCHER}/task/{LAUNCHER}/status", "Seccomp:\t2", "Seccomp:\t0"),
    ),
    "a capability": (
        "capabilities",
        lambda tree: tree.change(f"proc/{GATEWAY}/task/{GATEWAY}/status", "CapEff:\t0", "CapEff:\t8"),
    ),
    "a core limit": (
        "core_limit",
        lambda tree: tree.change(f"proc/{WORKER}/limits", "0                    0   ", "0            unlimited   "),
    ),
    "LD_PRELOAD": (
        "environment.launcher",
        lambda tree: tree.write(f"proc/{LAUNCHER}/environ", "LD_PRELOAD=/tmp/x.so\0"),
    ),
    "an allocator that keeps": (
        "environment.worker",
        lambda tree: tree.change(f"proc/{WORKER}/environ", "tcache_count=0", "tcache_count=7"),
    ),
    "a variable of somebody": (
        "environment.gateway",
        lambda tree: tree.change(f"proc/{GATEWAY}/environ", "LC_ALL", "GRPC_TRACE=all\0LC_ALL"),
    ),
    "a log file": ("descriptors", lambda tree: tree.open(WORKER, 9, "/var/log/prompts", "0102001")),
    "a file in memory": ("descriptors", lambda tree: tree.open(GATEWAY, 9, "/memfd:kept (deleted)", "02")),
    "a second port": (
        "listeners",
        lambda tree: tree.change(f"proc/{GATEWAY}/net/tcp", LISTENS, LISTENS + LISTENS.replace("20FB", "20FC")),
    ),
    "a worker that listens": ("listeners", lambda tree: tree.open(WORKER, 9, "socket:[4242]", "02")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_thing_turns_its_check_red_and_no_other(tmp_path: Path, what: str) -> None:
    name, breaks = BROKEN[what]
    tree = Tree(tmp_path)
    breaks(tree)
    assert red(tree.node()) == {name: State.RED}


def test_an_image_as_it_should_be_is_green(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    image_root(tree, "ro,relatime")
    found = rows(tree.node())
    assert (found["mounts"].state, found["shell"].state) == (State.OK, State.OK)


def test_outside_an_image_a_shell_is_no_fault(tmp_path: Path) -> None:
    found = rows(Tree(tmp_path).node())
    assert (found["mounts"].state, found["shell"].state) == (State.NOT_APPLICABLE, State.NOT_APPLICABLE)


@pytest.mark.parametrize("group", ["system.slice/pcc.service", "system.slice"])
def test_swap_that_is_closed_to_the_node_is_green(tmp_path: Path, group: str) -> None:
    tree = Tree(tmp_path)
    swap_on(tree)
    tree.write(f"sys/fs/cgroup/{group}/memory.swap.max", "0\n")
    assert red(tree.node()) == {}


def test_memory_that_another_program_opens_is_red_and_so_is_a_core_pattern_that_counts_on_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n")
    assert red(tree.node()) == {}
    opened = Reach(control=True, denied={LAUNCHER: True, GATEWAY: True, WORKER: False})
    assert red(tree.node(), reach=opened) == {"dumpable": State.RED, "core_pattern": State.RED}


def test_a_trial_that_could_not_read_an_open_process_proves_nothing(tmp_path: Path) -> None:
    blind = Reach(control=False, denied=CLOSED.denied)
    assert red(Tree(tmp_path).node(), reach=blind) == {"dumpable": State.NOT_PROVEN}


@pytest.mark.parametrize("state", [False, None])
def test_a_clock_that_nobody_keeps_is_not_proven(tmp_path: Path, state: bool | None) -> None:
    assert red(Tree(tmp_path).node(), synchronised=state) == {"clock": State.NOT_PROVEN}


def test_lockdown_matters_where_evidence_says_what_was_booted(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    node = tree.node()
    assert rows(node)["lockdown"].state is State.NOT_APPLICABLE
    attested = Node(machine=node.machine, settings=Settings(attester="tpm2", release="r", log="l"), pids=node.pids)
    assert host.lockdown(attested).held
    tree.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
    assert host.lockdown(attested).held is False


# --- what cannot be read ---------------------------------------------------------------------------------


class HiddenMachine(Machine):
    """One whose processes' own folders are closed, as they are to whoever is not root."""

    def data(self, path: str) -> bytes | None:
        return super().data(_allowed(path))

    def names(self, path: str) -> list[str]:
        return super().names(_allowed(path))

    def link(self, path: str) -> str:
        return super().link(_allowed(path))


def _allowed(path: str) -> str:
    if path.endswith(("/environ", "/fd")) or "/fd/" in path:
        raise Unseen(f"/{path} may not be read by this user: run the audit as root")
    return path


class Hidden(Tree):
    """Such a machine's files."""

    def node(self, **named: str) -> Node:
        return replace(super().node(**named), machine=HiddenMachine(self.root), environ=None)


UNREADABLE = {"environment.launcher", "environment.gateway", "environment.worker", "descriptors", "listeners"}


def test_what_a_user_may_not_read_is_not_proven_and_says_what_to_do(tmp_path: Path) -> None:
    found = rows(Hidden(tmp_path).node())
    assert {name for name, row in found.items() if row.state is State.NOT_PROVEN} == UNREADABLE
    assert all("as root" in found[name].got for name in UNREADABLE)


def told(**changed: object) -> dict[Program, Told]:
    own = {"held": ("scrub",), "missing": {}, "writable_files": 0, "listening": (), **changed}
    inside = dict.fromkeys((Program.LAUNCHER, Program.WORKER), Told(**own))  # type: ignore[arg-type]
    return {**inside, Program.GATEWAY: Told(**{**own, "listening": (f"127.0.0.1:{PORT}",)})}  # type: ignore[arg-type]


def inside(tree: Tree, says: dict[Program, Told]) -> Node:
    return replace(tree.node(), environ={}, told=says)


def test_the_launcher_s_audit_takes_it_from_the_processes_own_words(tmp_path: Path) -> None:
    assert red(inside(Hidden(tmp_path), told())) == {}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"held": ()}, "environment.worker"),
        ({"writable_files": 1}, "descriptors"),
        ({"listening": ("127.0.0.1:1",)}, "listeners"),
    ],
)
def test_what_they_admit_is_red(tmp_path: Path, changed: dict[str, object], name: str) -> None:
    assert red(inside(Hidden(tmp_path), told(**changed)))[name] is State.RED


def test_without_a_node_every_look_at_processes_is_not_proven(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for pid in (GATEWAY, WORKER):
        tree.remove(f"proc/{pid}/cmdline")
    found = rows(tree.node())
    assert found["threads.worker"].state is State.NOT_PROVEN
    assert "no node runs here" in found["threads.worker"].got
    assert found["swap"].state is State.OK


# --- finding the node ------------------------------------------------------------------------------------


def test_settings_come_from_command_line_file_and_environment(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[limits]\nmax_new = 77\n")
    tree = Tree(tmp_path, "--config", "node.toml", "--batch", "3")
    tree.write(f"proc/{LAUNCHER}/environ", "PCC_LIMITS_CHUNK=64\0")
    settings = tree.node().settings
    assert (settings.max_new, settings.batch, settings.chunk, settings.engine) == (77, 3, 64, "fake")


def test_one_of_several_nodes_is_named_by_process_or_by_admin_port(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "--admin", "127.0.0.1:9090")
    for old, new, parent in ((LAUNCHER, 200, 1), (GATEWAY, 201, 200), (WORKER, 202, 200)):
        (tmp_path / f"proc/{new}").mkdir()
        for name in ("cmdline", "environ"):
            (tmp_path / f"proc/{new}/{name}").write_bytes((tmp_path / f"proc/{old}/{name}").read_bytes())
        tree.write(f"proc/{new}/status", f"PPid:\t{parent}\n")
    tree.change("proc/200/cmdline", "9090", "9091")
    with pytest.raises(StartFailure, match="say which with --pid, one of 100, 200"):
        tree.node()
    assert tree.node(pid=202).pids[Program.LAUNCHER] == 200  # type: ignore[arg-type]
    assert tree.node(admin="127.0.0.1:9091").pids[Program.LAUNCHER] == 200


# --- what it serves, and how it is closed ----------------------------------------------------------------


class Statement:
    """As much of one as the checks read."""

    def __init__(self, digest: bytes) -> None:
        self.config_digest = digest


def test_a_node_that_attests_another_configuration_is_red(tmp_path: Path) -> None:
    node = Tree(tmp_path).node()
    right, other = config_digest(node.settings), bytes(32)
    assert served.configuration(node, lambda: Statement(right)).held  # type: ignore[arg-type, return-value]
    assert served.configuration(node, lambda: Statement(other)).held is False  # type: ignore[arg-type, return-value]


def test_a_test_switch_is_red(tmp_path: Path) -> None:
    found = {row.name: row for row in served.rows(Tree(tmp_path, "--fault", "replay").node())}
    assert found["test_switches"].state is State.RED
    assert found["engine"].state is State.NOT_APPLICABLE


def trials(*, before: str = "", closed: str = "EPERM") -> dict[str, dict[str, object]]:
    stage = {"held": ["seccomp"], "missing": {}}
    return {
        "open worker": {"main": dict.fromkeys(PROBES, "") | {"mount": before}},
        "closed worker": {
            "main": dict.fromkeys(PROBES, "EPERM"),
            "thread": dict.fromkeys(PROBES, "EPERM") | {"mount": closed},
            "protection": {"first": stage, "second": stage},
        },
    }


def escape(**changed: str) -> Found:
    return escapes(trials(**changed), Program.WORKER, confined=False)


def test_an_act_that_succeeds_on_any_thread_is_red() -> None:
    assert escape().held
    found = escape(closed="")
    assert found.held is False
    assert "mount" in found.got


def test_an_act_that_fails_without_the_sandbox_too_proves_nothing() -> None:
    with pytest.raises(Unseen, match="mount"):
        escape(before="EPERM")
    assert escape(before="ENOSYS").held  # this kernel has no such call: nobody can make it
    confined = escapes(trials(before="EPERM"), Program.WORKER, confined=True)
    assert confined.held
    assert "denied to this user anyway: mount" in confined.got


def test_a_missing_protection_is_red_but_not_one_that_kernels_may_lack() -> None:
    told = trials()
    stage = {"held": [], "missing": {"landlock": "switched off"}}
    told["closed worker"]["protection"] = {"first": stage}
    assert protections(told, Program.WORKER).held is False
    told["closed worker"]["protection"] = {"first": {"held": [], "missing": {"scopes": "older kernel"}}}
    assert protections(told, Program.WORKER).held


def test_the_limit_stands_in_every_report_in_the_words_of_the_design(tmp_path: Path) -> None:
    row = limit.row(Tree(tmp_path).node())
    assert row.state is State.LIMIT
    assert "On a plain host the operator can always read live requests; hardening raises cost" in row.consequence
    assert "Only a confidential VM (tier 2 up) changes whom one must trust" in row.consequence
    assert "tier 0" in row.got
