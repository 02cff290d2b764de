"""S3: no process of a node leaves a core, whatever ends it, where the machine asks for cores. Control: others do."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pcc_server.node_client import COMMAND, Node, until
from tests.pcc_server.sandbox_host import CANARY
from tests.pcc_server.sandboxes import host, need_root

pytestmark = pytest.mark.linux

PATTERN = Path("/proc/sys/kernel/core_pattern")
UNLIMITED = ("prlimit", "--core=unlimited:unlimited")
SIGNALS = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGQUIT")
SETTLE_S = 0.3  # for the program behind a pipe to write


@pytest.fixture(params=["file", "pipe"])
def cores(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder where the kernel puts cores: itself, or through a program it starts. The pattern is put back."""
    need_root()
    was = PATTERN.read_text()
    with tempfile.TemporaryDirectory(prefix="cores-") as name:
        target = f"{name}/core.%p"
        PATTERN.write_text(target if request.param == "file" else f"|/usr/bin/dd of={target} status=none")
        try:
            yield Path(name)
        finally:
            PATTERN.write_text(was)


def ended_by(program: str, name: str) -> int:
    """Have a disposable process end by a signal; returns its process id."""
    done = host(program, f"die:{name}", before=UNLIMITED)
    assert done.returncode == -signal.Signals[name]
    return int(done.stdout)


def left_by(cores: Path, *pids: int) -> list[Path]:
    """Cores of these processes: others on this machine may leave theirs there too."""
    time.sleep(SETTLE_S)
    return [core for pid in pids for core in cores.glob(f"core.{pid}")]


def test_control_a_process_that_is_not_hardened_leaves_its_canary(cores: Path) -> None:
    core = cores / f"core.{ended_by('none', 'SIGABRT')}"
    until(lambda: core.exists() and CANARY.encode() * 3 in core.read_bytes())


@pytest.mark.parametrize("program", ["launcher", "gateway", "worker"])
def test_no_fatal_signal_leaves_a_core(cores: Path, program: str) -> None:
    assert left_by(cores, *[ended_by(program, name) for name in SIGNALS]) == []


def test_no_process_of_a_running_node_leaves_a_core(cores: Path) -> None:
    """Worker and gateway are started again each time; with the launcher all end."""
    with Node(command=(*UNLIMITED, *COMMAND)) as node:
        ended = []
        for program, name in (("worker", "SIGSEGV"), ("gateway", "SIGABRT")):
            ended.append(node.pid(program))
            os.kill(ended[-1], signal.Signals[name])
            until(lambda program=program, dead=ended[-1]: in_its_place(node, program, dead), 30)
        last = [node.pid("worker"), node.pid("gateway"), node.launcher]
        for pid in last:
            os.kill(pid, signal.SIGSEGV)
        assert node.process.wait(10) == -signal.SIGSEGV
    assert left_by(cores, *ended, *last) == []


def in_its_place(node: Node, program: str, dead: int) -> bool:
    """Whether another one runs in place of one that is dead, and has taken the first stage."""
    try:
        pid = node.pid(program)
        return pid != dead and "Max file size             0" in Path(f"/proc/{pid}/limits").read_text()
    except (AssertionError, OSError):
        return False
