"""Both ends of one sealed reply (SPEC 8, 9): the node's sealer and the client's opener.

Each is made by the step before it (``envelope``), used once, and refuses to go on after its end.
"""

import hmac
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from .codec import decode_chunk, decode_usage, encode_chunk, encode_usage
from .constants import (
    DIGEST_BYTES,
    FRAMES_KEPT_BACK,
    HEAD_BYTES,
    RECEIPT_FRAMES,
)
from .encoding import digest, u8, u32
from .errors import (
    DecryptionError,
    Malformed,
    Misuse,
    ReceiptMismatch,
    ReplyOrder,
    TruncatedStream,
    WireError,
)
from .frames import FrameOpener, FrameSealer, FrameType
from .header import CandidateRef
from .keys import Identity, IdentityKey
from .receipt import STATUS_ERROR, STATUS_OK, Receipt, ReceiptFacts, SealedError, UsageReport
from .reply_secrets import params_digest, reply_secrets
from .types import Chunk

ReplyEvent: TypeAlias = Chunk | UsageReport | SealedError

_LAST_FRAMES = RECEIPT_FRAMES + 1
_MINUTE_S = 60


class ReplySealer:
    """The node's end of one reply. Send ``head`` first, then whatever the methods return, in order."""

    __slots__ = ("_failed", "_frames", "_index", "_q", "_ref", "_salt", "_tsalt", "head")

    head: bytes

    def __init__(self, secret: bytes, salt: bytes, *, q: bytes, index: int, ref: CandidateRef) -> None:
        """Derive the reply's keys; only ``RequestOpener.open`` does this."""
        secrets = reply_secrets(secret, salt, q=q, index=index, ref=ref)
        self._frames = FrameSealer(secrets.key, secrets.base, secrets.tsalt)
        self._q, self._index, self._ref, self._salt, self._tsalt = q, index, ref, salt, secrets.tsalt
        self._failed = False
        self.head = u8(index) + salt + secrets.commit

    def add(self, chunk: Chunk) -> None:
        """Collect text, counts and progress for ``take``. Raises ReplyFull when the answer must end with ``length``."""
        if self._failed:
            raise Misuse("after a sealed error only the receipt may follow")
        self._frames.add(FrameType.DATA, encode_chunk(chunk), keep_back=FRAMES_KEPT_BACK)

    def take(self) -> bytes:
        """Seal what was collected, in one go; empty when there is nothing. Every other method takes it along."""
        return self._frames.take()

    def data(self, chunk: Chunk) -> bytes:
        """Seal one chunk at once. Raises ReplyFull."""
        self.add(chunk)
        return self.take()

    def usage(self, report: UsageReport) -> bytes:
        """Seal a usage message; the last one is what the receipt speaks about."""
        return self._seal(FrameType.USAGE, encode_usage(report), keep_back=_LAST_FRAMES + 1)

    def dummy(self) -> bytes:
        """Seal one empty frame."""
        return self._seal(FrameType.DUMMY, b"", keep_back=FRAMES_KEPT_BACK)

    def error(self, error: SealedError) -> bytes:
        """Seal the one error a reply may have; only ``finish`` may follow, with status 1."""
        frames = self._seal(FrameType.ERROR, error.encode(), keep_back=_LAST_FRAMES)
        self._failed = True
        return frames

    def finish(
        self, facts: ReceiptFacts, identity: IdentityKey, now: Callable[[], float] = time.time
    ) -> tuple[bytes, bytes]:
        """Sign the receipt; returns its eight frames and the final frame."""
        if facts.status != (STATUS_ERROR if self._failed else STATUS_OK):
            raise Misuse("the status of a reply is 1 after a sealed error and 0 otherwise")
        before = self.take()
        receipt = self._receipt(facts, now()).signed(identity)
        frames = before + self._frames.receipt(receipt)
        payload = u8(facts.status) + u32(self._frames.counter) + digest("receipt", receipt)
        return frames, self._frames.final(payload)

    def _seal(self, kind: FrameType, message: bytes, *, keep_back: int) -> bytes:
        if self._failed:
            raise Misuse("after a sealed error only the receipt may follow")
        return self._frames.seal(kind, message, keep_back=keep_back)

    def _receipt(self, facts: ReceiptFacts, now: float) -> Receipt:
        counts = facts.usage.usage if facts.usage else None
        return Receipt(
            request=self._q,
            index=self._index,
            node_id=self._ref.node_id,
            ek_id=self._ref.ek_id,
            bundle_id=self._ref.bundle_id,
            resp_salt=self._salt,
            frames=self._frames.transcript.frames,
            transcript=self._frames.transcript.digest(),
            model_id=facts.model_id,
            manifest=facts.manifest,
            params_digest=params_digest(self._tsalt, facts.usage),
            tokens_in=counts.input if counts else 0,
            tokens_cached=counts.cached_input if counts else 0,
            tokens_out=counts.output if counts else 0,
            finish=facts.finish,
            status=facts.status,
            minute=int(now) // _MINUTE_S * _MINUTE_S,
        )

    def __repr__(self) -> str:
        """Show how far the reply is and nothing else."""
        return f"ReplySealer(frames={self._frames.counter}, <secret>)"


