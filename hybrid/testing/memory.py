"""A node in this process: real keys, real evidence at tier 0, real sealing, no network and no other process.

It is a ``Transport`` for ``Client(transport=…, trust=transport.policy)``, and remembers what it decrypted: the place to
look for what must never have left.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping

from hybrid.errors import APIConnectionError, HybridError
from hybrid.remote_errors import refused
from hybrid.trust.policy import Policy
from hybrid.wire.codec import (
    decode_invoke_request,
    decode_request,
    encode_directory_reply,
    encode_invoke_reply,
)
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.directory import Directory, ListedNode, sign_entry
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


class MemoryTransport:
    """A stateless node behind a ``Transport``, answering with an engine of your choice.

    engine: a ``FakeEngine`` by default, with context ``context_tokens``.  fault: of ``FAULTS``, or ``no_directory``,
    ``other_key``, an error to raise in place of an answer, the ``ErrorCode`` of a refusal, or the ``SealedCode`` of a
    sealed one; it strikes every exchange until it is set to None.
    requests: everything it decrypted.  sealed: the bytes that came.  contacts: how often evidence was fetched.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        fault: str | HybridError | ErrorCode | SealedCode | None = None,
        context_tokens: int = 32_768,
        address: str = "127.0.0.1:1",
        loopback: bool = True,
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
        self._identity = IdentityKey.generate()
        self._keys: dict[int, EpochKey] = {}

    @property
    def policy(self) -> Policy:
        """The trust policy that pins this node's key."""
        return Policy.pinned(self._signer.vkey)

    async def directory(self) -> bytes:
        """Sign a directory of one node, as of now."""
        self.contacts += 1
        if self.fault == "no_directory":
            raise APIConnectionError("nothing answers")
        signer = NoteSigner.generate("memory/directory") if self.fault == "other_key" else self._signer
        directory = self._directory()
        return encode_directory_reply(directory=directory.encode(), leaf=sign_entry(directory, signer))

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
        opener = RequestOpener(header=invoke.header, body=invoke.body, key_package=invoke.key_packages[0], index=0)
        key = next(k for k in self._keys.values() if k.config.key_id == opener.entry.ek_id)
        plain, sealer = opener.open(key)
        request = decode_request(plain)
        self.requests.append(request)
        yield encode_invoke_reply(head=sealer.head)
        if isinstance(self.fault, SealedCode):
            error = SealedError(code=self.fault, first=self._context, second=self._context + 1)
            yield encode_invoke_reply(frames=sealer.error(error))
            yield self._finish(sealer, None)
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
            yield self._finish(sealer, None)
            return
        yield encode_invoke_reply(frames=sealer.usage(report))
        yield self._finish(sealer, report)

    def _finish(self, sealer: ReplySealer, report: UsageReport | None) -> bytes:
        model = self._model()
        facts = ReceiptFacts(
            model_id=model.model_id,
            manifest=model.manifest,
            usage=report,
            finish=report.finish if report else None,
            status=STATUS_OK if report else STATUS_ERROR,
        )
        frames, final = sealer.finish(facts, self._identity, now=self._now)
        return encode_invoke_reply(frames=frames, final=final)

    def _directory(self) -> Directory:
        epoch = int(self._now() // EPOCH_S)
        for number in (epoch, epoch + 1):
            self._keys.setdefault(number, EpochKey.generate(number, EPOCH_S))
        statement = Statement(
            deployment="localhost",
            identity=self._identity.public,
            not_before=epoch * EPOCH_S,
            not_after=(epoch + 2) * EPOCH_S,
            keys=(self._keys[epoch].config, self._keys[epoch + 1].config),
            models=(self._model(),),
            config_digest=bytes(32),
        )
        bundle = Bundle.decode(make_bundle(statement, (EvidenceItem(format="software"),), self._identity))
        listed = (ListedNode(weight=1, bundle=bundle),)
        return Directory(deployment="localhost", epoch=epoch, epoch_s=EPOCH_S, seq=self.contacts, nodes=listed)

    def _model(self) -> ModelEntry:
        model_id = self.engine.model_id
        return ModelEntry(
            model_id=model_id,
            manifest=hashlib.sha256(model_id.encode()).digest(),
            context_tokens=self._context,
            max_output_tokens=self._context,
        )
