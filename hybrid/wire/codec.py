"""Values to bytes and back: the protobuf messages of SPEC 14, strictly; canonical JSON comes along.

A message has one encoding: fields ascending, defaults absent. Unknown, doubled or reordered fields are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from .canonical import canonical_json as canonical_json  # noqa: PLC0414 - one door for all encodings
from .canonical import decode_canonical_json as decode_canonical_json  # noqa: PLC0414 - the same
from .constants import (
    DIGEST_BYTES,
    FRAME_BYTES,
    FRAMES_PER_MESSAGE,
    KEY_PACKAGE_BYTES,
    MAX_BODY_PLAIN_BYTES,
    MAX_CANDIDATES,
    MAX_CHECKPOINT_BYTES,
    MAX_DIRECTORY_BYTES,
    MAX_HEADER_BYTES,
    MAX_INVOKE_BYTES,
    MAX_LEAF_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_TOKEN_BYTES,
    PART_BYTES,
)
from .errors import Malformed, NonCanonical, Oversized
from .receipt import FINISH_CODES, FINISH_REASONS, UsageReport
from .types import Chunk, EngineTiming, GenerateRequest, Message, Role, Sampling, Usage
from .v1 import pcc_pb2

_Proto = TypeVar("_Proto", bound=ProtoMessage)

_MAX_JOINED_BYTES = MAX_DIRECTORY_BYTES + MAX_CHECKPOINT_BYTES + MAX_LEAF_BYTES + PART_BYTES
_MAX_FRAMES_BYTES = FRAMES_PER_MESSAGE * FRAME_BYTES
_MS = 1000
# A chunk as nearly every token makes one: text and tokens, both lengths in one byte. Protobuf's encoding, by hand.
_SHORT = 127
_TEXT_TAG, _TOKENS_TAG = 0x0A, 0x10
_SHORT_CHUNK = b"\x0a%c%b\x10%c"
_SHORT_CHUNK_BYTES = 4
# What precedes 1 to 16 frames that have a message to themselves, as nearly all have.
_ALONE_BYTES = 3
_FRAMES_ALONE = {
    size: pcc_pb2.InvokeReply(frames=bytes(size)).SerializeToString()[:_ALONE_BYTES]
    for size in range(FRAME_BYTES, _MAX_FRAMES_BYTES + 1, FRAME_BYTES)
}
MAX_METHOD_BYTES = 512  # a request that asks for evidence or a file of the log


def _methods() -> dict[str, str]:
    services: Mapping[str, Any] = pcc_pb2.DESCRIPTOR.services_by_name
    return {
        f"{service.name}.{method.name}": f"/{service.full_name}/{method.name}"
        for service in services.values()
        for method in service.methods
    }


METHODS = _methods()


# --- strict protobuf -------------------------------------------------------------------------------


def _decode(kind: type[_Proto], data: bytes, limit: int) -> _Proto:
    if len(data) > limit:
        raise Oversized(len(data), limit)
    try:
        message = kind.FromString(data)
    except (DecodeError, ValueError, RecursionError):
        raise Malformed("the message does not decode") from None
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise NonCanonical("the message has unknown, doubled or reordered fields")
    return message


def _encode(message: ProtoMessage, limit: int) -> bytes:
    data = message.SerializeToString(deterministic=True)
    if len(data) > limit:
        raise Oversized(len(data), limit)
    return data


# --- inside the seal -------------------------------------------------------------------------------


def encode_request(request: GenerateRequest) -> bytes:
    """Encode what the node's engine needs. Raises Malformed for text that is not Unicode, Oversized."""
    sampling = request.sampling
    try:
        message = pcc_pb2.GenerateRequest(
            messages=[pcc_pb2.Message(role=turn.role, content=turn.content) for turn in request.messages],
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            stop=sampling.stop,
            cache_salt=request.cache_salt,
        )
    except ValueError:
        raise Malformed("the request's text is not Unicode") from None
    return _encode(message, MAX_BODY_PLAIN_BYTES)


