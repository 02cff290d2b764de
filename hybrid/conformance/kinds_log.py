"""Cases about the log: Merkle proofs, notes, checkpoints, tiles, entries, witnesses (SPEC 5)."""

import hashlib
from collections.abc import Callable, Mapping

from hybrid.wire import cosignature, directory, entries, log_policy, merkle, note, tiles, tlog_proof
from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest, open_checkpoint
from hybrid.wire.errors import NonCanonical

from .cases import Values


def _merkle_tree(v: Values) -> Values:
    """Hash entries into a tree, with every inclusion proof and every consistency proof of it."""
    leaves = [merkle.leaf_hash(entry) for entry in v["entries"]]
    proofs = [merkle.inclusion_proof(leaves, index) for index in range(len(leaves))]
    growth = [merkle.consistency_proof(leaves, size) for size in range(len(leaves) + 1)]
    return {
        "leaves": [leaf.hex() for leaf in leaves],
        "root": merkle.root(leaves).hex(),
        "inclusion": [[value.hex() for value in proof] for proof in proofs],
        "consistency": [[value.hex() for value in proof] for proof in growth],
    }


def _inclusion(v: Values) -> Values:
    merkle.check_inclusion(leaf=v["leaf"], index=v["index"], size=v["size"], proof=v["proof"], root=v["root"])
    return {}


def _consistency(v: Values) -> Values:
    merkle.check_consistency(
        old_size=v["old_size"], old_root=v["old_root"], new_size=v["size"], new_root=v["root"], proof=v["proof"]
    )
    return {}


def _leaf(v: Values) -> Values:
    leaf = directory.Leaf.decode(v["leaf"])
    return {
        "entry_sha256": hashlib.sha256(leaf.entry).hexdigest(),
        "checkpoint_no": leaf.checkpoint_no,
        "index": leaf.index,
        "hashes": [value.hex() for value in leaf.hashes],
    }


def _entry(v: Values) -> Values:
    entry = entries.open_entry(v["entry"], note.NoteVerifier.parse(v["vkey"]))
    return {
        "kind": entries.kind_of(v["entry"]),
        "fields": entry.fields(),
        "entry_digest": entries.entry_digest(v["entry"]).hex(),
        "leaf_hash": merkle.leaf_hash(v["entry"]).hex(),
    }


def _said(checkpoint: Checkpoint) -> Values:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _checkpoint(v: Values) -> Values:
    return _said(open_checkpoint(v["note"], note.NoteVerifier.parse(v["vkey"])))


def _checkpoint_digest(v: Values) -> Values:
    return {"checkpoint_digest": checkpoint_digest(v["note"]).hex()}


def _cosignature(v: Values) -> Values:
    return {"time": cosignature.CosignatureVerifier.parse(v["vkey"]).time(note.Note.parse(v["note"]))}


def _quorum(v: Values) -> Values:
    """Open a checkpoint under a policy's log keys, and judge its witnesses."""
    policy = log_policy.LogPolicy.parse(v["policy"])
    return {**_said(open_checkpoint(v["note"], policy.logs[0])), "t0": policy.quorum_time(v["note"])}


def _log_policy(v: Values) -> Values:
    policy = log_policy.LogPolicy.parse(v["policy"])
    return {"logs": [log.name for log in policy.logs], "witnesses": sorted(policy.witnesses)}


def _tile_path(v: Values) -> Values:
    tile = tiles.parse_path(v["path"])
    return {"level": tile.level, "index": tile.index, "width": tile.width} if tile else {}


def _tile_root(v: Values) -> Values:
    return {"root": tiles.root_from_tiles(v["size"], v["tiles"]).hex()}


def _tile_inclusion(v: Values) -> Values:
    proof = tiles.inclusion_from_tiles(v["index"], v["size"], v["tiles"])
    return _inclusion({**v, "proof": proof})


def _tile_consistency(v: Values) -> Values:
    proof = tiles.consistency_from_tiles(v["old_size"], v["size"], v["tiles"])
    return _consistency({**v, "proof": proof})


def _entry_bundle(v: Values) -> Values:
    found = tiles.entries_from_bundles(v["start"], v["end"], v["bundles"])
    return {"leaves": [merkle.leaf_hash(entry).hex() for entry in found]}


def _tlog_proof(v: Values) -> Values:
    proof = tlog_proof.TlogProof.parse(v["proof"])
    if proof.encode() != v["proof"]:
        raise NonCanonical("a proof has one spelling")
    return {**_said(proof.check(v["entry"], note.NoteVerifier.parse(v["vkey"]))), "index": proof.index}


KINDS: Mapping[str, Callable[[Values], Values]] = {
    "merkle_tree": _merkle_tree,
    "inclusion": _inclusion,
    "consistency": _consistency,
    "leaf": _leaf,
    "entry": _entry,
    "checkpoint": _checkpoint,
    "checkpoint_digest": _checkpoint_digest,
    "cosignature": _cosignature,
    "quorum": _quorum,
    "log_policy": _log_policy,
    "tile_path": _tile_path,
    "tile_root": _tile_root,
    "tile_inclusion": _tile_inclusion,
    "tile_consistency": _tile_consistency,
    "entry_bundle": _entry_bundle,
    "tlog_proof": _tlog_proof,
}
