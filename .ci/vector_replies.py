"""Replies that must open and replies that must not, frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vector_scene import MANIFEST, MODEL, Scene, SceneRequest, filled, ref_fields

from hybrid.wire.codec import encode_chunk, encode_usage
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.encoding import digest, u8, u32
from hybrid.wire.errors import SealedCode
from hybrid.wire.frames import FrameCipher, FrameSealer, FrameType, pack
from hybrid.wire.receipt import Receipt, ReceiptFacts, SealedError, UsageReport
from hybrid.wire.reply import Expected, ReplyOpener
from hybrid.wire.reply_secrets import params_digest, reply_secrets
from hybrid.wire.types import Chunk, EngineTiming, FinishReason, Usage

NOW = 2_199.5
USAGE = UsageReport(
    usage=Usage(input=31, cached_input=8, output=120),
    finish=FinishReason.STOP,
    params={"max_tokens": 64, "seed": 7, "stop": "\n\n", "temperature": "0.5"},
    timing=EngineTiming(queue_s=0.001, prefill_s=0.25, decode_s=1.5),
)
FACTS = ReceiptFacts(model_id=MODEL, manifest=MANIFEST, usage=USAGE, finish=USAGE.finish)
LONG = Chunk(text="The bridge is open. " * 30, tokens=118)

Given = dict[str, Any]
BadReply = tuple[str, str, str, Given]


def good_replies(scene: Scene) -> Iterator[tuple[str, str, Given]]:
    """Yield name, section and input of replies that open."""
    request = scene.request(1)
    whole = answer(scene, request)
    yield "complete", "9", given(request, [{"head": whole.head}, {"frames": whole.frames}, {"final": whole.final}])
    three = scene.request(3)
    last = answer(scene, three, index=2)
    yield (
        "of the third of three",
        "9",
        given(three, [{"head": last.head}, {"frames": last.frames}, {"final": last.final}]),
    )
    sealer = request.sealer(0)
    frames = sealer.error(SealedError(code=SealedCode.CONTEXT_LENGTH, first=2048, second=2100))
    facts = ReceiptFacts(model_id=MODEL, manifest=MANIFEST, status=1)
    receipt, final = sealer.finish(facts, scene.nodes[0].identity, now=lambda: NOW)
    steps = [{"head": sealer.head}, {"frames": frames}, {"frames": receipt}, {"final": final}]
    yield "ended by a sealed error", "9", given(request, steps)


def bad_replies(scene: Scene) -> Iterator[BadReply]:
    """Yield name, section, outcome and input of replies that must fail."""
    request = scene.request(1)
    whole = answer(scene, request)
    yield from _bad_heads(scene, whole)
    yield from _bad_frames(scene, request, whole)
    yield from _bad_ends(request, whole)
    yield from _bad_plaintexts(request, whole)
    yield from _bad_receipts(scene, request, whole)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One complete reply, and the part of its frames before the receipt."""

    head: bytes
    frames: bytes
    data_frames: int
    final: bytes

    def frame(self, number: int) -> bytes:
        """Return frame ``number``."""
        return self.frames[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]


