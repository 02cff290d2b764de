"""A deployment made by hand from `hybrid.wire`: keys, a directory with any one thing wrong, a node's replies."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid.errors import HybridError
from hybrid.remote_errors import refused
from hybrid.routing.decision import Decision, Layer, Reason
from hybrid.trust.policy import Policy
from hybrid.trust.verify import VerifiedDirectory, Verifier
from hybrid.wire.codec import (
    DirectoryReply,
    decode_invoke_request,
    decode_request,
    encode_directory_reply,
    encode_invoke_reply,
)
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO, FRAME_BYTES
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.encoding import v4
from hybrid.wire.entries import sign
from hybrid.wire.envelope import ReplySealer, RequestOpener
from hybrid.wire.errors import ErrorCode
from hybrid.wire.evidence import Bundle, EvidenceItem, ModelEntry, Statement, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey, KeyConfig
from hybrid.wire.note import NoteSigner
from hybrid.wire.receipt import ReceiptFacts, SealedError, UsageReport
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Message, Role, Route, Usage

EPOCH_S = 300
EPOCH = 5_900_000
NOW = EPOCH * EPOCH_S + 100.0  # 100 s into the epoch
MODEL = ModelEntry(model_id="fake", manifest=bytes(range(32)), context_tokens=2048, max_output_tokens=512)
SOFTWARE_ITEM = EvidenceItem(format="software")


@dataclass
class Maker:
    """One node's keys and whatever is to be said about it. Every method signs anew, so what is wrong is wrong alone."""

    now: float = NOW
    deployment: str = "localhost"
    signer: NoteSigner = field(default_factory=lambda: NoteSigner.generate("localhost/directory"))
    identity: IdentityKey = field(default_factory=IdentityKey.generate)

    def __post_init__(self) -> None:
        self.epoch = int(self.now // EPOCH_S)
        self.keys = [EpochKey.generate(self.epoch + n, EPOCH_S) for n in range(2)]

    def statement(self, **changes: Any) -> Statement:
        start = self.epoch * EPOCH_S
        good = Statement(
            deployment=self.deployment,
            identity=self.identity.public,
            not_before=start,
            not_after=start + 2 * EPOCH_S,
            keys=tuple(key.config for key in self.keys),
            models=(MODEL,),
            config_digest=bytes(32),
        )
        return replace(good, **changes)

    def bundle(self, items: Sequence[EvidenceItem] = (SOFTWARE_ITEM,), **changes: Any) -> Bundle:
        return Bundle.decode(make_bundle(self.statement(**changes), items, self.identity))

    def bundle_signed_by(self, identity: IdentityKey) -> Bundle:
        return Bundle.decode(make_bundle(self.statement(), (SOFTWARE_ITEM,), identity))

    def changed_key(self, **changes: Any) -> KeyConfig:
        return replace(self.keys[0].config, **changes)

    def directory(self, *bundles: Bundle, weights: Sequence[int] = (), **changes: Any) -> Directory:
        listed = bundles or (self.bundle(),)
        nodes = tuple(ListedNode(weight=w, bundle=b) for w, b in zip(weights or [1] * len(listed), listed, strict=True))
        fields = {"deployment": self.deployment, "epoch": self.epoch, "epoch_s": EPOCH_S, "nodes": nodes, **changes}
        return Directory(**fields)

    def reply(self, *bundles: Bundle, **changes: Any) -> DirectoryReply:
        return self.signed(self.directory(*bundles, **changes))

    def signed(self, directory: Directory) -> DirectoryReply:
        return DirectoryReply(directory=directory.encode(), leaf=own_leaf(directory, self.signer))

    def with_raw_bundle(self, raw: bytes) -> DirectoryReply:
        """A directory whose one bundle is these bytes, signed as if it were well-formed."""
        directory = self.directory()
        swapped = directory.raw.replace(v4(directory.nodes[0].bundle.raw), v4(raw))
        leaf = own_leaf(replace(directory, raw=swapped), self.signer)
        return DirectoryReply(directory=swapped, leaf=leaf)

    def policy(self, **changes: Any) -> Policy:
        return replace(Policy.pinned(self.signer.vkey), **changes)

    def verified(self, *bundles: Bundle, **changes: Any) -> VerifiedDirectory:
        return Verifier(self.policy()).verify(self.reply(*bundles, **changes), peer_is_loopback=True, now=self.now)


def own_leaf(directory: Directory, signer: NoteSigner) -> bytes:
    """The directory's own Leaf, without a log."""
    return Leaf(entry=sign(directory.entry(), signer), checkpoint_no=ENTRY_CHECKPOINT_NO).encode()


def asked(text: str = "What is the capital of France?", **sampling: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role=Role.USER, content=text),), **sampling)


