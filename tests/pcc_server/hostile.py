"""Peers that mean no good: HTTP/2 by hand over a plain socket, and what they do to a node. Seeded, to be repeated."""

import json
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from hybrid.wire import codec
from tests.pcc_server.node_client import Client, Node, ask

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4
INVOKE = codec.METHODS["Inference.Invoke"]
TIMEOUT_S = 5.0


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """One header of under 127 characters, neither indexed nor compressed (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def call_headers(path: str = INVOKE) -> bytes:
    names = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "a",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(literal(name, value) for name, value in names.items())


class Raw:
    """One connection without a library."""

    def __init__(self, address: str, *, settings: Sequence[tuple[int, int]] = (), hello: bool = True) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        if hello:
            payload = b"".join(struct.pack(">HI", *pair) for pair in settings)
            self.socket.sendall(PREFACE + frame(SETTINGS, payload=payload))

    def send(self, data: bytes) -> bool:
        """Send; tells whether the peer still takes it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def call(self, stream: int, message: bytes) -> None:
        """Start a call with one message and half-close."""
        self.send(frame(HEADERS, END_HEADERS, stream, call_headers()))
        data = b"\x00" + struct.pack(">I", len(message)) + message
        for at in range(0, len(data), 16_384):
            last = at + 16_384 >= len(data)
            self.send(frame(DATA, END_STREAM if last else 0, stream, data[at : at + 16_384]))

    def read(self, most: int = 65_536) -> bytes:
        """Read what is there; empty when the peer closed or is silent for too long."""
        try:
            return self.socket.recv(most)
        except OSError:
            return b""

    def closed(self, patience_s: float) -> bool:
        """Whether the peer closes within a time; what it says first is read."""
        self.socket.settimeout(patience_s)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            try:
                if not self.socket.recv(65_536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- one bad act each --------------------------------------------------------------------------------


def garbage(address: str, rng: random.Random) -> None:
    with Raw(address, hello=False) as peer:
        peer.send(rng.randbytes(rng.randrange(1, 5_000)))


def garbage_after_the_preface(address: str, rng: random.Random) -> None:
    with Raw(address) as peer:
        peer.send(rng.randbytes(2_000))
        peer.read()


def another_protocol(address: str, rng: random.Random) -> None:
    with Raw(address, hello=False) as peer:
        peer.send(rng.choice((b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + rng.randbytes(300))))
        peer.read()


def oversize_frame(address: str, rng: random.Random) -> None:
    with Raw(address) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, call_headers()))
        peer.send(b"\xff\xff\xff" + struct.pack(">BBI", DATA, 0, 1) + rng.randbytes(20_000))
        peer.read()


def oversize_message(address: str, rng: random.Random) -> None:
    with Raw(address) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, call_headers()))
        peer.send(frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff" + rng.randbytes(1_000)))
        peer.read()


def header_flood(address: str, rng: random.Random) -> None:
    """CONTINUATION frames without an end (CVE-2024-27316 and its relatives): 50 times what a node takes.

    The library reads on and holds about four times what came until the connection ends, and no setting of it stops
    that: what bounds a flood of many megabytes is the memory limit of the unit or container, or a proxy in front.
    """
    with Raw(address) as peer:
        peer.send(frame(HEADERS, 0, 1, call_headers()))
        for number in range(40):
            names = b"".join(literal(f"x{number}-{i}", "v" * 100) for i in range(100))
            if not peer.send(frame(CONTINUATION, 0, 1, names)):
                break


def ping_flood(address: str, rng: random.Random) -> None:
    with Raw(address) as peer:
        for _ in range(200):
            if not peer.send(frame(PING, 0, 0, rng.randbytes(8)) * 10 + frame(SETTINGS)):
                break


def resets(address: str, rng: random.Random) -> None:
    """Three hundred calls opened and reset in one breath (CVE-2023-44487)."""
    with Raw(address) as peer:
        for number in range(1, 601, 2):
            opened = frame(HEADERS, END_HEADERS, number, call_headers())
            if not peer.send(opened + frame(RST_STREAM, 0, number, struct.pack(">I", 8))):
                break


def half_call(address: str, rng: random.Random) -> None:
    """A call whose message never comes."""
    with Raw(address) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, call_headers()))
        peer.send(frame(DATA, 0, 1, b"\x00\x00\x01"))
        time.sleep(0.2)


def broken_windows(address: str, rng: random.Random) -> None:
    with Raw(address) as peer:
        peer.send(frame(HEADERS, END_HEADERS, 1, call_headers()))
        peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFF_FFFF)) * 3)
        peer.send(frame(WINDOW_UPDATE, 0, 0, bytes(4)))
        peer.read()


ACTS: tuple[Callable[[str, random.Random], None], ...] = (
    garbage,
    garbage_after_the_preface,
    another_protocol,
    oversize_frame,
    oversize_message,
    header_flood,
    ping_flood,
    resets,
    half_call,
    broken_windows,
)


