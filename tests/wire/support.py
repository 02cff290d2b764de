"""Workers and requests for the wire tests; keys are made once per run."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hybrid.wire import entries
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO, FRAME_BYTES
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.envelope import Candidate, ReplyOpener, ReplySealer, RequestOpener, RequestSealer, SealedRequest
from hybrid.wire.evidence import Bundle, EvidenceItem, ModelEntry, Statement, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.note import NoteSigner
from hybrid.wire.receipt import Receipt, ReceiptFacts, UsageReport
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Message, Role, Sampling, Usage

MODEL = "models/tiny@1"
MANIFEST = b"\x1d" * 32
EPOCH, EPOCH_S = 7, 300
REQUEST = GenerateRequest(
    messages=(Message(role=Role.USER, content="Is the bridge open on Friday?"),),
    sampling=Sampling(max_tokens=64, temperature=0.5, seed=7, stop=("\n\n",)),
)
USAGE = UsageReport(usage=Usage(input=31, cached_input=8, output=20), finish=FinishReason.STOP, params={"seed": 7})
FACTS = ReceiptFacts(model_id=MODEL, manifest=MANIFEST, usage=USAGE, finish=USAGE.finish)


@dataclass(frozen=True)
class Worker:
    """One worker's private keys and bundle."""

    identity: IdentityKey
    epoch_key: EpochKey
    bundle: Bundle

    @property
    def candidate(self) -> Candidate:
        """What a client relies on about it."""
        return Candidate(
            identity=self.identity.public, key=self.epoch_key.config, bundle_id=self.bundle.id, manifest=MANIFEST
        )


@cache
def worker(number: int) -> Worker:
    """Return worker ``number``, the same one in every test."""
    identity, epoch_key = IdentityKey.generate(), EpochKey.generate(EPOCH, EPOCH_S)
    raw = make_bundle(statement(identity, epoch_key), [EvidenceItem(format="software")], identity)
    return Worker(identity, epoch_key, Bundle.decode(raw))


def statement(identity: IdentityKey, epoch_key: EpochKey, **changes: Any) -> Statement:
    """Return a tier 0 statement."""
    values: dict[str, Any] = {
        "deployment": "example.org",
        "identity": identity.public,
        "not_before": EPOCH * EPOCH_S,
        "not_after": (EPOCH + 2) * EPOCH_S,
        "keys": (epoch_key.config,),
        "models": (ModelEntry(model_id=MODEL, manifest=MANIFEST, context_tokens=2048, max_output_tokens=512),),
        "config_digest": b"\x40" * 32,
    }
    return Statement(**{**values, **changes})


def sealer(count: int = 1, **changes: Any) -> RequestSealer:
    """Return a sealer to the first ``count`` workers."""
    values: dict[str, Any] = {
        "candidates": [worker(number).candidate for number in range(count)],
        "model_id": MODEL,
        "directory_id": b"\x44" * 32,
        "deadline_ms": 60_000,
    }
    return RequestSealer(**{**values, **changes})


def seal(count: int = 1, request: GenerateRequest = REQUEST) -> tuple[SealedRequest, ReplyOpener]:
    """Seal one request to ``count`` workers."""
    return sealer(count).seal(request)


def opener(sealed: SealedRequest, index: int = 0) -> RequestOpener:
    """Return the opener of candidate ``index``."""
    return RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[index], index=index)


def reply_sealer(sealed: SealedRequest, index: int = 0) -> ReplySealer:
    """Open at candidate ``index`` and return its reply sealer."""
    return opener(sealed, index).open(worker(index).epoch_key)[1]


@dataclass
class Written:
    """One whole reply as a node wrote it: head, data frames, receipt frames, final frame."""

    head: bytes
    data: list[bytes] = field(default_factory=list)
    receipt: list[bytes] = field(default_factory=list)
    final: bytes = b""

    @property
    def frames(self) -> list[bytes]:
        """All frames but the final one."""
        return self.data + self.receipt


def write(sealed: SealedRequest, index: int = 0, chunks: int = 11) -> Written:
    """Let worker ``index`` answer: with 11 chunks and usage the reply has 20 frames and the final one."""
    node = reply_sealer(sealed, index)
    written = Written(node.head)
    written.data = [node.data(Chunk(text=f"word {number} ", tokens=1)) for number in range(chunks)]
    written.data.append(node.usage(USAGE))
    receipt, written.final = node.finish(FACTS, worker(index).identity)
    written.receipt = cut(receipt)
    return written


def cut(frames: bytes) -> list[bytes]:
    """Cut bytes into frames."""
    return [frames[at : at + FRAME_BYTES] for at in range(0, len(frames), FRAME_BYTES)]


def read(client: ReplyOpener, written: Written) -> Receipt:
    """Read a whole reply."""
    client.start(written.head)
    for frame in written.frames:
        client.push(frame)
    receipt = client.finish(written.final)
    client.close()
    return receipt


def own_leaf(directory: Directory, signer: NoteSigner) -> Leaf:
    """Sign a directory's entry; the leaf that travels beside it, without a proof."""
    return Leaf(entry=entries.sign(directory.entry(), signer), checkpoint_no=ENTRY_CHECKPOINT_NO)