def decode_request(data: bytes) -> GenerateRequest:
    """Decode a request. Raises Malformed, also for values no engine could honour."""
    message = _decode(pcc_pb2.GenerateRequest, data, MAX_BODY_PLAIN_BYTES)
    try:
        return GenerateRequest(
            messages=tuple(Message(role=Role(turn.role), content=turn.content) for turn in message.messages),
            sampling=Sampling(
                max_tokens=message.max_tokens,
                temperature=message.temperature,
                top_p=message.top_p,
                repetition_penalty=message.repetition_penalty,
                seed=message.seed if message.HasField("seed") else None,
                stop=tuple(message.stop),
            ),
            cache_salt=message.cache_salt,
        )
    except ValueError:
        raise Malformed("the request asks for something no engine could do") from None


def encode_chunk(chunk: Chunk) -> bytes:
    """Encode text, token count and prefill progress; the rest of a chunk travels as usage or not at all.

    Raises Malformed for text that is not Unicode.
    """
    done, total = chunk.progress or (0, 0)
    try:
        text = chunk.text.encode()
        if 0 < len(text) <= _SHORT and 0 < chunk.tokens <= _SHORT and not total:
            return _SHORT_CHUNK % (len(text), text, chunk.tokens)
        message = pcc_pb2.Chunk(text=chunk.text, tokens=chunk.tokens, progress_done=done, progress_total=total)
    except ValueError:
        raise Malformed("a chunk's text or counts cannot be encoded") from None
    return _encode(message, MAX_MESSAGE_BYTES)


def decode_chunk(data: bytes) -> Chunk:
    """Decode a chunk. Raises Malformed."""
    size = len(data) - _SHORT_CHUNK_BYTES
    if (
        0 < size <= _SHORT
        and data[0] == _TEXT_TAG
        and data[1] == size
        and data[-2] == _TOKENS_TAG
        and 0 < data[-1] <= _SHORT
    ):
        try:
            return Chunk(text=data[2:-2].decode(), tokens=data[-1])
        except UnicodeDecodeError:
            raise Malformed("the message does not decode") from None
    message = _decode(pcc_pb2.Chunk, data, MAX_MESSAGE_BYTES)
    done, total = message.progress_done, message.progress_total
    if done > total:
        raise Malformed("a chunk's progress exceeds its total")
    return Chunk(text=message.text, tokens=message.tokens, progress=(done, total) if total else None)


def encode_usage(report: UsageReport) -> bytes:
    """Encode counts, finish reason, parameters as applied and times in whole milliseconds."""
    usage, timing = report.usage, report.timing
    try:
        message = pcc_pb2.Usage(
            input=usage.input,
            cached_input=usage.cached_input,
            output=usage.output,
            finish=FINISH_CODES[report.finish],
            params=canonical_json(report.params).decode("ascii"),
            queue_ms=round(timing.queue_s * _MS),
            prefill_ms=round(timing.prefill_s * _MS),
            decode_ms=round(timing.decode_s * _MS),
        )
    except (ValueError, OverflowError):
        raise Malformed("a usage count cannot be encoded") from None
    return _encode(message, MAX_MESSAGE_BYTES)


def decode_usage(data: bytes) -> UsageReport:
    """Decode a usage message; rates follow from counts and times. Raises Malformed."""
    message = _decode(pcc_pb2.Usage, data, MAX_MESSAGE_BYTES)
    if message.finish not in FINISH_REASONS:
        raise Malformed("an unknown finish code")
    fresh = max(message.input - message.cached_input, 0)
    return UsageReport(
        usage=Usage(input=message.input, cached_input=message.cached_input, output=message.output),
        finish=FINISH_REASONS[message.finish],
        params=_decode_params(message.params),
        timing=EngineTiming(
            queue_s=message.queue_ms / _MS,
            prefill_s=message.prefill_ms / _MS,
            decode_s=message.decode_ms / _MS,
            prefill_tps=fresh * _MS / message.prefill_ms if message.prefill_ms else 0.0,
            decode_tps=message.output * _MS / message.decode_ms if message.decode_ms else 0.0,
        ),
    )


