"""A whole deployment as its operator runs it, and its users: the two command lines in processes of their own.

Everything is made by commands of the documentation (docs/trust.md): keys, log, witnesses, release, model, nodes on
software TPMs, router. Nothing of the node's Python is called to make any of it.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import grpc

from hybrid.wire import codec
from tests.pcc_server.software_tpm import SoftwareTpm

T = TypeVar("T")

PCC = (sys.executable, "-P", "-m", "pcc_server")
HYBRID = (sys.executable, "-P", "-m", "hybrid")
ROGUE = Path(__file__).with_name("rogue.py")
KERNEL = hashlib.sha256(b"a kernel").digest()
DEPLOYMENT = "pcc.example.com"
COMMIT, SBOM = "1" * 40, "2" * 64
PATIENCE_S = 60.0

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
NAMES = {"log": "LOG_KEY", "w1": "W1_KEY", "w2": "W2_KEY"}
NAMES |= {"directory": "DIRECTORY_KEY", "release": "RELEASE_KEY", "models": "MODELS_KEY"}


def documented() -> str:
    """The trust file as the documentation shows it, with names where keys go."""
    (block,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block)


@dataclass
class Site:
    """The operator's folder, the public lines of all keys by name, and what runs. services: also the TPMs' names."""

    folder: Path
    stack: contextlib.ExitStack
    public: dict[str, str] = field(default_factory=dict)
    witnesses: list[str] = field(default_factory=list)
    tpms: list[SoftwareTpm] = field(default_factory=list)
    ak_names: list[str] = field(default_factory=list)
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    # --- the operator's commands -------------------------------------------------------------------

    def pcc(self, *words: str, code: int = 0) -> str:
        """Run one command of ``pcc-server`` to its end; returns its stdout, or stderr where it should fail."""
        given: dict[str, Any] = {"cwd": self.folder, "env": self._env, "text": True}
        done = subprocess.run([*PCC, *words], capture_output=True, check=False, **given)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stderr if code else done.stdout

    def start(self, *words: str, command: Sequence[str] = PCC) -> str:
        """Start a command that goes on; returns the first line it prints."""
        process = subprocess.Popen(
            [*command, *words],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        readers = [threading.Thread(target=_read_on, args=(pipe,)) for pipe in (process.stdout, process.stderr)]
        self.stack.callback(_end, process, readers)
        assert line, (words, _last_words(process))
        for reader in readers:
            reader.start()
        return line

    @property
    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)}

    # --- what it is made of ------------------------------------------------------------------------

    def make_keys(self) -> None:
        """The log's folder and all keys."""
        self.public["log"] = self.pcc("log", "init", "log", "--origin", f"{DEPLOYMENT}/log").split()[1]
        names = {
            "release": "publisher.example/release",
            "models": "publisher.example/models",
            "directory": f"{DEPLOYMENT}/directory",
            "other": "somebody.example/release",
        }
        for key, name in names.items():
            self.public[key] = self.pcc("log", "keygen", f"{key}.key", "--name", name).strip()
        for key in ("w1", "w2"):
            made = self.pcc("log", "keygen", f"{key}.key", "--name", f"{key}.example/w", "--kind", "witness")
            self.public[key] = made.strip()

    def start_witnesses(self) -> None:
        """Two, each with a folder of its own."""
        for key in ("w1", "w2"):
            options = ("--key", f"{key}.key", "--log", self.public["log"], "--listen", "127.0.0.1:0")
            self.witnesses += ["--witness", self.start("log", "witness", key, *options).strip()]

    def machine(self) -> SoftwareTpm:
        """A machine with a TPM, as it is after it has booted our kernel."""
        tpm = self.stack.enter_context(SoftwareTpm(self.folder / f"tpm{len(self.tpms)}"))
        with tpm.commands() as commands:
            commands.extend(4, KERNEL)
        self.tpms.append(tpm)
        return tpm

    def enrol(self, tpm: SoftwareTpm) -> None:
        """Add its attestation key to those that clients trust."""
        (name,) = re.findall(r'ak_names = \["([0-9a-f]+)"\]', self.pcc("attest", "enrol", "--tpm", tpm.name))
        self.ak_names.append(name)

    def draft(self, kind: str, path: str, options: Sequence[str], filled: dict[str, str]) -> None:
        """Let a node print what it would say of itself, and fill in what only its publisher knows."""
        text = self.pcc("serve", *options, "--print", kind)
        for name, value in filled.items():
            text = text.replace(f'{name} = ""', f'{name} = "{value}"')
        (self.folder / path).write_text(text)

    def release(self, name: str, *options: str, key: str = "release") -> int:
        """Draft, sign and log the release that covers a node with these options; returns the entry's index."""
        self.draft("release", f"{name}.toml", options, {"source_commit": COMMIT, "sbom": SBOM})
        words = ("--release", f"{name}.toml", "--key", f"{key}.key", "--out", f"{name}.note")
        return int(self.pcc("log", "add", "log", *words))

    def model(self, *options: str) -> int:
        """The same for the model it serves."""
        self.draft("model", "model.toml", options, {"licence": "none"})
        return int(self.pcc("log", "add", "log", "--model", "model.toml", "--key", "models.key"))

    def checkpoint(self) -> None:
        """Sign what was added and have both witnesses cosign it."""
        self.pcc("log", "checkpoint", "log", *self.witnesses)

    # --- what serves -------------------------------------------------------------------------------

    def options(
        self, tpm: SoftwareTpm, *more: str, release: str = "release", deployment: str = DEPLOYMENT
    ) -> list[str]:
        """What a node is started with."""
        words = ["--engine", "fake", "--listen", "127.0.0.1:0", "--deployment", deployment, "--log", "log"]
        return [*words, "--attester", "tpm2", "--tpm", tpm.name, "--release", f"{release}.note", *more]

    def node(self, options: Sequence[str], *, rogue: bool = False) -> dict[str, Any]:
        """Start a node and wait until it is ready; returns what it said. rogue: without its check of its options."""
        command = self._rogue() if rogue else PCC
        said: dict[str, Any] = json.loads(self.start("serve", *options, "--json", command=command))
        return said

    def _rogue(self) -> tuple[str, ...]:
        script = self.folder / "interpreter"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {ROGUE} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        stand_in = f"process.sys = types.SimpleNamespace(executable={str(script)!r})"
        open_door = "harden.stage1 = lambda *_, **__: harden.Protection()"  # a sandboxed launcher starts no script
        modules = "import types, pcc_server.process as process, pcc_server.harden as harden"
        code = f"{modules}; {open_door}; {stand_in}; from pcc_server.cli import main; main()"
        return (sys.executable, "-P", "-c", code)

    def route(self, nodes: Sequence[str], deployment: str = DEPLOYMENT) -> str:
        """Start a router before nodes at ``HOST:PORT[=WEIGHT]``; returns its address."""
        words = [word for node in nodes for word in ("--node", node)]
        keys = ("--deployment", deployment, "--directory-key", "directory.key", "--log", "log", *self.witnesses)
        address: str = json.loads(self.start("route", "--listen", "127.0.0.1:0", *keys, *words, "--json"))["listen"]
        return address

    # --- what users are given ----------------------------------------------------------------------

    def trust(self, endpoint: str, deployment: str = DEPLOYMENT, **changed: str) -> str:
        """The trust file of a deployment at an address. changed: other keys than this site's, by name."""
        keys = {**self.public, **changed}
        words = {name: keys[key] for key, name in NAMES.items()}
        words |= {"HOST:PORT": endpoint, "AK_NAMES": '", "'.join(self.ak_names)}
        words |= {"PCR_4": hashlib.sha256(bytes(32) + KERNEL).hexdigest()}
        text = documented().replace(DEPLOYMENT, deployment)
        for name, word in words.items():
            text = text.replace(name, word)
        return text

    def monitor(self, state: str, code: int = 0) -> str:
        """Look at the log as an outsider."""
        policy = f"log {self.public['log']}\nwitness w1 {self.public['w1']}\nwitness w2 {self.public['w2']}\n"
        (self.folder / "policy").write_text(f"{policy}group both all w1 w2\nquorum both\n")
        roles = [("release-signer", "release"), ("model-signer", "models"), ("directory-signer", "directory")]
        signers = [word for option, key in roles for word in (f"--{option}", self.public[key])]
        return self.pcc("log", "monitor", "log", "--policy", "policy", *signers, "--state", state, code=code)

    def stop(self) -> None:
        """End everything that runs."""
        self.stack.close()


