"""Cases about encodings, keys, bundles and directories (SPEC 1 to 4)."""

import hashlib
import hmac
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hybrid.wire import directory, encoding, evidence, keys
from hybrid.wire.canonical import canonical_json, decode_canonical_json

from .cases import Values

_TRIAL = bytes(65)


def _cat(v: Values) -> Values:
    joined = encoding.cat(v["label"], *v["items"])
    sha256, sha512 = encoding.digest(v["label"], *v["items"]), encoding.digest512(v["label"], *v["items"])
    return {"cat": joined.hex(), "sha256": sha256.hex(), "sha512": sha512.hex()}


def _expand(v: Values) -> Values:
    return {"out": encoding.expand(v["prk"], v["label"], *v["items"], length=v["length"]).hex()}


def _hkdf(v: Values) -> Values:
    """Extract as section 8 spells it, then expand."""
    prk = hmac.digest(v["salt"], v["secret"], hashlib.sha256)
    out = HKDFExpand(algorithm=SHA256(), length=v["length"], info=v["info"]).derive(prk)
    return {"prk": prk.hex(), "out": out.hex()}


def _canonical_json(v: Values) -> Values:
    return {"json": canonical_json(decode_canonical_json(v["json"])).hex()}


def _key_config(v: Values) -> Values:
    config = keys.KeyConfig.decode(v["record"])
    config.encrypt(_TRIAL, b"")  # a record whose keys take no encryption is of no use
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


KINDS: Mapping[str, Callable[[Values], Values]] = {
    "cat": _cat,
    "expand": _expand,
    "hkdf": _hkdf,
    "canonical_json": _canonical_json,
    "key_config": _key_config,
    "epoch_key": _epoch_key,
    "signature": _signature,
    "bundle": _bundle,
    "binding": _binding,
    "directory": _directory,
}
