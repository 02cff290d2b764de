"""Nodes in this process: real keys, real evidence at tier 0, real sealing, no network and no other process.

It is a ``Transport`` for ``Client(transport=…, trust=transport.policy)``, and remembers what it decrypted: the place to
look for what must never have left.
"""

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from hybrid.errors import APIConnectionError, HybridError
from hybrid.remote_errors import refused
from hybrid.trust.policy import Policy
from hybrid.wire.attest import AttestReply
from hybrid.wire.codec import (
    InvokeRequest,
    decode_invoke_request,
    decode_request,
    encode_directory_reply,
    encode_invoke_reply,
)
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO, FRAME_BYTES
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.entries import sign
from hybrid.wire.envelope import ReplySealer, RequestOpener
from hybrid.wire.errors import ErrorCode, SealedCode
from hybrid.wire.evidence import Bundle, EvidenceItem, ModelEntry, Statement, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.note import NoteSigner
from hybrid.wire.receipt import STATUS_ERROR, STATUS_OK, ReceiptFacts, SealedError, UsageReport
from hybrid.wire.types import Engine, FinishReason, GenerateRequest, Usage

from .engine import FakeEngine

EPOCH_S = 300


def _flipped(messages: list[bytes]) -> list[bytes]:
    middle = len(messages) // 2
    data = bytearray(messages[middle])
    data[-FRAME_BYTES // 2] ^= 1
    return [*messages[:middle], bytes(data), *messages[middle + 1 :]]


# What a hostile or broken way from the node does to its messages: head, data..., usage, receipt and final frame.
FAULTS: Mapping[object, Callable[[list[bytes]], list[bytes]]] = {
    "cut_stream": lambda messages: messages[: len(messages) // 2],
    "no_final": lambda messages: messages[:-1],
    "flip_bit": _flipped,
    "reorder": lambda messages: [messages[0], messages[2], messages[1], *messages[3:]],
    "duplicate": lambda messages: [*messages[:2], messages[1], *messages[2:]],
}


class _MemoryNode:
    """One node's keys, in memory."""

    def __init__(self) -> None:
        self.identity = IdentityKey.generate()
        self.keys: dict[int, EpochKey] = {}

    @property
    def node_id(self) -> str:
        return self.identity.public.node_id.hex()


class MemoryTransport:
    """Stateless nodes behind a ``Transport``, answering with an engine of your choice.

    engine: a ``FakeEngine`` by default, with context ``context_tokens``.  fault: of ``FAULTS``, or ``no_directory``,
    ``other_key``, an error to raise in place of an answer, the ``ErrorCode`` of a refusal, or the ``SealedCode`` of a
    sealed one; it strikes every exchange until it is set to None.  weights: one per node.  access_key: what a request
    must carry, empty for nothing.
    requests: everything they decrypted.  sealed: the bytes that came.  contacts: how often evidence was fetched.
    node_ids: hex.  down: those that hand over to the next candidate.  answered_by: who answered, in order.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        fault: str | HybridError | ErrorCode | SealedCode | None = None,
        context_tokens: int = 32_768,
        address: str = "127.0.0.1:1",
        loopback: bool = True,
        weights: Sequence[int] = (1,),
        access_key: bytes = b"",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine or FakeEngine(["an answer from the node"], model_id="fake", context_size=context_tokens)
        self.fault = fault
        self.address = address
        self.peer_is_loopback = loopback
        self.requests: list[GenerateRequest] = []
        self.sealed: list[bytes] = []
        self.contacts = 0
        self._context = context_tokens
        self._now = now
        self._signer = NoteSigner.generate("memory/directory")
        self._weights = tuple(weights)
        self._access_key = access_key
        self._nodes = {node.node_id: node for node in (_MemoryNode() for _ in self._weights)}
        self.node_ids = tuple(self._nodes)
        self.down: set[str] = set()
        self.answered_by: list[str] = []

    @property
    def policy(self) -> Policy:
        """The trust policy that pins the key these nodes are listed under."""
        return Policy.pinned(self._signer.vkey)

    async def directory(self) -> bytes:
        """Sign a directory of the nodes, as of now."""
        self.contacts += 1
        if self.fault == "no_directory":
            raise APIConnectionError("nothing answers")
        signer = NoteSigner.generate("memory/directory") if self.fault == "other_key" else self._signer
        directory = self._directory()
        leaf = Leaf(entry=sign(directory.entry(), signer), checkpoint_no=ENTRY_CHECKPOINT_NO)
        return encode_directory_reply(directory=directory.encode(), leaf=leaf.encode())

    async def log_file(self, path: str) -> bytes:
        """Refuse: these nodes keep no log."""
        del path
        raise refused(ErrorCode.MALFORMED)

    async def attest(self, node_id: bytes, nonce: bytes) -> bytes:
        """Answer with the empty evidence of tier 0, over the nonce."""
        del node_id
        return AttestReply(nonces=(nonce,), items=(EvidenceItem(format="software"),)).encode()

    async def event_log(self, node_id: bytes) -> bytes:
        """Return nothing: no firmware started these nodes."""
        del node_id
        return b""

    async def exchange(self, sealed: bytes, deadline_s: float) -> AsyncIterator[bytes]:
        """Open a request, answer it, seal the answer frame by frame."""
        del deadline_s
        self.sealed.append(sealed)
        if isinstance(self.fault, ErrorCode):
            raise refused(self.fault)
        if isinstance(self.fault, HybridError):
            raise self.fault
        tamper = FAULTS.get(self.fault)
        if tamper is None:
            async for message in self._answer(sealed):
                yield message
            return
        for message in tamper([message async for message in self._answer(sealed)]):
            yield message

    async def close(self) -> None:
        """Nothing to drop."""

    async def _answer(self, sealed: bytes) -> AsyncIterator[bytes]:
        invoke = decode_invoke_request(sealed)
        node, opener = self._first_up(invoke)
        self.answered_by.append(node.node_id)
        key = next(k for k in node.keys.values() if k.config.key_id == opener.entry.ek_id)
        plain, sealer = opener.open(key)
        request = decode_request(plain)
        self.requests.append(request)
        yield encode_invoke_reply(head=sealer.head)
        if isinstance(self.fault, SealedCode):
            error = SealedError(code=self.fault, first=self._context, second=self._context + 1)
            yield encode_invoke_reply(frames=sealer.error(error))
            yield self._finish(node, sealer, None)
            return
        report = UsageReport(usage=Usage(), finish=FinishReason.STOP)
        try:
            async for chunk in self.engine.generate(request, partition="node"):
                if chunk.finish_reason is None:
                    yield encode_invoke_reply(frames=sealer.data(chunk))
                else:
                    report = UsageReport(usage=chunk.usage or Usage(), finish=chunk.finish_reason)
        except HybridError:
            yield encode_invoke_reply(frames=sealer.error(SealedError(code=SealedCode.ENGINE_FAILED)))
            yield self._finish(node, sealer, None)
            return
        yield encode_invoke_reply(frames=sealer.usage(report))
        yield self._finish(node, sealer, report)

    def _first_up(self, invoke: InvokeRequest) -> tuple[_MemoryNode, RequestOpener]:
        """Try the candidates in the client's order, as a router does. Raises the refusal of the last."""
        if not hmac.compare_digest(invoke.token, self._access_key):
            raise refused(ErrorCode.TOKEN)
        for index, package in enumerate(invoke.key_packages):
            opener = RequestOpener(header=invoke.header, body=invoke.body, key_package=package, index=index)
            node = self._nodes[opener.entry.node_id.hex()]
            if node.node_id not in self.down:
                return node, opener
        raise refused(ErrorCode.BUSY)

    def _finish(self, node: _MemoryNode, sealer: ReplySealer, report: UsageReport | None) -> bytes:
        model = self._model()
        facts = ReceiptFacts(
            model_id=model.model_id,
            manifest=model.manifest,
            usage=report,
            finish=report.finish if report else None,
            status=STATUS_OK if report else STATUS_ERROR,
        )
        frames, final = sealer.finish(facts, node.identity, now=self._now)
        return encode_invoke_reply(frames=frames, final=final)

    def _directory(self) -> Directory:
        epoch = int(self._now() // EPOCH_S)
        pairs = zip(self._weights, self._nodes.values(), strict=True)
        listed = tuple(ListedNode(weight=weight, bundle=self._bundle(node, epoch)) for weight, node in pairs)
        return Directory(deployment="localhost", epoch=epoch, epoch_s=EPOCH_S, seq=self.contacts, nodes=listed)

    def _bundle(self, node: _MemoryNode, epoch: int) -> Bundle:
        for number in (epoch, epoch + 1):
            node.keys.setdefault(number, EpochKey.generate(number, EPOCH_S))
        statement = Statement(
            deployment="localhost",
            identity=node.identity.public,
            not_before=epoch * EPOCH_S,
            not_after=(epoch + 2) * EPOCH_S,
            keys=(node.keys[epoch].config, node.keys[epoch + 1].config),
            models=(self._model(),),
            config_digest=bytes(32),
        )
        return Bundle.decode(make_bundle(statement, (EvidenceItem(format="software"),), node.identity))

    def _model(self) -> ModelEntry:
        model_id = self.engine.model_id
        return ModelEntry(
            model_id=model_id,
            manifest=hashlib.sha256(model_id.encode()).digest(),
            context_tokens=self._context,
            max_output_tokens=self._context,
        )