class Expected(NamedTuple):
    """What the client knows about one candidate before any reply: its identity, names and model."""

    identity: Identity
    ref: CandidateRef
    manifest: bytes


class ReplyOpener:
    """The client's end of one reply: ``start``, ``push`` as frames come, ``finish``; ``close`` at the end.

    Raises DecryptionError, Malformed, ReplyOrder, ReceiptMismatch; after any of them nothing more opens.
    """

    __slots__ = (
        "_complete",
        "_error",
        "_expected",
        "_frames",
        "_index",
        "_model_id",
        "_q",
        "_receipt",
        "_salt",
        "_secrets",
        "_tsalt",
        "_usage",
    )

    def __init__(self, secrets: Sequence[bytes], expected: Sequence[Expected], *, q: bytes, model_id: str) -> None:
        """Take R_i and what is expected of every candidate; only ``RequestSealer.seal`` does this."""
        self._secrets = tuple(secrets)
        self._expected = tuple(expected)
        self._q, self._model_id = q, model_id
        self._frames: FrameOpener | None = None
        self._index, self._salt, self._tsalt = 0, b"", b""
        self._usage: UsageReport | None = None
        self._error: SealedError | None = None
        self._receipt: bytes | None = None
        self._complete = False

    def start(self, head: bytes) -> int:
        """Check who answers, by commitment, before anything is decrypted; returns the candidate's index."""
        secrets = self._secrets
        self._secrets = ()
        if not secrets:
            raise ReplyOrder("a reply has one head")
        if len(head) != HEAD_BYTES or head[0] >= len(secrets):
            raise DecryptionError("the reply's head names no candidate of this request")
        index, salt = head[0], head[1 : 1 + DIGEST_BYTES]
        derived = reply_secrets(secrets[index], salt, q=self._q, index=index, ref=self._expected[index].ref)
        if not hmac.compare_digest(derived.commit, head[1 + DIGEST_BYTES :]):
            raise DecryptionError("the reply is not this candidate's reply to this request")
        self._frames = FrameOpener(derived.key, derived.base, derived.tsalt)
        self._index, self._salt, self._tsalt = index, salt, derived.tsalt
        return index

    def open(self, frames: bytes) -> tuple[list[ReplyEvent], WireError | None]:
        """Open whole frames, in order; returns what they say, and what ended them early, if anything did.

        What they say is genuine either way, and nothing more opens after an error; the caller raises it once it has
        passed on the rest. Dummies and the receipt say nothing yet.
        """
        opener = self._opener()
        events: list[ReplyEvent] = []

        def read(kind: FrameType, payload: bytes) -> None:
            if self._receipt is not None or (self._error and kind is not FrameType.RECEIPT):
                raise ReplyOrder("a reply message came after the reply's end")
            if kind is FrameType.DATA:
                events.append(decode_chunk(payload))
            elif event := self._read(kind, payload):
                events.append(event)

        failure = opener.open(frames, read)
        if failure:
            opener.close()
        return events, failure

    def push(self, frames: bytes) -> list[ReplyEvent]:
        """Open whole frames, all or nothing: raises what ended them early."""
        events, failure = self.open(frames)
        if failure:
            raise failure
        return events

    def finish(self, final: bytes) -> Receipt:
        """Open the final frame and check the receipt against request, reply and node (SPEC 9)."""
        opener = self._opener()
        try:
            counter = opener.counter
            receipt = self._check(opener, counter, opener.final(final))
        finally:
            opener.close()
        self._complete = True
        return receipt

    def close(self) -> None:
        """End the reply. Raises TruncatedStream when no final frame was accepted."""
        self._secrets = ()
        if self._frames:
            self._frames.close()
        if not self._complete:
            raise TruncatedStream("the reply ended without its final frame")

    def _opener(self) -> FrameOpener:
        if self._frames is None:
            raise ReplyOrder("a reply begins with its head")
        return self._frames

    def _read(self, kind: FrameType, payload: bytes) -> ReplyEvent | None:
        if kind is FrameType.USAGE:
            self._usage = decode_usage(payload)
            return self._usage
        if kind is FrameType.ERROR:
            self._error = SealedError.decode(payload)
            return self._error
        if kind is FrameType.RECEIPT:
            self._receipt = payload
        elif payload:
            raise Malformed("a dummy frame is empty")
        return None

    def _check(self, opener: FrameOpener, counter: int, final: bytes) -> Receipt:
        if self._receipt is None:
            raise ReceiptMismatch("receipt.final")
        receipt = Receipt.decode(self._receipt)
        expected = self._expected[self._index]
        self._check_request(receipt, expected)
        if not _same(receipt.transcript, opener.transcript.digest()) or receipt.frames != opener.transcript.frames:
            raise ReceiptMismatch("receipt.transcript")
        self._check_final(receipt, counter, final)
        if receipt.model_id != self._model_id or not _same(receipt.manifest, expected.manifest):
            raise ReceiptMismatch("receipt.model")
        self._check_usage(receipt)
        receipt.verify(expected.identity)
        return receipt

    def _check_request(self, receipt: Receipt, expected: Expected) -> None:
        said = (receipt.request, receipt.node_id, receipt.ek_id, receipt.bundle_id, receipt.resp_salt)
        ours = (self._q, *expected.ref.parts(), self._salt)
        if receipt.index != self._index or not _same(b"".join(said), b"".join(ours)):
            raise ReceiptMismatch("receipt.request")

    def _check_final(self, receipt: Receipt, counter: int, final: bytes) -> None:
        status = STATUS_ERROR if self._error else STATUS_OK
        expected = u8(status) + u32(counter) + digest("receipt", self._receipt or b"")
        if receipt.status != status or not _same(final, expected):
            raise ReceiptMismatch("receipt.final")

    def _check_usage(self, receipt: Receipt) -> None:
        report = self._usage
        counts = (report.usage.input, report.usage.cached_input, report.usage.output) if report else (0, 0, 0)
        said = (receipt.tokens_in, receipt.tokens_cached, receipt.tokens_out)
        if said != counts or receipt.finish != (report.finish if report else None):
            raise ReceiptMismatch("receipt.usage")
        if not _same(receipt.params_digest, params_digest(self._tsalt, report)):
            raise ReceiptMismatch("receipt.usage")

    def __repr__(self) -> str:
        """Show how far the reply is and nothing else."""
        return f"ReplyOpener(frames={self._frames.counter if self._frames else 0}, <secret>)"


def _same(left: bytes, right: bytes) -> bool:
    return hmac.compare_digest(left, right)
