"""docs/operations.md as an operator and a user walk it: its commands are read from the page and run as they stand.

Only names and places differ, and what installs a package or starts a service. Nodes run as a user without rights.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.authority import own_address
from tests.pcc_server.node_client import COMMAND as PCC
from tests.pcc_server.node_client import until
from tests.pcc_server.sandboxes import as_user

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"
HYBRID = (sys.executable, "-P", "-m", "hybrid")
CURL = (
    sys.executable,
    "-c",
    "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=9).read().decode())",
)
NOT_HERE = ("apt", "groupadd", "journalctl", "ln", "systemctl", "/usr/bin/python3", "/opt/hybrid-pcc/bin/pip")
NODE_USER = 4711  # also the number of the group that the page calls hybrid-pcc
PATIENCE_S = 60.0
NOTHING: Mapping[str, str] = {}


def section(number: int) -> str:
    """One section of the page."""
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"the page has no section {number}"
    return found[0]


def blocks(number: int, kind: str = "console") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", section(number), re.DOTALL)


def commands(number: int) -> list[str]:
    """Every command of a section, each on one line."""
    lines = "".join(blocks(number)).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


@dataclass
class Running:
    """A node or router that was started by hand. card: its lines for people."""

    process: "subprocess.Popen[str]"
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for pipe, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            self.readers.append(threading.Thread(target=_read, args=(pipe, lines)))
            self.readers[-1].start()

    def wait_ready(self) -> None:
        until(lambda: self.process.poll() is not None or any("  hybrid chat" in line for line in self.out), PATIENCE_S)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return "".join([*self.out, *self.err])

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.err if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, as ``systemctl stop`` sends it."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        for reader in self.readers:
            reader.join(PATIENCE_S)
        return code


def _read(pipe: IO[str] | None, lines: list[str]) -> None:
    assert pipe is not None
    with pipe:
        lines.extend(pipe)


@dataclass
class Walk:
    """One machine that has everything. names: what stands in the page -> what stands for it here."""

    folder: Path
    stack: contextlib.ExitStack
    names: dict[str, str] = field(default_factory=dict)
    ip: str = field(default_factory=own_address)

    def __post_init__(self) -> None:
        self.port, self.admin = free_port(), free_port()
        self.folder.chmod(0o755)
        self.names |= {
            "deploy/compose/certificates.sh pcc.example.org": f"{ROOT}/deploy/compose/certificates.sh "
            f"pcc.example.org,{self.ip}",
            "-g hybrid-pcc": f"-g {NODE_USER}",
            "/etc/hybrid-pcc": str(self.folder / "etc"),
            "/var/lib/hybrid-pcc/models": str(self.folder / "models"),
            "pcc.example.org:8443": f"{self.ip}:{self.port}",
            "0.0.0.0:8443": f"0.0.0.0:{self.port}",
            "127.0.0.1:9090": f"127.0.0.1:{self.admin}",
            'id = "starter"': 'engine = "fake"',
        }

    def here(self, text: str) -> str:
        """A text of the page with the names of this machine."""
        for name, own in self.names.items():
            text = text.replace(name, own)
        return text

    def run(self, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
        """Run one command of the page, as root."""
        words = shlex.split(self.here(command))
        assert words[0] not in NOT_HERE, command
        return _ran([*_program(words), *more], self.folder, _environment(self.folder))

    def good(self, command: str, *more: str) -> str:
        done = self.run(command, *more)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def section(self, number: int, *, block: int = 0) -> None:
        """Run a block's commands, but those that this machine has no service manager or package for."""
        for line in blocks(number)[block].splitlines():
            if line.startswith("$ ") and line.split()[1] not in NOT_HERE:
                self.good(line.removeprefix("$ "))

    def write(self, name: str, text: str) -> Path:
        """Write a file of /etc/hybrid-pcc as section 3 wants them."""
        path = self.folder / "etc" / name
        path.write_text(self.here(text))
        os.chown(path, 0, NODE_USER)
        path.chmod(0o640)
        return path

    def start(self, command: str, *, user: int = NODE_USER, env: Mapping[str, str] = NOTHING) -> Running:
        """Start a command of the page that goes on, and wait until it is ready."""
        words = _program(shlex.split(self.here(command)))
        given: dict[str, Any] = {"cwd": "/", "env": {**_environment(Path("/nonexistent")), **env}, "text": True}
        program = as_user(user, *words) if user else words
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = Running(subprocess.Popen(program, **pipes, **given))
        self.stack.callback(running.stop)
        running.wait_ready()
        return running

    def user(self, name: str) -> "Person":
        """Somebody with a home of their own, who was given ca.crt."""
        home = self.folder / name
        home.mkdir()
        shutil.copy(self.folder / "secrets" / "ca.crt", home)
        return Person(self, home)


@dataclass
class Person:
    """Somebody at another machine, who has a home and a terminal."""

    walk: Walk
    home: Path

    def given(self, token: str) -> None:
        """They write down their access key."""
        file = self.home / "access.token"
        file.write_text(f"{token}\n")
        file.chmod(0o600)

    def words(self, command: str) -> list[str]:
        return [*_program(shlex.split(self.walk.here(command)))]

    def run(self, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return _ran([*self.words(command), *more], self.home, _environment(self.home))

    def begin(self, command: str, *more: str) -> "subprocess.Popen[str]":
        """Start a command whose output is read while it runs."""
        given: dict[str, Any] = {"cwd": self.home, "env": _environment(self.home), "text": True}
        return subprocess.Popen([*self.words(command), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given)


def _program(words: list[str]) -> tuple[str, ...]:
    programs = {"pcc-server": PCC, "hybrid": HYBRID, "curl": CURL}
    return (*programs.get(words[0], words[:1]), *words[1:])


def _environment(home: Path) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}


def _ran(words: list[str], folder: Path, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    given: dict[str, Any] = {"cwd": folder, "env": env, "text": True, "timeout": PATIENCE_S}
    done = subprocess.run(words, capture_output=True, check=False, **given)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextlib.contextmanager
def walking() -> Iterator[Walk]:
    """A machine, and everything on it gone afterwards."""
    assert os.geteuid() == 0, "an operator's commands are run by root, and so is this test"
    with tempfile.TemporaryDirectory(prefix="walk-") as folder, contextlib.ExitStack() as stack:
        yield Walk(Path(folder), stack)
