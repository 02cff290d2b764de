"""The parts of the sandbox: tables against the kernel's headers, the filter step by step, reading, refusals."""

import errno
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pcc_server import config, harden
from pcc_server.config import Settings
from pcc_server.environment import environment
from pcc_server.events import Program
from pcc_server.harden import seccomp
from pcc_server.harden.landlock import READ, Right, Rules
from pcc_server.harden.reads import rules_for
from pcc_server.harden.syscalls import AARCH64, NEWEST, X86_64, Table
from tests.pcc_server.node_client import Client, Node
from tests.pcc_server.sandboxes import need_root, told, with_children

pytestmark = pytest.mark.linux

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
TABLES = {"x86_64": X86_64, "aarch64": AARCH64}
TESTED = {program: (*seccomp.RULES[program], *seccomp.signals_of(77)) for program in (Program.GATEWAY, Program.WORKER)}
ALLOW, KILL = "allow", "kill"


# --- tables ----------------------------------------------------------------------------------------


def numbers(header: Path) -> dict[str, int]:
    assert header.exists(), f"{header} is missing: install Debian's linux-libc-dev"
    found = dict(re.findall(r"^#define (?:__NR_|__NR3264_)(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE))
    return {name: int(number) for name, number in found.items()}


@pytest.mark.parametrize("machine", TABLES)
def test_the_numbers_are_those_of_the_kernel_s_headers(machine: str) -> None:
    known = numbers(HEADERS[machine])
    ours = TABLES[machine].numbers
    compared = {name: number for name, number in ours.items() if name in known}
    assert len(compared) > 115
    assert compared == {name: known[name] for name in compared}
    newer = set(ours) - set(compared)  # than these headers: the numbers are the same on every architecture from 424 on
    assert all(max(known.values()) < ours[name] <= NEWEST for name in newer), newer


def test_both_tables_agree_where_numbers_are_common() -> None:
    common = {name for name, number in X86_64.numbers.items() if number >= 424}
    assert len(common) > 20
    assert {name: X86_64[name] for name in common} == {name: AARCH64[name] for name in common}


def test_every_rule_names_a_call_and_aarch64_lacks_only_the_old_forms() -> None:
    named = {rule.name for rules in TESTED.values() for rule in rules}
    assert named <= set(X86_64.numbers)
    assert named - set(AARCH64.numbers) == OLD_FORMS


AT = "rename unlink mkdir link symlink mknod chmod chown open"  # aarch64 has only the forms that take a folder
OLD_FORMS = set(f"{AT} creat rmdir lchown utime utimes futimesat fork vfork inotify_init iopl ioperm".split())
OLD_FORMS |= {"modify_ldt", "uselib"}


# --- the filter, run step by step ------------------------------------------------------------------


def verdict(bpf: bytes, number: int, *words: int, audit: int) -> str | int:
    """Run a BPF program over one call; returns ALLOW, KILL or the error number."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *(word % 2**64 for word in (*words, 0, 0, 0, 0, 0, 0)[:6]))
    steps = list(struct.iter_unpack("=HBBI", bpf))
    at = loaded = 0
    while True:
        operation, true, false, operand = steps[at]
        at += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(operand, operand & 0xFFFF)
        else:
            holds = {0x15: loaded == operand, 0x45: bool(loaded & operand), 0x25: loaded > operand}
            at += true if {**holds, 0x35: loaded >= operand}[operation] else false


def judged(program: Program, table: Table, name: str, *words: int) -> str | int:
    return verdict(seccomp.program(TESTED[program], table), table[name], *words, audit=table.audit)


@pytest.mark.parametrize("machine", TABLES)
@pytest.mark.parametrize("program", TESTED)
def test_the_filter_refuses_what_its_rules_name(machine: str, program: Program) -> None:
    table = TABLES[machine]
    always = [rule for rule in TESTED[program] if not rule.tests and rule.name in table.numbers]
    assert len(always) > 90
    for rule in always:
        assert judged(program, table, rule.name, 1, 2, 3) == rule.error, rule.name


@pytest.mark.parametrize("machine", TABLES)
@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("openat", (-100, 1, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY), ALLOW),
        *[("openat", (-100, 1, flag), errno.EROFS) for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC)],
        ("openat", (-100, 1, os.O_RDWR | os.O_TMPFILE), errno.EROFS),
        ("openat", (-100, 1, os.O_APPEND), errno.EROFS),
        ("openat2", (), errno.ENOSYS),
        ("clone", (0x3D0F00,), ALLOW),  # what glibc makes a thread with
        ("clone", (signal.SIGCHLD,), errno.EPERM),
        ("clone", (0x3D0F00 | 0x10000000,), errno.EPERM),  # a thread in a user namespace of its own
        ("clone3", (), errno.ENOSYS),
        ("prctl", (15, 1), ALLOW),  # a thread's name
        ("prctl", (4, 0), ALLOW),
        ("prctl", (4, 1), errno.EPERM),
        ("prctl", (4, 1 << 32), errno.EPERM),
        ("prctl", (0x59616D61, 1), errno.EPERM),
        ("prctl", (1, 9), errno.EPERM),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1), errno.EPERM),
        ("prlimit64", (0, 7, 1 << 40), errno.EPERM),
        ("kill", (77, 9), ALLOW),
        ("kill", (78, 9), errno.EPERM),
        ("kill", (-1, 9), errno.EPERM),
        ("tgkill", (77, 80, 6), ALLOW),
        ("tgkill", (1, 1, 6), errno.EPERM),
        ("sendto", (3, 1, 1, socket.MSG_NOSIGNAL), ALLOW),
        ("sendto", (3, 1, 1, socket.MSG_FASTOPEN | socket.MSG_NOSIGNAL), errno.EPERM),
        ("sendmsg", (3, 1, socket.MSG_NOSIGNAL), ALLOW),
        ("sendmsg", (3, 1, socket.MSG_FASTOPEN), errno.EPERM),
        ("sendmmsg", (3, 1, 1, socket.MSG_FASTOPEN), errno.EPERM),
    ],
)
def test_the_filter_looks_at_arguments(machine: str, name: str, words: Sequence[int], expected: str | int) -> None:
    for program in TESTED:
        assert judged(program, TABLES[machine], name, *words) == expected


@pytest.mark.parametrize("machine", TABLES)
def test_only_the_gateway_accepts(machine: str) -> None:
    for name in ("accept", "accept4"):
        assert judged(Program.GATEWAY, TABLES[machine], name, 3) == ALLOW
        assert judged(Program.WORKER, TABLES[machine], name, 3) == errno.EPERM


@pytest.mark.parametrize("machine", TABLES)
def test_other_doors_kill_and_newer_calls_do_not_exist(machine: str) -> None:
    table, other = TABLES[machine], TABLES[next(name for name in TABLES if name != machine)]
    bpf = seccomp.program(TESTED[Program.WORKER], table)
    read = {"x86_64": 0, "aarch64": 63}[machine]
    assert verdict(bpf, read, audit=table.audit) == ALLOW
    assert verdict(bpf, read, audit=other.audit) == KILL
    assert verdict(bpf, read, audit=0x40000003) == KILL  # i386
    assert verdict(bpf, NEWEST, audit=table.audit) in (ALLOW, errno.EPERM)
    assert verdict(bpf, NEWEST + 1, audit=table.audit) == errno.ENOSYS
    assert verdict(bpf, 0x40000000, audit=table.audit) == (KILL if table.x32 else errno.ENOSYS)


def test_the_launcher_may_start_programs_and_dial_and_little_else() -> None:
    bpf = seccomp.program(seccomp.RULES[Program.LAUNCHER], X86_64)
    for name in ("execve", "vfork", "socket", "connect", "kill", "seccomp"):
        assert verdict(bpf, X86_64[name], 1, 1, audit=X86_64.audit) == ALLOW
    for name in ("ptrace", "process_vm_readv", "mount", "bpf", "unshare", "io_uring_setup", "keyctl"):
        assert verdict(bpf, X86_64[name], 1, 1, audit=X86_64.audit) == errno.EPERM


# --- what may be read ------------------------------------------------------------------------------


def allowed(program: Program, **fields: object) -> Rules:
    return rules_for(program, Settings(engine="fake", **fields))  # type: ignore[arg-type]


def below(rules: Rules, path: str) -> bool:
    """Whether a path may be read as a file."""
    roots = [Path(root).resolve() for root, right in rules.paths if right & Right.READ_FILE]
    return any(Path(path).resolve().is_relative_to(root) for root in roots)


SECRETS = (
    "/etc/shadow",
    "/etc/passwd",
    "/root/.ssh/id",
    "/home/a/x",
    "/proc/1/environ",
    "/var/lib/x",
    "/dev/mem",
)


@pytest.mark.parametrize("program", [Program.GATEWAY, Program.WORKER])
def test_a_child_reads_its_libraries_and_no_secret_of_the_machine(program: Program) -> None:
    rules = allowed(program)
    assert below(rules, os.__file__)
    assert below(rules, harden.__file__)
    assert below(rules, "/proc/cpuinfo")
    assert not [path for path in (*SECRETS, str(Path.cwd() / ".git/config")) if below(rules, path)]
    assert not any(right & ~(READ | Right.EXECUTE) for _, right in rules.paths)  # nothing may be written
    assert not any(right & Right.EXECUTE for _, right in rules.paths)


def test_each_child_reads_its_own_files_alone(tmp_path: Path) -> None:
    certificate, key, store = (str(tmp_path / name) for name in ("tls/cert.pem", "tls/key.pem", "store"))
    fields = {"tls_cert": certificate, "tls_key": key, "store": store}
    (tmp_path / "tls").mkdir()
    gateway, worker = allowed(Program.GATEWAY, **fields), allowed(Program.WORKER, **fields)
    assert below(gateway, key)
    assert not below(worker, key)
    assert below(worker, f"{store}/model/weights")
    assert not below(gateway, f"{store}/model/weights")
    launcher = allowed(Program.LAUNCHER, **fields)
    assert below(launcher, key)
    assert below(launcher, store)


def test_a_file_beside_secrets_is_allowed_alone() -> None:
    rules = allowed(Program.GATEWAY, tls_cert="/etc/cert.pem", tls_key="/etc/key.pem")
    assert below(rules, "/etc/key.pem")
    assert not below(rules, "/etc/shadow")


def test_ports_are_those_of_the_settings() -> None:
    named = {"listen": "127.0.0.1:8443", "admin": "127.0.0.1:9090"}
    assert allowed(Program.GATEWAY, **named).bind == (0, 8443, 9090)
    assert allowed(Program.GATEWAY, **named).connect == ()
    assert allowed(Program.WORKER, **named).bind == ()
    assert allowed(Program.LAUNCHER, **named).bind == (0, 8443, 9090)
    assert allowed(Program.LAUNCHER, listen="127.0.0.1:0").bind is None
    engine = Settings(engine="openai", engine_port=8000, engine_kind="vllm")
    assert rules_for(Program.LAUNCHER, engine).connect == (8000,)
    assert rules_for(Program.WORKER, engine).connect == ()


def test_only_the_launcher_executes_and_nothing_but_our_interpreter() -> None:
    rules = allowed(Program.LAUNCHER)
    executed = {Path(path).name for path, right in rules.paths if right & Right.EXECUTE}
    interpreter = {Path(sys.executable).name, Path(sys.executable).resolve().name}
    assert interpreter <= executed
    assert all(name.startswith("ld-") for name in executed - interpreter)  # loaders: the kernel runs one with it


def test_the_launcher_executes_nothing_else_in_truth() -> None:
    code = (
        "import subprocess, sys\nfrom pcc_server import harden\nfrom pcc_server.config import Settings\n"
        "from pcc_server.events import Program\n"
        "run = lambda *words: subprocess.run(words).returncode\n"
        "assert run('/bin/true') == 0\n"  # the control
        "harden.stage1(Program.LAUNCHER, Settings(engine='fake'))\n"
        "assert run(sys.executable, '-c', '') == 0\n"
        "try:\n    run('/bin/true')\nexcept PermissionError:\n    print('denied')\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "denied\n"


def test_a_port_for_which_rights_must_be_kept_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("1024\n")  # what a machine says where nobody has changed it
    here = "import pathlib; from pcc_server.harden import linux; "
    here += f"linux._FIRST_FREE_PORT = pathlib.Path({str(tmp_path)!r}, 'first')"
    node = Node("--listen", "127.0.0.1:443", command=with_children("", launcher=here), wait=False)
    assert node.process.wait(30) == 2
    node.stop()
    assert "sysctl net.ipv4.ip_unprivileged_port_start=443" in node.words()


# --- what a machine does not have ------------------------------------------------------------------


@pytest.mark.parametrize("program", ["gateway", "worker"])
def test_what_is_required_and_missing_is_named_and_refused(program: str) -> None:
    failed = told(program, "starved:require")
    assert failed["exit_code"] == 4
    assert "landlock (the kernel has no Landlock" in failed["message"]
    taken = told(program, "starved:available")
    assert set(taken["missing"]) == {"landlock", "ports", "scopes"}
    assert {"no_core", "not_dumpable", "no_new_privileges", "no_capabilities", "scrub"} <= set(taken["held"])


NO_LANDLOCK = "from pcc_server.harden import landlock\nlandlock.abi = lambda: 0"


def test_a_node_refuses_to_start_without_what_it_must_enforce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCC_NODE_PROTECT", "require")
    node = Node(command=with_children(NO_LANDLOCK), wait=False)
    assert node.process.wait(30) == 4
    node.stop()
    assert "as node.protect requires: landlock (the kernel has no Landlock" in node.words()


def test_a_node_on_loopback_goes_on_without_it_and_says_so_once() -> None:
    with Node(command=with_children(NO_LANDLOCK)) as node, Client(node) as client:
        assert client.ask("hello").receipt
        assert len([line for line in node.stdout if '"unprotected"' in line and '"landlock"' in line]) == 1


def test_a_node_that_has_all_says_nothing_of_it(node: Node) -> None:
    assert not [line for line in node.stdout if "unprotected" in line]


def test_who_is_reached_from_elsewhere_or_proves_more_requires_all() -> None:
    here = Settings(engine="fake")
    assert here.protection == "available"
    assert Settings(engine="fake", protect="require").protection == "require"
    away = {"listen": "0.0.0.0:1", "allow_software": True, "tls_cert": "a", "tls_key": "b"}
    assert Settings(engine="fake", **away).protection == "require"  # type: ignore[arg-type]
    assert Settings(engine="fake", attester="tpm2", release="r", log="l").protection == "require"


def test_the_configuration_digest_covers_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(engine="fake")
    before = config.config_digest(settings)
    weaker = {**seccomp.RULES, Program.WORKER: seccomp.RULES[Program.WORKER][1:]}
    monkeypatch.setattr(seccomp, "RULES", weaker)
    assert config.config_digest(settings) != before


# --- freed memory ----------------------------------------------------------------------------------

LOOK = "from pcc_server.harden import allocator; print(allocator.fault() or 'overwritten')"
WITH_LARGE_ARRAYS = f"from device import heap; assert heap.keep_threshold(); {LOOK}"


def look(code: str = LOOK, *flags: str, **changed: str | None) -> str:
    variables = {**environment("worker"), **changed}
    env = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


@pytest.mark.parametrize("code", [LOOK, WITH_LARGE_ARRAYS])
def test_what_is_freed_is_overwritten_with_the_environment_of_a_child(code: str) -> None:
    assert look(code) == "overwritten"


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ((), {"PYTHONMALLOC": None}),
        ((), {"GLIBC_TUNABLES": None}),
        ((), {"GLIBC_TUNABLES": "glibc.malloc.perturb=165"}),  # the thread cache keeps what it is given
        ((), {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}),
        (("-I",), {}),  # ignores PYTHONMALLOC without a word
        (("-E",), {}),
    ],
)
def test_control_each_half_of_the_pair_is_needed(flags: tuple[str, ...], changed: dict[str, str | None]) -> None:
    assert look(LOOK, *flags, **changed) == "freed memory keeps its content"


def test_a_node_whose_memory_is_not_overwritten_refuses_where_that_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCC_NODE_PROTECT", "require")
    plain = "built = process.environment; process.environment = lambda p: built(p) | {'PYTHONMALLOC': 'default'}"
    node = Node(command=with_children("", launcher=plain), wait=False)
    assert node.process.wait(30) == 4
    node.stop()
    assert "requires: scrub (freed memory keeps its content)" in node.words()


# --- limits ----------------------------------------------------------------------------------------


def test_the_children_may_not_write_a_byte_to_a_file_or_leave_a_core(node: Node) -> None:
    need_root()
    for program in ("gateway", "worker"):
        limits = Path(f"/proc/{node.pid(program)}/limits").read_text()
        assert re.search(r"Max file size +0 +0 ", limits)
        assert re.search(r"Max core file size +0 +0 ", limits)
    assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{node.launcher}/limits").read_text())