@dataclass
class User:
    """Somebody with a home of their own and a trust file."""

    home: Path
    trust: str

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        self.trust_file.write_text(self.trust)
        self.trust_file.chmod(0o600)

    @property
    def trust_file(self) -> Path:
        return self.home / "trust.toml"

    @property
    def state(self) -> Path:
        return self.home / "state"

    def hybrid(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run one command of ``hybrid``, as a process of its own."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TERM": "dumb", "NO_COLOR": "1"}
        env |= {"HYBRID_STATE": str(self.state), "HYBRID_TRUST": str(self.trust_file)}
        given: dict[str, Any] = {"cwd": self.home, "env": env, "text": True}
        done = subprocess.run([*HYBRID, *words], capture_output=True, check=False, **given)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def verify(self, target: str) -> tuple[int, dict[str, Any]]:
        """``hybrid verify … --json``: its exit code and its facts."""
        done = self.hybrid("verify", target, "--json")
        assert done.stdout, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, facts

    def failed_check(self, target: str) -> str:
        """``hybrid verify`` where it must fail: the check's name."""
        code, facts = self.verify(target)
        assert code == 5, facts
        check: str = facts["error"]["check"]
        return check


def directory_reply(address: str) -> bytes:
    """What anybody is shown."""
    with grpc.insecure_channel(address) as channel:
        get: Any = channel.unary_stream(codec.METHODS["Directory.Get"])
        return codec.join_parts(list(get(b"", timeout=10)))


def statuses(checks: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in checks}


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do several things beside each other; returns their results in order."""
    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(lambda work: work(), works))


def _read_on(pipe: IO[str]) -> None:
    """Read a pipe to its end: with ``--json`` a node ends when nobody does."""
    with pipe:
        for _ in pipe:
            pass


def _last_words(process: "subprocess.Popen[str]") -> str:
    """What a program that has ended said on its way."""
    assert process.stdout
    assert process.stderr
    with process.stdout, process.stderr:
        return process.stderr.read()


def _end(process: "subprocess.Popen[str]", readers: Sequence[threading.Thread]) -> None:
    process.kill()
    process.wait(PATIENCE_S)
    for reader in readers:
        if reader.is_alive():
            reader.join(PATIENCE_S)
