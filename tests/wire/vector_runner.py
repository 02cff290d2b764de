"""Runs one vector of ``protos/vectors``: bytes in, what the library makes of them out.

Strings are hexadecimal except under the names in ``TEXT``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hybrid.wire import (
    body,
    directory,
    encoding,
    errors,
    evidence,
    frames,
    header,
    keys,
    note,
    receipt,
    reply,
    reply_secrets,
)
from hybrid.wire.canonical import canonical_json, decode_canonical_json
from hybrid.wire.envelope import RequestOpener
from hybrid.wire.types import Chunk

FOLDER = Path(__file__).resolve().parents[2] / "protos" / "vectors"
TEXT = {"label", "format", "vkey", "deployment", "model_id", "type", "name", "finish", "text"}

Values = dict[str, Any]

EXPECTED: dict[str, type[errors.WireError]] = {
    "malformed": errors.Malformed,
    "bad_version": errors.BadVersion,
    "non_canonical": errors.NonCanonical,
    "rejected": errors.Rejected,
    "stale_key": errors.StaleKey,
    "decrypt_failure": errors.DecryptionError,
    "truncated": errors.TruncatedStream,
    "after_final": errors.ReplyOrder,
    "signature_failure": errors.SignatureFailure,
}


def load() -> Iterator[tuple[str, Values]]:
    """Yield every vector with a name for the test report."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem != "randomised":
            for vector in json.loads(path.read_text("utf-8"))["vectors"]:
                yield f"{path.stem}: {vector['name']}", vector


def run(kind: str, given: Values) -> Values:
    """Do what the vector's kind says. Raises WireError."""
    return KINDS[kind](_from_hex(given))


def outcome(kind: str, given: Values) -> tuple[str, Values]:
    """Run and name the outcome as vectors do."""
    try:
        return "success", run(kind, given)
    except errors.ReceiptMismatch as error:
        return f"check_failure:{error.check}", {}
    except errors.WireError as error:
        return next(name for name, kind_of in EXPECTED.items() if type(error) is kind_of or _malformed(error, name)), {}


def _malformed(error: errors.WireError, name: str) -> bool:
    return name == "malformed" and isinstance(error, errors.Oversized)


def _from_hex(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _from_hex(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [_from_hex(member, name) for member in value]
    return bytes.fromhex(value) if isinstance(value, str) and name not in TEXT else value


def _cat(v: Values) -> Values:
    joined = encoding.cat(v["label"], *v["items"])
    sha256, sha512 = encoding.digest(v["label"], *v["items"]), encoding.digest512(v["label"], *v["items"])
    return {"cat": joined.hex(), "sha256": sha256.hex(), "sha512": sha512.hex()}


def _expand(v: Values) -> Values:
    return {"out": encoding.expand(v["prk"], v["label"], *v["items"], length=v["length"]).hex()}


def _canonical_json(v: Values) -> Values:
    return {"json": canonical_json(decode_canonical_json(v["json"])).hex()}


def _key_config(v: Values) -> Values:
    config = keys.KeyConfig.decode(v["record"])
    config.encrypt(bytes(65), b"")  # a record whose keys take no encryption is of no use
    return {"ek_id": config.key_id.hex(), "epoch": config.epoch, "epoch_s": config.epoch_s}


def _epoch_key(v: Values) -> Values:
    config = keys.EpochKey.from_seed(v["seed"], v["epoch"], v["epoch_s"]).config
    return {"record": config.encode().hex(), "ek_id": config.key_id.hex()}


def _signature(v: Values) -> Values:
    identity = keys.Identity.decode(v["identity"])
    identity.verify(v["label"], v["message"], v["signature"])
    return {"node_id": identity.node_id.hex()}


def _bundle(v: Values) -> Values:
    bundle = evidence.Bundle.decode(v["bundle"])
    bundle.verify_signature()
    said = bundle.statement
    return {
        "bundle_id": bundle.id.hex(),
        "statement_sha256": hashlib.sha256(bundle.statement_bytes).hexdigest(),
        "node_id": said.identity.node_id.hex(),
        "deployment": said.deployment,
        "models": [model.model_id for model in said.models],
        "formats": list(said.formats),
    }


def _binding(v: Values) -> Values:
    before = [evidence.EvidenceItem(format=item["format"], item=item["item"]) for item in v["before"]]
    return {"binding": evidence.binding(v["statement"], before, v["format"]).hex()}


def _directory(v: Values) -> Values:
    listed = directory.Directory.decode(v["directory"])
    return {
        "directory_id": listed.id.hex(),
        "epoch": listed.epoch,
        "seq": listed.seq,
        "nodes": [[node.weight, node.bundle.id.hex()] for node in listed.nodes],
        "unreadable": len(listed.unreadable),
    }


def _entry(v: Values) -> Values:
    entry = directory.open_entry(v["leaf"], note.NoteVerifier.parse(v["vkey"]))
    return {
        "deployment": entry.deployment,
        "epoch": entry.epoch,
        "seq": entry.seq,
        "directory_id": entry.directory_id.hex(),
        "nodes": entry.nodes,
    }


def _body_seal(v: Values) -> Values:
    return {"body": body.seal_body(v["plaintext"], key=v["key"], salt=v["salt"], context=v["context"]).hex()}


def _body_open(v: Values) -> Values:
    return {"message": body.unpad(body.open_body(v["body"], key=v["key"], context=v["context"])).hex()}


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
    assert final is not None
    return {"events": events, "receipt": encoding.digest("receipt", final.encode()).hex(), "minute": final.minute}


def _event(event: reply.ReplyEvent) -> list[Any]:
    if isinstance(event, Chunk):
        return ["data", event.text, event.tokens]
    if isinstance(event, receipt.UsageReport):
        return ["usage", event.usage.input, event.usage.cached_input, event.usage.output, event.finish.value]
    return ["error", event.code.name.lower(), event.first, event.second]


KINDS: dict[str, Callable[[Values], Values]] = {
    "cat": _cat,
    "expand": _expand,
    "canonical_json": _canonical_json,
    "key_config": _key_config,
    "epoch_key": _epoch_key,
    "signature": _signature,
    "bundle": _bundle,
    "binding": _binding,
    "directory": _directory,
    "entry": _entry,
    "body_seal": _body_seal,
    "body_open": _body_open,
    "header": _header,
    "request": _request,
    "key_package_info": _key_package_info,
    "reply_secrets": _reply_secrets,
    "frames": _frames,
    "reply": _reply,
}