class SlowReader:
    """Takes one byte of its reply a second, by HTTP/2's own flow control."""

    def __init__(self, address: str, message: bytes) -> None:
        self._peer = Raw(address, settings=((INITIAL_WINDOW, 1),))
        self._peer.send(frame(SETTINGS, ACK))
        self._peer.call(1, message)
        self._peer.socket.settimeout(0.01)
        self._at = 0.0

    def look(self) -> bool:
        """Take what has come, allow one more byte when a second is over; tells whether the reply still goes on."""
        if time.monotonic() - self._at > 1:
            self._at = time.monotonic()
            self._peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
        try:
            data = self._peer.socket.recv(65_536)
        except TimeoutError:
            return True
        except OSError:
            return False
        return bool(data) and not any(self._ends(data))

    @staticmethod
    def _ends(data: bytes) -> Iterator[bool]:
        at = 0
        while at + 9 <= len(data):
            size, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
            yield kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and bool(data[at + 4] & END_STREAM))
            at += 9 + size

    def close(self) -> None:
        self._peer.close()


# --- sealed requests that are none ---------------------------------------------------------------------


def invalid(client: Client, rng: random.Random) -> bytes:
    """A request that is right in everything but what a key opens: package and body are random."""
    sealed, _ = client.seal(ask("x"))
    package, body = rng.randbytes(len(sealed.key_packages[0])), rng.randbytes(len(sealed.body))
    return codec.encode_invoke_request(sealed.header, body, (package,))


def outcome(client: Client, data: bytes) -> str:
    """How a request ended: ``ran``, or a code's name."""
    call = client.send(data)
    try:
        return "ran" if list(call) else "empty"
    except grpc.RpcError:
        return str(call.details())


# --- what is watched -----------------------------------------------------------------------------------


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(pid: int) -> int:
    """Open descriptors of another process: needs root, since the node's processes are not dumpable."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass
class Mix:
    """Every bad act beside good clients, for a while. only: names of acts.  good, bad: how requests ended."""

    node: Node
    seed: int = 1
    only: Sequence[str] = ()
    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    _end: threading.Event = field(default_factory=threading.Event)

    def _good(self) -> None:
        with Client(self.node) as client:
            while not self._end.is_set():
                try:
                    self.good["ok" if client.ask("hello", max_tokens=6).receipt else "cut"] += 1
                except grpc.RpcError as error:
                    self._failed(client, str(error.details()))
                time.sleep(0.05)

    def _failed(self, client: Client, words: str) -> None:
        """Count it, unless the client's keys have ended: then it takes the new ones, as any client does."""
        if words == "STALE_KEY":
            client.refresh()
            self.acts["new keys"] += 1
        else:
            self.good[words] += 1

    def _act(self, seed: int) -> None:
        """Misbehave in a process of its own, so that what good clients wait for is the node and not this one."""
        words = [sys.executable, "-m", "tests.pcc_server.hostile", self.node.address, str(seed), *self.only]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            self._end.wait()
            said, _ = process.communicate()
        self.acts.update(json.loads(said))

    def _forge(self, ciphertexts: int) -> None:
        rng = random.Random(self.seed)  # noqa: S311
        with Client(self.node) as client:
            done = b""
            while not self._end.is_set() or self.bad["REJECTED"] < ciphertexts:
                if not done:
                    done = client.encode(client.seal(ask("replayed", max_tokens=2))[0])
                    self.bad[outcome(client, done) + " first"] += 1
                words = outcome(client, invalid(client, rng))
                if words == "STALE_KEY":  # forged requests to a key that has ended prove nothing
                    client.refresh()
                    done = b""
                    continue
                self.bad[words] += 1
                if not sum(self.bad.values()) % 20 and (again := outcome(client, done)) != "STALE_KEY":
                    self.bad[again] += 1

    def _slow(self) -> None:
        """Read slowly, one reply after another; that a node is gone is for the good clients to tell."""
        with Client(self.node) as client:
            while not self._end.wait(0.05):
                with suppress(OSError, grpc.RpcError):
                    self._read_slowly(client)
                self.acts["slow reader"] += 1

    def _read_slowly(self, client: Client) -> None:
        client.refresh()
        data = client.encode(client.seal(ask("y" * 500, max_tokens=300))[0])
        with closing(SlowReader(self.node.address, data)) as reader:
            while not self._end.is_set() and reader.look():
                time.sleep(0.2)

    def _idle(self) -> None:
        """Half of them say hello, the other half nothing."""
        held = [Raw(self.node.address, hello=bool(number % 2)) for number in range(100)]
        self._end.wait()
        for peer in held:
            peer.close()

    @contextmanager
    def running(self, *, ciphertexts: int = 0, good: int = 2) -> Iterator[None]:
        """Run it until the block ends and so many forged requests were sent."""
        works: list[Callable[[], None]] = [self._good] * good + [self._slow] * 2 + [self._idle]
        works += [
            lambda: self._forge(ciphertexts),
            lambda: self._act(self.seed + 1),
            lambda: self._act(self.seed + 2),
        ]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join(600)


def _main(address: str, seed: str, *only: str) -> None:
    """Misbehave until the parent closes our stdin, then say what was done."""
    rng, done = random.Random(seed), Counter[str]()  # noqa: S311
    acts = [act for act in ACTS if not only or act.__name__ in only]
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        act = rng.choice(acts)
        with suppress(OSError):
            act(address, rng)
        done[act.__name__] += 1
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    _main(*sys.argv[1:])
