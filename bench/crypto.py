"""Crypto of one sealed request of 16 KiB: the client's for one and three candidates, the node's at first and in all.

Baseline, alternating with it: plain AES-256-GCM over the same bytes and one X-Wing encapsulation or decapsulation.
Last, all checks of a node that was never seen before (tier 0, no log), from the directory's bytes; its baseline is the
bundle's Ed25519 and ML-DSA-65 signature alone. Median of 50 each; no network, no model.
"""

import asyncio
import secrets
import time
from collections.abc import Callable

from _rows import row
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hybrid.testing import MemoryTransport
from hybrid.trust.verify import Verifier
from hybrid.wire.codec import decode_directory_reply, encode_request
from hybrid.wire.constants import FRAME_BYTES, KEY_PACKAGE_PLAIN_BYTES, RECEIPT_FRAMES
from hybrid.wire.directory import Directory
from hybrid.wire.envelope import Candidate, ReplySealer, RequestOpener, RequestSealer, SealedRequest
from hybrid.wire.keys import EpochKey, IdentityKey, hpke_suite
from hybrid.wire.receipt import ReceiptFacts, UsageReport
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Message, Role, Usage

ROUNDS = 50
BYTES = 16 * 1024
MODEL, MANIFEST = "smollm2-135m", bytes(32)
USAGE = UsageReport(usage=Usage(input=4000, output=1), finish=FinishReason.STOP, params={"max_tokens": 512})
REPLY_FRAMES = 2 + RECEIPT_FRAMES + 1  # one of text, the usage, the receipt, the final one
LIMIT_MS = {
    "client, k=1": 2,
    "client, k=3": 2,
    "node, to the first frame": 1,
    "node, whole": 1,
    "first verification": 20,
}


class Node:
    """One node's keys, and the client's view of it."""

    def __init__(self) -> None:
        self.identity, self.key = IdentityKey.generate(), EpochKey.generate(1, 300)
        self.candidate = Candidate(
            identity=self.identity.public, key=self.key.config, bundle_id=bytes(32), manifest=MANIFEST
        )


class Stranger:
    """A node whose keys nobody has seen, and its directory as it comes over the wire."""

    def __init__(self) -> None:
        transport = MemoryTransport()
        self._policy = transport.policy
        self._reply = asyncio.run(transport.directory())

    def verify(self) -> None:
        """Do what a client does before it seals to a node for the first time."""
        reply = decode_directory_reply(self._reply)
        Verifier(self._policy).verify(reply, peer_is_loopback=True, now=time.time())

    def signature(self) -> None:
        """Check the bundle's double signature and nothing else."""
        bundle = Directory.decode(decode_directory_reply(self._reply).directory).nodes[0].bundle
        bundle.verify_signature()


class Plain:
    """The baseline: the same bytes under one key that travels in one HPKE message."""

    def __init__(self, data: bytes) -> None:
        self._key = EpochKey.generate(1, 300)
        self._public = self._key.config.hpke_public_key()
        self._data, self._nonce = data, bytes(12)
        self._sealed = AESGCM(bytes(32)).encrypt(self._nonce, data, None)
        self._package = self._wrap(bytes(KEY_PACKAGE_PLAIN_BYTES))

    def _wrap(self, secret: bytes) -> bytes:
        return hpke_suite().encrypt(secret, self._public, b"")

    def seal(self) -> bytes:
        """Do what a client would."""
        key = secrets.token_bytes(32)
        self._wrap(key.ljust(KEY_PACKAGE_PLAIN_BYTES, b"\0"))
        return AESGCM(key).encrypt(self._nonce, self._data, None)

    def open(self) -> None:
        """Do what a node would before it answers."""
        secret = self._key.decrypt(self._package, b"")
        AESGCM(secret[:32]).decrypt(self._nonce, self._sealed, None)

    def answer(self) -> None:
        """Do what a node would in all; its reply is one message."""
        self.open()
        AESGCM(secrets.token_bytes(32)).encrypt(self._nonce, bytes(REPLY_FRAMES * FRAME_BYTES), None)


def request() -> GenerateRequest:
    """Return a request that just fits into the bucket of 16 KiB."""

    def asking(size: int) -> GenerateRequest:
        return GenerateRequest(messages=(Message(role=Role.USER, content="x" * size),))

    return asking(BYTES - 4 - (len(encode_request(asking(BYTES))) - BYTES))


REQUEST = request()


def seal(nodes: list[Node]) -> SealedRequest:
    """Do the client's part before sending."""
    sealer = RequestSealer(
        candidates=[node.candidate for node in nodes], model_id=MODEL, directory_id=bytes(32), deadline_ms=60_000
    )
    return sealer.seal(REQUEST)[0]


def begin(sealed: SealedRequest, node: Node) -> ReplySealer:
    """Do the node's part up to the first frame of the answer."""
    opener = RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[0], index=0)
    _, reply = opener.open(node.key)
    reply.data(Chunk(text="Paris", tokens=1))
    return reply


def answer(sealed: SealedRequest, node: Node) -> None:
    """Do all of the node's part, the signed receipt included."""
    reply = begin(sealed, node)
    reply.usage(USAGE)
    reply.finish(ReceiptFacts(model_id=MODEL, manifest=MANIFEST, usage=USAGE, finish=USAGE.finish), node.identity)


def ms(work: Callable[[], object]) -> float:
    """Time one call, in milliseconds."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print five rows."""
    nodes = [Node() for _ in range(3)]
    sealed = seal(nodes[:1])
    plain = Plain(bytes(len(sealed.body)))
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "client, k=1": (lambda: seal(nodes[:1]), plain.seal),
        "client, k=3": (lambda: seal(nodes), plain.seal),
        "node, to the first frame": (lambda: begin(sealed, nodes[0]), plain.open),
        "node, whole": (lambda: answer(sealed, nodes[0]), plain.answer),
    }
    for name, (ours, baseline) in pairs.items():
        ours()
        baseline()
        told(name, [(ms(ours), ms(baseline)) for _ in range(ROUNDS)], "AES-256-GCM and one X-Wing, same bytes")
    strangers = [Stranger() for _ in range(ROUNDS + 1)]
    figures = [(ms(stranger.verify), ms(stranger.signature)) for stranger in strangers][1:]
    told("first verification", figures, "the bundle's double signature alone")


def told(name: str, figures: list[tuple[float, float]], baseline: str) -> None:
    """Print one row."""
    row(
        f"crypto: {name}",
        ours=[pair[0] for pair in figures],
        baseline=[pair[1] for pair in figures],
        unit="ms",
        smaller_is_better=True,
        p95=round(sorted(pair[0] for pair in figures)[int(0.95 * ROUNDS)], 4),
        limit=LIMIT_MS[name],
        baseline_name=baseline,
    )


if __name__ == "__main__":
    main()
