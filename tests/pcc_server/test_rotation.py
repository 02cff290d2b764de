"""Keys turn over without a failed request; what is retired opens nothing and is gone from memory (R3)."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.directory import Directory
from hybrid.wire.errors import StaleKey, WireError
from hybrid.wire.evidence import EvidenceItem, ModelEntry
from hybrid.wire.note import NoteSigner
from hybrid.wire.tpm2 import TpmEvent
from pcc_server.announce import KEPT_EPOCHS, MAX_SEQ, Publisher
from pcc_server.config import Settings
from pcc_server.engines.fake import open_fake
from pcc_server.entry import Entry, Served, collect_software
from pcc_server.environment import environment
from pcc_server.errors import Limit
from pcc_server.keys import LEAD_S, KeyRing
from pcc_server.link import Link
from pcc_server.publication import Publication
from pcc_server.residue.scan import scan
from pcc_server.worker import Worker
from tests.pcc_server.node_client import Client, Node, ask, collect, until
from tests.pcc_server.test_admin import MARK, call
from tests.pcc_server.test_keys import START, Clocks, T

# --- prepared ahead of time --------------------------------------------------------------------------


@dataclass
class Prepared:
    """A ring and an entry on a clock that stands still, and what its evidence was asked for."""

    clocks: Clocks = field(default_factory=Clocks)
    asked_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring = KeyRing(T, now=lambda: self.clocks.wall, boot=lambda: self.clocks.boot)
        model = ModelEntry(model_id="m", manifest=bytes(32), context_tokens=100, max_output_tokens=10)
        served = Served(deployment="localhost", model=model, config_digest=bytes(32))
        self.entry = Entry(served, self.ring, collect=self.collect, boot=lambda: self.clocks.boot)

    async def collect(self, form: str, bound: bytes, event: TpmEvent | None) -> EvidenceItem:
        self.asked_at.append(self.clocks.wall)
        return await collect_software(form, bound, event)

    def to(self, seconds: float) -> None:
        """Go to so many seconds after the beginning of the epoch, and do what a worker does then."""
        self.clocks.pass_(START + seconds - self.clocks.wall)
        self.ring.advance()
        if not self.entry.is_current:
            self.published = asyncio.run(self.entry.publish(T))
        elif not self.entry.is_prepared:
            asyncio.run(self.entry.prepare(T))

    def directory(self) -> Directory:
        return Directory.decode(codec.decode_directory_reply(self.published.reply).directory)


def test_evidence_of_the_next_epoch_is_collected_half_a_minute_early_and_published_on_the_hour() -> None:
    node = Prepared()
    for at in (0, T - LEAD_S - 1, T - LEAD_S, T - LEAD_S + 1, T - 1):
        node.to(at)
    assert node.asked_at == [START, START + T - LEAD_S]  # once each
    assert node.directory().epoch == START // T  # nobody is told before its time
    node.to(T)
    assert node.asked_at == [START, START + T - LEAD_S]  # publishing asked for nothing
    directory = node.directory()
    assert directory.epoch == START // T + 1
    statement = directory.nodes[0].bundle.statement
    assert (statement.not_before, [key.epoch for key in statement.keys]) == (
        START + T,
        [START // T + 1, START // T + 2],
    )


def test_a_key_that_changes_after_it_was_prepared_is_not_published() -> None:
    node = Prepared()
    node.to(0)
    node.to(T - LEAD_S)
    revoked = node.ring.coming()[1].key.config
    node.ring.revoke(revoked.key_id)
    node.to(T)
    statement = node.directory().nodes[0].bundle.statement
    assert revoked not in statement.keys
    assert node.asked_at[-1] == START + T  # the control: what was prepared was of no use


def test_evidence_that_cannot_be_collected_early_is_collected_in_its_time() -> None:
    node = Prepared()
    node.to(0)

    async def broken(*_: object) -> EvidenceItem:
        raise WireError("the device is gone")

    node.entry._collect = broken
    with pytest.raises(WireError):
        node.to(T - LEAD_S)
    node.to(T - LEAD_S + 1)  # it is not tried again and again
    node.entry._collect = node.collect
    node.to(T)
    assert node.directory().epoch == START // T + 1


def test_the_ring_says_when_it_next_has_something_to_do() -> None:
    node = Prepared()
    assert node.ring.seconds_to_change() == T - LEAD_S
    node.to(T - LEAD_S)
    assert node.ring.seconds_to_change() == LEAD_S
    node.to(T)
    assert node.ring.seconds_to_change() == 90  # the first epoch's key ends
    first = node.ring.accepted()[0]
    node.clocks.pass_(90.001)
    assert first not in node.ring.accepted()
    assert node.ring.advance()


# --- numbers -----------------------------------------------------------------------------------------


def directory(publisher: Publisher, epoch: int) -> Directory:
    node = Prepared().entry
    publication = asyncio.run(node.publish(T))
    listed = Directory.decode(codec.decode_directory_reply(publication.reply).directory)
    return Directory(deployment="localhost", epoch=epoch, epoch_s=T, seq=publisher.next_seq(epoch), nodes=listed.nodes)


def test_a_worker_counts_on_where_the_one_before_has_ended() -> None:
    signer, epoch = NoteSigner.generate("localhost/directory"), START // T
    first = Publisher(signer)
    numbers = []
    for _ in range(3):
        made = directory(first, epoch)
        first.sign(made)
        numbers.append(made.seq)
    second = Publisher(signer, after=dict(first.used))
    assert (numbers, second.next_seq(epoch), second.next_seq(epoch + 1)) == ([0, 1, 2], 3, 0)
    assert second.node_key == first.node_key


def test_each_worker_has_sixteen_numbers_in_an_epoch() -> None:
    publisher, epoch = Publisher(NoteSigner.generate("localhost/directory"), after={START // T: 40}), START // T
    listed = directory(publisher, epoch)
    for _ in range(MAX_SEQ + 1):
        publisher.sign(
            Directory(deployment="localhost", epoch=epoch, epoch_s=T, seq=publisher.next_seq(epoch), nodes=listed.nodes)
        )
    assert publisher.used == ((epoch, 40 + MAX_SEQ + 1),)
    with pytest.raises(Limit):
        publisher.next_seq(epoch)
    assert publisher.next_seq(epoch + 1) == 0


def test_a_clock_that_is_set_back_meets_no_number_again() -> None:
    """Two directories of one epoch and number end the use of a deployment until a person comes (SPEC 5)."""
    signer, epoch = NoteSigner.generate("localhost/directory"), START // T
    publisher, told = Publisher(signer), list[tuple[int, int]]()
    for step in (0, 1, 0, 1, 0):  # half a second back and forth over the border of two epochs, and a worker that ends
        made = directory(publisher, epoch + step)
        publisher.sign(made)
        told.append((made.epoch - epoch, made.seq))
        publisher = Publisher(signer, after=dict(publisher.used))
    assert told == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
    for later in range(2, 3 * KEPT_EPOCHS):
        publisher.sign(directory(publisher, epoch + later))
    assert len(publisher.used) == KEPT_EPOCHS


def test_nothing_is_published_under_a_number_that_the_launcher_was_not_told() -> None:
    """A launcher that reads late has a full socket: what it misses, the next worker would use again."""

    async def main() -> tuple[list[str], list[object]]:
        order, told, room = list[str](), list[object](), [False, False, True]

        def tell(**message: object) -> bool:
            order.append("told")
            told.append(message["published"])
            return room.pop(0)

        settings = Settings(engine="fake", epoch_s=T)
        worker = Worker(settings, open_fake(settings), tell=tell)
        ours, theirs = socket.socketpair()
        link = await Link.connect(ours.detach(), lambda frame: order.append(frame.kind.name), lambda: None)
        await worker.connect(theirs.detach())
        await asyncio.sleep(0.1)
        link.close()
        return order, told

    order, told = asyncio.run(main())
    assert order == ["told", "told", "told", "PUBLISH"]
    assert len({str(one) for one in told}) == 1


# --- under load --------------------------------------------------------------------------------------


class Load:
    """Callers that ask all the time, all with one directory of up to ``age_s``: an address gets 60 a minute."""

    def __init__(self, node: Node, callers: int, per_second: float, age_s: float) -> None:
        self._node = node
        self._pause_s = callers / per_second
        self._age_s = age_s
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self._clients = [Client(node)]
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        self._threads.append(threading.Thread(target=self._renew))

    def _call(self) -> None:
        while not self._stop.wait(self._pause_s):
            self.outcomes[self._ask(self._clients[-1])] += 1

    def _renew(self) -> None:
        while not self._stop.wait(self._age_s):
            self._clients.append(Client(self._node))

    @staticmethod
    def _ask(client: Client) -> str:
        sealed, opener = client.seal(ask("hello", max_tokens=3))
        try:
            return "answered" if collect(client.send(client.encode(sealed)), opener).receipt else "no receipt"
        except grpc.RpcError as error:
            return str(error.details())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        for client in self._clients:
            client.close()


def rotations(node: Node) -> int:
    return len(node.events("published")) - 1


def turn_over(times: int, epoch_s: int) -> Counter[str]:
    """Let keys turn over so many times under 20 requests a second; returns how these ended."""
    with Node("--epoch-s", str(epoch_s)) as node, Load(node, callers=4, per_second=20, age_s=epoch_s) as load:
        until(lambda: rotations(node) >= times, times * epoch_s + 30)
        return load.outcomes


@pytest.mark.linux
def test_ten_turns_of_the_keys_fail_nobody() -> None:
    outcomes = turn_over(10, 1)
    assert set(outcomes) == {"answered"}
    assert outcomes["answered"] > 50


@pytest.mark.linux
@pytest.mark.soak
def test_a_hundred_turns_of_the_keys_fail_nobody() -> None:
    assert set(turn_over(100, 1)) == {"answered"}


@pytest.mark.linux
@pytest.mark.soak
def test_an_epoch_of_two_seconds_fails_nobody_for_a_minute() -> None:
    outcomes = turn_over(30, 2)
    assert set(outcomes) == {"answered"}
    assert outcomes["answered"] > 600


@pytest.mark.linux
def test_rotating_by_hand_fails_nobody_and_revoking_does() -> None:
    """The control: a key that ends at once is told to whoever still uses it, so a failed request would be seen."""
    with Node("--admin", "127.0.0.1:0", "--epoch-s", "900") as node, Load(node, 4, 20, age_s=600) as load:
        until(lambda: load.outcomes["answered"] > 4)
        for _ in range(10):
            assert call(node, "POST", "/keys/rotate", MARK)[0] == 200
        said = load.outcomes["answered"]
        until(lambda: load.outcomes["answered"] > said + 8)
        assert set(load.outcomes) == {"answered"}
        for key in call(node, "GET", "/keys")[1]["keys"]:
            call(node, "POST", f"/keys/revoke?key={key['id']}", MARK)
        until(lambda: load.outcomes["STALE_KEY"] > 4)


# --- retired -----------------------------------------------------------------------------------------


def test_a_retired_key_is_unusable_at_once() -> None:
    node = Prepared()
    node.to(0)
    named = Publication.decode(node.published.encode()).accepted[0]
    assert node.ring.find(named)
    node.clocks.pass_(T + 91)  # nobody has advanced the ring
    with pytest.raises(StaleKey):
        node.ring.find(named)


KEEPER = """
import sys
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hybrid.wire.keys import EpochKey
from pcc_server.keys import KeyRing