def _decode_params(text: str) -> dict[str, str | int]:
    value = decode_canonical_json(text.encode("utf-8"), limit=MAX_MESSAGE_BYTES)
    if not isinstance(value, Mapping):
        raise Malformed("parameters are an object")
    params = {key: member for key, member in value.items() if isinstance(member, str | int)}
    if len(params) != len(value):
        raise Malformed("a parameter is a string or an integer")
    return params


# --- outside the seal ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeRequest:
    """The outer request: ciphertext, and what a router must see. ``index`` is set between router and node."""

    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    key_packages: tuple[bytes, ...] = field(repr=False)
    index: int = 0
    token: bytes = field(default=b"", repr=False)


class InvokeReply(NamedTuple):
    """One message of a reply stream: head before frames before final; an empty one is absent."""

    head: bytes = b""
    frames: bytes = b""
    final: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryReply:
    """What ``Directory.Get`` returns: the directory, its own entry as a leaf, the newest checkpoint."""

    directory: bytes = field(repr=False)
    leaf: bytes = field(repr=False)
    checkpoint: bytes = field(default=b"", repr=False)


def encode_invoke_request(
    header: bytes, body: bytes, key_packages: Sequence[bytes], *, index: int = 0, token: bytes = b""
) -> bytes:
    """Encode a request: from the client with all key packages, from router to node with one and its index."""
    message = pcc_pb2.InvokeRequest(header=header, body=body, key_packages=key_packages, index=index, token=token)
    return _encode(message, MAX_INVOKE_BYTES)


def decode_invoke_request(data: bytes) -> InvokeRequest:
    """Decode a request and hold it to the limits of SPEC 15. Raises Malformed."""
    message = _decode(pcc_pb2.InvokeRequest, data, MAX_INVOKE_BYTES)
    packages = tuple(message.key_packages)
    if not 0 < len(message.header) <= MAX_HEADER_BYTES or not message.body:
        raise Malformed("a request has one header and one body")
    if not 1 <= len(packages) <= MAX_CANDIDATES or any(len(package) != KEY_PACKAGE_BYTES for package in packages):
        raise Malformed(f"a request has 1 to {MAX_CANDIDATES} key packages of {KEY_PACKAGE_BYTES} bytes")
    if len(message.token) > MAX_TOKEN_BYTES or message.index >= MAX_CANDIDATES:
        raise Malformed("a request's token or index exceeds its limit")
    return InvokeRequest(
        header=message.header, body=message.body, key_packages=packages, index=message.index, token=message.token
    )


def encode_invoke_reply(*, head: bytes = b"", frames: bytes = b"", final: bytes = b"") -> bytes:
    """Encode one message of a reply stream, with at most 16 frames."""
    if len(frames) > _MAX_FRAMES_BYTES:
        raise Oversized(len(frames), _MAX_FRAMES_BYTES)
    if not (head or final) and len(frames) in _FRAMES_ALONE:
        return _FRAMES_ALONE[len(frames)] + frames
    return _encode(pcc_pb2.InvokeReply(head=head, frames=frames, final=final), MAX_MESSAGE_BYTES)


def decode_invoke_reply(data: bytes) -> InvokeReply:
    """Decode one message of a reply stream, with at most 16 frames; their own lengths are the opener's business."""
    if data[:_ALONE_BYTES] == _FRAMES_ALONE.get(len(data) - _ALONE_BYTES):
        return InvokeReply(frames=data[_ALONE_BYTES:])
    message = _decode(pcc_pb2.InvokeReply, data, MAX_MESSAGE_BYTES)
    if len(message.frames) > _MAX_FRAMES_BYTES:
        raise Oversized(len(message.frames), _MAX_FRAMES_BYTES)
    return InvokeReply(head=message.head, frames=message.frames, final=message.final)


