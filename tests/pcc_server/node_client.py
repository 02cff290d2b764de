"""A real node as a child process, and a small client made of ``hybrid.wire`` and grpc alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from hybrid.wire import codec
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.entries import DirectoryEntry, open_entry
from hybrid.wire.envelope import Candidate, ReplyOpener, RequestSealer, SealedRequest
from hybrid.wire.note import NoteVerifier
from hybrid.wire.receipt import Receipt, SealedError, UsageReport
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling

START_S = 60.0
COMMAND = (sys.executable, "-P", "-m", "pcc_server")


def ask(text: str, *, max_tokens: int = 8) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role=Role.USER, content=text),), sampling=Sampling(max_tokens=max_tokens))


class Node:
    """``pcc-server serve --json`` on a free port."""

    def __init__(
        self,
        *options: str,
        engine: str = "fake",
        prefix: tuple[str, ...] = (),
        command: tuple[str, ...] = COMMAND,
        verb: str = "serve",
        wait: bool = True,
    ) -> None:
        words = [*command, verb, "--json", *(("--engine", engine) if verb == "serve" else ())]
        words += [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*prefix, *words, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._prefixed = bool(prefix)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._threads = [
            threading.Thread(target=self._drain, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for thread in self._threads:
            thread.start()
        self.ready: dict[str, Any] = {}
        if wait:
            self.ready = self._wait_ready()

    @staticmethod
    def _drain(pipe: Any, lines: list[str]) -> None:
        with pipe:
            lines.extend(line.decode("utf-8", "replace") for line in pipe)

    def _wait_ready(self) -> dict[str, Any]:
        def said_ready() -> dict[str, Any] | None:
            events = (json.loads(line) for line in self.stdout)
            found = next((event for event in events if event["event"] == "ready"), None)
            return found or ({"failed": True} if self.process.poll() is not None else None)

        ready = until(said_ready, START_S)
        assert "failed" not in ready, self.words()
        return ready

    @property
    def address(self) -> str:
        return str(self.ready["listen"])

    def words(self) -> str:
        """Everything it printed, both streams."""
        return "".join([*self.stdout, *self.stderr])

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stderr if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def pid(self, program: str) -> int:
        """Process id of ``gateway`` or ``worker``."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if f"pcc_server.{program}".encode() in words and parent == self.launcher:
                    return int(folder.name)
        raise AssertionError(f"no {program}")

    @property
    def launcher(self) -> int:
        """Our child, or its child when it runs under another program."""
        if not self._prefixed:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stop(self, timeout: float = 15.0) -> int:
        if self.process.poll() is None:
            os.kill(self.launcher, signal.SIGTERM)
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(5)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@dataclass
class Answer:
    """What came of one exchange."""

    head: bytes = b""
    events: list[Chunk | UsageReport | SealedError] = field(default_factory=list)
    receipt: Receipt | None = None
    messages: int = 0

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Chunk))

    @property
    def usage(self) -> UsageReport:
        return next(event for event in self.events if isinstance(event, UsageReport))

    @property
    def failed(self) -> bool:
        """Whether an error came inside the seal."""
        return any(isinstance(event, SealedError) for event in self.events)

    @property
    def error(self) -> SealedError:
        return next(event for event in self.events if isinstance(event, SealedError))


class Client:
    """Fetches the directory, seals, sends, opens."""

    OPTIONS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))

    def __init__(self, node: Node) -> None:
        self.channel = self.connect(node.address)
        self._get = self.channel.unary_stream(codec.METHODS["Directory.Get"])
        self._invoke = self.channel.stream_stream(codec.METHODS["Inference.Invoke"])
        self.verifier = NoteVerifier.parse(node.ready["node_key"])
        self.refresh()

    def refresh(self) -> None:
        """Take the directory of now: the keys of the one before end."""
        self.directory, self.model_id, self.candidate = self._fetch()

    def connect(self, address: str) -> grpc.Channel:
        return grpc.insecure_channel(address, options=self.OPTIONS)

    def _fetch(self) -> tuple[Directory, str, Candidate]:
        reply = codec.decode_directory_reply(codec.join_parts(list(self._get(b"", timeout=10))))
        directory = Directory.decode(reply.directory)
        entry = open_entry(Leaf.decode(reply.leaf).entry, self.verifier)
        assert isinstance(entry, DirectoryEntry)
        assert entry.directory_id == directory.id
        bundle = directory.nodes[0].bundle
        bundle.verify_signature()
        statement, now = bundle.statement, time.time()
        key = next(key for key in statement.keys if (key.epoch + 1) * key.epoch_s + CLOCK_TOLERANCE_S > now)
        model = statement.models[0]
        candidate = Candidate(identity=statement.identity, key=key, bundle_id=bundle.id, manifest=model.manifest)
        return directory, model.model_id, candidate

    def seal(self, request: GenerateRequest, *, deadline_ms: int = 60_000) -> tuple[SealedRequest, ReplyOpener]:
        return RequestSealer(
            candidates=[self.candidate],
            model_id=self.model_id,
            directory_id=self.directory.id,
            deadline_ms=deadline_ms,
        ).seal(request)

    @staticmethod
    def encode(sealed: SealedRequest) -> bytes:
        return codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages)

    def send(self, data: bytes, *, timeout: float = 60) -> Any:
        """Send bytes; returns the grpc call: iterate it, or ``cancel()``."""
        return self._invoke(iter([data]), timeout=timeout)

    def ask(self, text: str, *, max_tokens: int = 8, deadline_ms: int = 60_000) -> Answer:
        sealed, opener = self.seal(ask(text, max_tokens=max_tokens), deadline_ms=deadline_ms)
        return collect(self.send(self.encode(sealed)), opener)

    def refused(self, data: bytes) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
        """Send bytes that must be refused; returns status, message and trailers."""
        call = self.send(data)
        try:
            replies = list(call)
        except grpc.RpcError:
            return call.code(), call.details(), tuple((str(k), str(v)) for k, v in call.trailing_metadata())
        raise AssertionError(f"answered with {len(replies)} messages")

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collect(call: Iterator[bytes], opener: ReplyOpener) -> Answer:
    """Open a whole reply."""
    answer = Answer()
    for message in call:
        answer.messages += 1
        reply = codec.decode_invoke_reply(message)
        if reply.head:
            answer.head = reply.head
            opener.start(reply.head)
        if reply.frames:
            answer.events += opener.push(reply.frames)
        if reply.final:
            answer.receipt = opener.finish(reply.final)
    opener.close()
    return answer


def until(check: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait until ``check`` gives something true, and return it."""
    end = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs (zombies do not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
