"""Cases about what is sealed: body, header, request, frames, reply, receipt (SPEC 6 to 9)."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from hybrid.wire import body, encoding, frames, header, keys, receipt, reply, reply_secrets
from hybrid.wire.envelope import RequestOpener
from hybrid.wire.types import Chunk

from .cases import Values


def _body_seal(v: Values) -> Values:
    return {"body": body.seal_body(v["plaintext"], key=v["key"], salt=v["salt"], context=v["context"]).hex()}


def _body_open(v: Values) -> Values:
    return {"message": body.unpad(body.open_body(v["body"], key=v["key"], context=v["context"])).hex()}


def _body_chunks(v: Values) -> Values:
    """Open and seal the bare construction, without buckets; the same salt must give the same bytes."""
    plaintext = body.open_body(v["body"], key=v["key"], context=v["context"])
    again = body.seal_body(plaintext, key=v["key"], salt=v["body"][:24], context=v["context"])
    return {"sha512": hashlib.sha512(plaintext).hexdigest(), "sealed_sha256": hashlib.sha256(again).hexdigest()}


def _header(v: Values) -> Values:
    decoded = header.Header.decode(v["header"])
    return {
        "h": header.header_digest(v["header"]).hex(),
        "rid": decoded.rid.hex(),
        "model_id": decoded.model_id,
        "deadline_ms": decoded.deadline_ms,
        "body_len": decoded.body_len,
        "node_ids": [ref.node_id.hex() for ref in decoded.candidates],
    }


def _request(v: Values) -> Values:
    opener = RequestOpener(header=v["header"], body=v["body"], key_package=v["key_package"], index=v["index"])
    key = keys.EpochKey.from_seed(v["seed"], v["epoch"], v["epoch_s"])
    message, sealer = opener.open(key, rng=lambda _: v["resp_salt"])
    return {"q": opener.q.hex(), "message": message.hex(), "head": sealer.head.hex()}


def _ref(v: Values) -> header.CandidateRef:
    return header.CandidateRef(node_id=v["node_id"], ek_id=v["ek_id"], bundle_id=v["bundle_id"])


def _key_package_info(v: Values) -> Values:
    info = header.key_package_info(v["q"], v["index"], _ref(v))
    return {"bytes": len(info), "sha256": hashlib.sha256(info).hexdigest()}


def _reply_secrets(v: Values) -> Values:
    derived = reply_secrets.reply_secrets(v["secret"], v["resp_salt"], q=v["q"], index=v["index"], ref=_ref(v))
    return {name: value.hex() for name, value in derived._asdict().items()}


def _frame_cipher(v: Values) -> Values:
    """Open the bare construction, then seal what came out again; the same bytes must return."""
    opening, sealing = frames.FrameCipher(v["key"], v["base"]), frames.FrameCipher(v["key"], v["base"])
    plain = [opening.open(one["sealed"], final=one["final"]) for one in v["frames"]]
    again = [sealing.seal(text, final=one["final"]) for text, one in zip(plain, v["frames"], strict=True)]
    return {"plain": [text.hex() for text in plain], "sealed": [text.hex() for text in again]}


def _frames(v: Values) -> Values:
    sealer = frames.FrameSealer(v["key"], v["base"], v["tsalt"])
    sealed = [sealer.seal(frames.FrameType(kind), payload, keep_back=1).hex() for kind, payload in v["messages"]]
    transcript = sealer.transcript.digest().hex()
    return {"frames": sealed, "transcript": transcript, "final": sealer.final(v["final"]).hex()}


def _reply(v: Values) -> Values:
    expected = [
        reply.Expected(keys.Identity.decode(one["identity"]), _ref(one), one["manifest"]) for one in v["candidates"]
    ]
    opener = reply.ReplyOpener(v["secrets"], expected, q=v["q"], model_id=v["model_id"])
    events: list[list[Any]] = []
    final: receipt.Receipt | None = None
    for step in v["messages"]:
        if "head" in step:
            opener.start(step["head"])
        if "frames" in step:
            events += [_event(event) for event in opener.push(step["frames"])]
        if "final" in step:
            final = opener.finish(step["final"])
    opener.close()
    said = final.encode() if final else b""  # close() has raised where there is none
    return {"events": events, "receipt": encoding.digest("receipt", said).hex(), "minute": final.minute if final else 0}


def _event(event: reply.ReplyEvent) -> list[Any]:
    if isinstance(event, Chunk):
        return ["data", event.text, event.tokens]
    if isinstance(event, receipt.UsageReport):
        return ["usage", event.usage.input, event.usage.cached_input, event.usage.output, event.finish.value]
    return ["error", event.code.name.lower(), event.first, event.second]


KINDS: Mapping[str, Callable[[Values], Values]] = {
    "body_seal": _body_seal,
    "body_open": _body_open,
    "body_chunks": _body_chunks,
    "header": _header,
    "request": _request,
    "key_package_info": _key_package_info,
    "reply_secrets": _reply_secrets,
    "frame_cipher": _frame_cipher,
    "frames": _frames,
    "reply": _reply,
}