def decision(route: Route = Route.PRIVATE_CLOUD) -> Decision:
    reason = Reason(code="complex", layer=Layer.COMPLEXITY, text="complex")
    return Decision(route=route, score=0.9, threshold=0.5, reasons=(reason,), signals={}, counterfactual=None)


USAGE = UsageReport(
    usage=Usage(input=7, output=3), finish=FinishReason.STOP, params={"max_tokens": 512, "temperature": "0"}
)
ANSWER = ("Paris", " it", " is.")

Reply = Callable[["ReplySealer", GenerateRequest, "FakeWorker"], list[bytes]]


def finished(sealer: ReplySealer, worker: "FakeWorker", usage: UsageReport | None = USAGE, *, status: int = 0) -> bytes:
    facts = ReceiptFacts(
        model_id=MODEL.model_id,
        manifest=MODEL.manifest,
        usage=usage,
        finish=usage.finish if usage else None,
        status=status,
    )
    frames, final = sealer.finish(facts, worker.maker.identity, now=lambda: worker.maker.now)
    return encode_invoke_reply(frames=frames, final=final)


def good(sealer: ReplySealer, _: GenerateRequest, worker: "FakeWorker") -> list[bytes]:
    """The whole of a good reply, one message per frame."""
    messages = [encode_invoke_reply(head=sealer.head)]
    messages += [encode_invoke_reply(frames=sealer.data(Chunk(text=text, tokens=1))) for text in ANSWER]
    messages.append(encode_invoke_reply(frames=sealer.usage(USAGE)))
    return [*messages, finished(sealer, worker)]


def failing(error: SealedError) -> Reply:
    """A reply that consists of one sealed error."""

    def reply(sealer: ReplySealer, _: GenerateRequest, worker: "FakeWorker") -> list[bytes]:
        head = encode_invoke_reply(head=sealer.head, frames=sealer.error(error))
        return [head, finished(sealer, worker, None, status=1)]

    return reply


@dataclass
class FakeWorker:
    """What a node does with one request: opens it with real keys, answers by script."""

    maker: Maker
    reply: Reply = good
    tamper: Callable[[list[bytes]], list[bytes]] = list
    refusals: list[ErrorCode] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    opened: list[GenerateRequest] = field(default_factory=list)
    directories: int = 0

    def directory(self) -> bytes:
        self.directories += 1
        reply = self.maker.reply(seq=self.directories)
        return encode_directory_reply(directory=reply.directory, leaf=reply.leaf)

    def answer(self, data: bytes) -> list[bytes] | ErrorCode:
        self.seen.append(data)
        if self.refusals:
            return self.refusals.pop(0)
        invoke = decode_invoke_request(data)
        opener = RequestOpener(header=invoke.header, body=invoke.body, key_package=invoke.key_packages[0], index=0)
        key = next(k for k in self.maker.keys if k.config.key_id == opener.entry.ek_id)
        plain, sealer = opener.open(key)
        self.opened.append(decode_request(plain))
        return self.tamper(self.reply(sealer, self.opened[-1], self))


@dataclass
class DirectTransport:
    """The transport without a network: a worker's bytes, handed over in memory."""

    worker: FakeWorker
    address: str = "127.0.0.1:1"
    peer_is_loopback: bool = True
    delay: Callable[[int], float] = lambda _: 0.0
    ends_with: HybridError | None = None
    cancelled: int = 0
    closed: bool = False

    async def directory(self) -> bytes:
        return self.worker.directory()

    async def exchange(self, sealed: bytes, deadline_s: float) -> AsyncIterator[bytes]:
        import asyncio

        answer = self.worker.answer(sealed)
        if isinstance(answer, ErrorCode):
            raise refused(answer)
        try:
            for number, message in enumerate(answer):
                await asyncio.sleep(self.delay(number))
                yield message
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise
        if self.ends_with is not None:
            raise self.ends_with

    async def close(self) -> None:
        self.closed = True


def live() -> Maker:
    """A maker for tests that read the real clock, away from an epoch's edge."""
    return Maker(now=time.time())


def frames_of(data: bytes) -> list[bytes]:
    return [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)]