def split_frames(frames: bytes) -> list[bytes]:
    """Cut whole frames into runs that each fit into one ``InvokeReply``."""
    return [frames[at : at + _MAX_FRAMES_BYTES] for at in range(0, len(frames), _MAX_FRAMES_BYTES)]


def encode_directory_reply(*, directory: bytes, leaf: bytes, checkpoint: bytes = b"") -> bytes:
    """Encode the reply of ``Directory.Get``; it travels in parts."""
    message = pcc_pb2.DirectoryReply(directory=directory, leaf=leaf, checkpoint=checkpoint)
    return _encode(message, _MAX_JOINED_BYTES)


def decode_directory_reply(data: bytes) -> DirectoryReply:
    """Decode the joined reply of ``Directory.Get``. Raises Malformed."""
    message = _decode(pcc_pb2.DirectoryReply, data, _MAX_JOINED_BYTES)
    if not message.directory or not message.leaf:
        raise Malformed("a directory reply has a directory and its leaf")
    return DirectoryReply(directory=message.directory, leaf=message.leaf, checkpoint=message.checkpoint)


def encode_log_path(path: str) -> bytes:
    """Encode the request of ``Log.File``."""
    return _encode(pcc_pb2.LogPath(path=path), MAX_METHOD_BYTES)


def decode_log_path(data: bytes) -> str:
    """Decode the request of ``Log.File``; which paths there are is the log's business. Raises Malformed."""
    return str(_decode(pcc_pb2.LogPath, data, MAX_METHOD_BYTES).path)


def encode_attest_request(node_id: bytes, nonce: bytes) -> bytes:
    """Encode the request of ``Evidence.Attest``."""
    return _encode(pcc_pb2.AttestRequest(node_id=node_id, nonce=nonce), MAX_METHOD_BYTES)


def decode_attest_request(data: bytes) -> tuple[bytes, bytes]:
    """Decode a request for fresh evidence: node_id and nonce, 32 bytes each. Raises Malformed."""
    message = _decode(pcc_pb2.AttestRequest, data, MAX_METHOD_BYTES)
    if len(message.node_id) != DIGEST_BYTES or len(message.nonce) != DIGEST_BYTES:
        raise Malformed("a request for evidence has a node and a nonce of 32 bytes each")
    return message.node_id, message.nonce


def encode_node_ref(node_id: bytes) -> bytes:
    """Encode the request of ``Evidence.EventLog``."""
    return _encode(pcc_pb2.NodeRef(node_id=node_id), MAX_METHOD_BYTES)


def decode_node_ref(data: bytes) -> bytes:
    """Decode the node, 32 bytes, whose event log is asked for. Raises Malformed."""
    message = _decode(pcc_pb2.NodeRef, data, MAX_METHOD_BYTES)
    if len(message.node_id) != DIGEST_BYTES:
        raise Malformed("a node is named by 32 bytes")
    return bytes(message.node_id)


def split_parts(data: bytes) -> list[bytes]:
    """Cut bytes into encoded ``Part`` messages of 64 KiB; only the last may be shorter."""
    cuts = range(0, len(data), PART_BYTES)
    return [pcc_pb2.Part(data=data[at : at + PART_BYTES]).SerializeToString() for at in cuts]


def join_parts(parts: Sequence[bytes]) -> bytes:
    """Join encoded ``Part`` messages. Raises Malformed for empty or odd parts, Oversized beyond a directory."""
    pieces = [_decode(pcc_pb2.Part, part, PART_BYTES + 16).data for part in parts]
    if any(len(piece) != PART_BYTES for piece in pieces[:-1]) or not all(0 < len(p) <= PART_BYTES for p in pieces):
        raise Malformed("every part but the last has 64 KiB")
    total = sum(map(len, pieces))
    if total > _MAX_JOINED_BYTES:
        raise Oversized(total, _MAX_JOINED_BYTES)
    return b"".join(pieces)