def answer(scene: Scene, request: SceneRequest, index: int = 0, salt: int = 0x66) -> Answer:
    """Make a whole reply: a dummy, two data messages of which one is long, usage, receipt, final."""
    sealer = request.sealer(index, salt)
    said = sealer.dummy() + sealer.data(Chunk(text="Yes. ", tokens=2)) + sealer.data(LONG) + sealer.usage(USAGE)
    receipt, final = sealer.finish(FACTS, scene.nodes[index].identity, now=lambda: NOW)
    return Answer(head=sealer.head, frames=said + receipt, data_frames=len(said) // FRAME_BYTES, final=final)


def receipt_of(request: SceneRequest, whole: Answer) -> bytes:
    """Open a whole reply and return the receipt it ends with."""
    known = request.expecting()
    expected = [Expected(node.identity.public, node.candidate.ref, node.candidate.manifest) for node in request.nodes]
    opener = ReplyOpener(known["secrets"], expected, q=known["q"], model_id=known["model_id"])
    opener.start(whole.head)
    opener.push(whole.frames)
    return opener.finish(whole.final).encode()


def given(request: SceneRequest, messages: list[dict[str, bytes]]) -> Given:
    """Return the input of one reply vector."""
    return {**request.expecting(), "messages": messages}


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _bad_heads(scene: Scene, whole: Answer) -> Iterator[BadReply]:
    request, three = scene.request(1), scene.request(3)
    second = answer(scene, three, index=1)
    for name, asked, head, expect in (
        ("head of 64 bytes", request, whole.head[:-1], "decrypt_failure"),
        ("head with another salt", request, _flip(whole.head, 7), "decrypt_failure"),
        ("head with another commitment", request, _flip(whole.head, 40), "decrypt_failure"),
        ("head that names no candidate", request, b"\x01" + whole.head[1:], "decrypt_failure"),
        ("head that names another candidate", three, b"\x02" + second.head[1:], "decrypt_failure"),
        ("head of a reply to another request", three, whole.head, "decrypt_failure"),
    ):
        yield name, "8", expect, given(asked, [{"head": head}])
    yield "two heads", "8", "after_final", given(request, [{"head": whole.head}, {"head": whole.head}])
    yield "frames before the head", "8", "after_final", given(request, [{"frames": whole.frame(0)}])


def _bad_frames(scene: Scene, request: SceneRequest, whole: Answer) -> Iterator[BadReply]:
    first, second, third = whole.frame(0), whole.frame(1), whole.frame(2)
    foreign = answer(scene, request, salt=0x67)
    for name, frames in (
        ("first frame dropped", second),
        ("frame dropped", first + third),
        ("frame doubled", first + first),
        ("frames swapped", second + first),
        ("frame flipped", _flip(first, 100)),
        ("frame of another reply", first + foreign.frame(1)),
        ("frame of 511 bytes", first[:-1]),
        ("frame of 513 bytes", first + b"\0"),
        ("final frame among the others", whole.frames + whole.final),
    ):
        yield name, "8", "decrypt_failure", given(request, [{"head": whole.head}, {"frames": frames}])
    steps = [{"head": whole.head}, {"frames": whole.frames[: -2 * FRAME_BYTES]}, {"final": whole.frame(-2)}]
    yield "data frame as the final one", "8", "decrypt_failure", given(request, steps)


def _bad_ends(request: SceneRequest, whole: Answer) -> Iterator[BadReply]:
    begun: list[dict[str, bytes]] = [{"head": whole.head}]
    said = whole.frames[: whole.data_frames * FRAME_BYTES]
    yield "no frame at all", "8", "truncated", given(request, begun)
    yield "cut before the receipt", "8", "truncated", given(request, [*begun, {"frames": said}])
    yield "cut before the final frame", "8", "truncated", given(request, [*begun, {"frames": whole.frames}])
    complete = [*begun, {"frames": whole.frames}, {"final": whole.final}]
    yield "frame after the final one", "8", "after_final", given(request, [*complete, {"frames": whole.frame(0)}])
    yield "two final frames", "8", "after_final", given(request, [*complete, {"final": whole.final}])
    forged = request.sealer(0)
    frames = forged.data(Chunk(text="Yes. ", tokens=2))
    sealer = _sealer(request)
    sealer.seal(FrameType.DATA, encode_chunk(Chunk(text="Yes. ", tokens=2)), keep_back=0)
    final = sealer.final(b"\0" + u32(1) + bytes(32))
    steps = [{"head": forged.head}, {"frames": frames}, {"final": final}]
    yield "final frame without a receipt", "9", "check_failure:receipt.final", given(request, steps)


def _bad_plaintexts(request: SceneRequest, whole: Answer) -> Iterator[BadReply]:
    error = u8(SealedCode.OVERLOADED) + u32(0) + u32(0)
    chunk = encode_chunk(Chunk(text="x", tokens=1))
    full = filled(0, 493)
    for name, expect, plaintexts in (
        ("frame of an unknown type", "malformed", [pack(0x05, b"")]),
        ("final type without the final marker", "malformed", [pack(0x7F, b"")]),
        ("fill that is not zero", "malformed", [pack(0x01, chunk)[:-1] + b"\x01"]),
        ("length of 494", "malformed", [b"\x01\x01\xee" + full]),
        ("dummy that is not empty", "malformed", [pack(0x00, b"x")]),
        ("short frame that continues", "malformed", [pack(0x81, chunk)]),
        ("empty last frame of a message", "malformed", [pack(0x81, full), pack(0x01, b"")]),
        ("message interrupted by another", "after_final", [pack(0x81, full), pack(0x02, b"")]),
        ("chunk with an unknown field", "malformed", [pack(0x01, chunk + b"\x50\x01")]),
        ("error of an unknown code", "malformed", [pack(0x03, b"\x09" + error[1:])]),
        ("error with a byte too many", "malformed", [pack(0x03, error + b"\0")]),
        ("two errors", "after_final", [pack(0x03, error)] * 2),
        ("data after an error", "after_final", [pack(0x03, error), pack(0x01, chunk)]),
        ("receipt of one frame", "malformed", [pack(0x04, b"HRC1")]),
    ):
        outcome = "non_canonical" if "unknown field" in name else expect
        yield name, "8", outcome, given(request, [{"head": whole.head}, {"frames": _raw(request, plaintexts)}])


def _raw(request: SceneRequest, plaintexts: list[bytes]) -> bytes:
    """Seal plaintexts that the frame sealer would never make."""
    secrets = _secrets(request)
    cipher = FrameCipher(secrets.key, secrets.base)
    return b"".join(cipher.seal(plaintext) for plaintext in plaintexts)


def _secrets(request: SceneRequest) -> Any:
    ref = request.nodes[0].candidate.ref
    return reply_secrets(request.secrets[0], filled(0x66, 32), q=request.sealed.q, index=0, ref=ref)


def _sealer(request: SceneRequest) -> FrameSealer:
    secrets = _secrets(request)
    return FrameSealer(secrets.key, secrets.base, secrets.tsalt)


def _bad_receipts(scene: Scene, request: SceneRequest, whole: Answer) -> Iterator[BadReply]:
    """Let the node itself lie: every frame is authentic, one word of the receipt or the final frame is not."""
    for name, check, changes in (
        ("of another request", "request", {"request": filled(1, 32)}),
        ("of another position", "request", {"index": 1}),
        ("of another node", "request", {"node_id": filled(1, 32)}),
        ("with another transcript", "transcript", {"transcript": filled(1, 32)}),
        ("with another number of frames", "transcript", {"frames": 9}),
        ("with another status", "final", {"status": 1}),
        ("of another model", "model", {"model_id": "models/other"}),
        ("with another manifest", "model", {"manifest": filled(1, 32)}),
        ("with other counts", "usage", {"tokens_out": 119}),
        ("with other parameters", "usage", {"params_digest": filled(1, 32)}),
        ("with another finish reason", "usage", {"finish": FinishReason.LENGTH}),
    ):
        yield f"receipt {name}", "9", f"check_failure:receipt.{check}", _lying(scene, request, whole, changes)
    signed = _lying(scene, request, whole, {}, signer=1)
    yield "receipt signed by another node", "9", "check_failure:receipt.signature", signed
    counted = _lying(scene, request, whole, {}, final=u32(99))
    yield "final frame with another count", "9", "check_failure:receipt.final", counted
    clock = _lying(scene, request, whole, {"minute": 2_161})
    yield "receipt with a time that is no whole minute", "9", "malformed", clock


def _lying(
    scene: Scene, request: SceneRequest, whole: Answer, changes: dict[str, Any], *, signer: int = 0, final: bytes = b""
) -> Given:
    sealer = _sealer(request)
    frames = sealer.seal(FrameType.DATA, encode_chunk(Chunk(text="Yes. ", tokens=2)), keep_back=0)
    frames += sealer.seal(FrameType.USAGE, encode_usage(USAGE), keep_back=0)
    honest = _receipt(request, sealer)
    receipt = replace(honest, **changes).signed(scene.nodes[signer].identity)
    frames += sealer.seal(FrameType.RECEIPT, receipt, keep_back=0)
    last = sealer.final(b"\0" + (final or u32(sealer.counter)) + digest("receipt", receipt))
    return given(request, [{"head": whole.head}, {"frames": frames}, {"final": last}])


def _receipt(request: SceneRequest, sealer: FrameSealer) -> Receipt:
    return Receipt(
        request=request.sealed.q,
        index=0,
        **ref_fields(request.nodes[0].candidate.ref),
        resp_salt=filled(0x66, 32),
        frames=sealer.transcript.frames,
        transcript=sealer.transcript.digest(),
        model_id=MODEL,
        manifest=MANIFEST,
        params_digest=params_digest(_secrets(request).tsalt, USAGE),
        tokens_in=31,
        tokens_cached=8,
        tokens_out=120,
        finish=USAGE.finish,
        status=0,
        minute=2_160,
    )