def shown(epoch, epoch_s):
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    sys.stdout.write(f"{mlkem.private_bytes_raw()[32:].hex()} {x25519.private_bytes_raw().hex()}\\n")
    return EpochKey(mlkem, x25519, epoch=epoch, epoch_s=epoch_s)

EpochKey.generate = shown
now = 1_800_000_000.0
ring = KeyRing(300, now=lambda: now, boot=lambda: now)
sys.stdout.flush()
for line in sys.stdin:
    now += 391.0 if line == "time\\n" else 0.0
    ring.advance() if line == "time\\n" else ring.revoke(ring.current()[0].key.config.key_id)
    sys.stdout.write("done\\n")
    sys.stdout.flush()
"""  # a test build: it shows, once, the parts of each private key that memory holds as they are


@pytest.mark.linux
@pytest.mark.parametrize("how", ["time", "revoke"])
def test_a_retired_key_is_gone_from_memory(how: str) -> None:
    """Needs root: it reads another process's memory. The heap is a worker's, which overwrites what it frees."""
    words = [sys.executable, "-P", "-s", "-B", "-c", KEEPER]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment("worker"), text=True, stdin=pipe, stdout=pipe) as keeper:
        assert keeper.stdin
        assert keeper.stdout
        lines = [keeper.stdout.readline().split() for _ in range(2)]  # of this epoch and the next, in some order
        secrets = {
            f"{kind} {n}": bytes.fromhex(w) for n, line in enumerate(lines) for kind, w in zip("mx", line, strict=True)
        }
        assert all(scan(keeper.pid, secrets).values())  # the control: while they live they are found
        print(how, file=keeper.stdin, flush=True)
        assert "done\n" in iter(keeper.stdout.readline, "")  # after the keys that were made meanwhile
        found = scan(keeper.pid, secrets)
        gone = [{n[-1] for n, count in found.items() if n[0] == kind and not count} for kind in "mx"]
        assert gone[0] == gone[1]
        assert len(gone[0]) == 1  # the other still lives, which shows that the scan still sees
        keeper.stdin.close()
