"""A real router in front of real nodes, and a client that seals to several candidates."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hybrid.wire import codec
from hybrid.wire.attest import AttestReply
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.envelope import Candidate, ReplyOpener, RequestSealer, SealedRequest
from hybrid.wire.evidence import Bundle
from tests.pcc_server.node_client import Answer, Client, Node, ask, collect


class Router(Node):
    """``pcc-server route --json`` on a free port."""

    def __init__(self, nodes: Sequence[Node], *options: str, wait: bool = True) -> None:
        places = [word for node in nodes for word in ("--node", node.address)]
        super().__init__(*places, *options, verb="route", wait=wait)


def candidate(bundle: Bundle) -> Candidate:
    """What a client that has verified a bundle would seal to."""
    statement = bundle.statement
    key = next(key for key in statement.keys if (key.epoch + 1) * key.epoch_s + CLOCK_TOLERANCE_S > time.time())
    return Candidate(identity=statement.identity, key=key, bundle_id=bundle.id, manifest=statement.models[0].manifest)


class ManyClient(Client):
    """Seals to the listed nodes, in the order asked for. node: whom it talks to."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node = node

    def reply(self) -> codec.DirectoryReply:
        return codec.decode_directory_reply(codec.join_parts(list(self._get(b"", timeout=10))))

    def newest(self) -> Directory:
        return Directory.decode(self.reply().directory)

    def leaf(self) -> Leaf:
        return Leaf.decode(self.reply().leaf)

    def candidates(self) -> dict[bytes, Candidate]:
        """By node id, in the directory's order."""
        return {node.bundle.statement.identity.node_id: candidate(node.bundle) for node in self.newest().nodes}

    def seal_to(
        self, candidates: Sequence[Candidate], text: str, *, token: bytes = b""
    ) -> tuple[SealedRequest, ReplyOpener]:
        sealer = RequestSealer(
            candidates=candidates,
            model_id=self.model_id,
            directory_id=self.directory.id,
            deadline_ms=60_000,
            token=token,
        )
        return sealer.seal(ask(text, max_tokens=20))

    @staticmethod
    def encode_with(sealed: SealedRequest, token: bytes = b"") -> bytes:
        return codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages, token=token)

    def ask_of(self, candidates: Sequence[Candidate], text: str, *, token: bytes = b"") -> Answer:
        sealed, opener = self.seal_to(candidates, text, token=token)
        return collect(self.send(self.encode_with(sealed, token)), opener)

    def fetch(self, method: str, request: bytes) -> bytes:
        parts = list(self.channel.unary_stream(codec.METHODS[method])(request, timeout=30))
        return codec.join_parts(parts) if parts else b""

    def attest(self, node_id: bytes, nonce: bytes) -> AttestReply:
        return AttestReply.decode(self.fetch("Evidence.Attest", codec.encode_attest_request(node_id, nonce)))


def node_id(node: Node) -> bytes:
    """The id a node goes by, from its own directory."""
    with Client(node) as client:
        return client.candidate.identity.node_id


def published(client: ManyClient, wanted: Callable[[Directory], bool], timeout: float = 30.0) -> Directory:
    """Wait for a directory that is as wanted, no faster than the limit on Directory.Get bears."""
    end = time.monotonic() + timeout
    while not wanted(found := client.newest()):
        assert time.monotonic() < end, "no such directory in time"
        time.sleep(0.7)
    return found


@contextmanager
def routed(nodes: Sequence[Node], *options: str) -> Iterator[ManyClient]:
    """Run a router before nodes; yields a client that talks to it."""
    with Router(nodes, *options) as router, ManyClient(router) as client:
        yield client
