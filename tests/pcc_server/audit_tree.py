"""A tree of files that looks like a machine with a node on it, as it should be; tests then break one thing."""

from pathlib import Path

from pcc_server.audit.machine import Machine
from pcc_server.audit.node import Node, choose
from pcc_server.audit.processes import Reach
from pcc_server.environment import environment
from pcc_server.events import Program

LAUNCHER, GATEWAY, WORKER = 100, 101, 102
PROGRAMS = {Program.LAUNCHER: LAUNCHER, Program.GATEWAY: GATEWAY, Program.WORKER: WORKER}
PORT, INODE = 8443, 4242
CLOSED = Reach(control=True, denied=dict.fromkeys(PROGRAMS.values(), True))
STATUS = """Name:\tpython
PPid:\t{parent}
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1000\t1000\t1000
VmSwap:\t       0 kB
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max core file size        0                    0                    bytes
"""
LISTENS = (
    f"   0: 0100007F:{PORT:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 {INODE} 1\n"
)
TABLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
PLAIN_ROOT = "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:5 / /proc rw - proc proc rw\n"
IMAGE_ROOT = "22 1 0:9 / / ro,relatime - overlay overlay rw\n23 22 0:5 / /proc rw - proc proc rw\n"


class Tree:
    """The files; ``node()`` is what an audit makes of them."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self._machine_files()
        self._processes(options)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def change(self, path: str, old: str, new: str) -> None:
        """Replace words that must be there."""
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def open(self, pid: int, number: int, target: str, flags: str = "0100000") -> None:
        """Give a process a descriptor."""
        link = self.root / f"proc/{pid}/fd/{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        self.write(f"proc/{pid}/fdinfo/{number}", f"pos:\t0\nflags:\t{flags}\nmnt_id:\t1\n")

    def node(self, **named: str) -> Node:
        return choose(Machine(self.root), **named)  # type: ignore[arg-type]

    def _machine_files(self) -> None:
        files = {
            "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
            "proc/sys/kernel/core_pattern": "core\n",
            "proc/sys/kernel/yama/ptrace_scope": "1\n",
            "sys/kernel/kexec_crash_loaded": "0\n",
            "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
            "sys/power/state": "freeze mem\n",
        }
        for path, text in files.items():
            self.write(path, text)

    def _processes(self, options: tuple[str, ...]) -> None:
        serve = ("python", "-m", "pcc_server", "serve", "--engine", "fake", "--listen", f"127.0.0.1:{PORT}", *options)
        self._process(LAUNCHER, 1, serve, {"PATH": "/usr/bin"})
        for program, pid in ((Program.GATEWAY, GATEWAY), (Program.WORKER, WORKER)):
            self._process(
                pid, LAUNCHER, ("python", "-P", "-m", f"pcc_server.{program}", "3", "4"), environment(program)
            )
        self.open(GATEWAY, 5, f"socket:[{INODE}]", "02")

    def _process(self, pid: int, parent: int, words: tuple[str, ...], environ: dict[str, str]) -> None:
        status = STATUS.format(parent=parent)
        files = {
            "cmdline": "".join(f"{word}\0" for word in words),
            "environ": "".join(f"{name}={value}\0" for name, value in environ.items()),
            "status": status,
            f"task/{pid}/status": status,
            f"task/{pid + 1000}/status": status,
            "limits": LIMITS,
            "cgroup": "0::/system.slice/pcc.service\n",
            "mountinfo": PLAIN_ROOT,
            "root/proc/version": "",
            "net/tcp": TABLE + LISTENS,
            "net/tcp6": TABLE,
        }
        for name, text in files.items():
            self.write(f"proc/{pid}/{name}", text)
        (self.root / f"proc/{pid}/cwd").symlink_to(self.root)
        self.open(pid, 0, "/dev/null")
