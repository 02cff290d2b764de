"""Vectors of the log: trees, checkpoints, witnesses, tiles, entries, proofs to hand on (section 5)."""

from collections.abc import Iterator
from typing import Any

from vector_scene import MANIFEST, MODEL, Make, Scene, filled, signer, spare_bits

from hybrid.wire import merkle, tiles
from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.directory import Leaf
from hybrid.wire.entries import DirectoryEntry, ModelEntryNote, ReleaseEntry, RevokeEntry, sign
from hybrid.wire.note import NoteSigner, append_signatures
from hybrid.wire.release import SnpMeasurement
from hybrid.wire.tlog_proof import TlogProof

Given = dict[str, Any]
Made = tuple[str, str, str, Given]  # name, kind, expect, input

GOOD = "success"
ORIGIN = "example.org/log"
LOG = NoteSigner.from_seed(ORIGIN, filled(0x61, 32))
WITNESSES = [CosignatureSigner.from_seed(f"witness.example/w{n}", filled(0x62 + n, 32)) for n in range(3)]
LATTICE = CosignatureSigner.from_seed("witness.example/pq", filled(0x66, 32), "ml-dsa-44")
TIMES = (2_000, 2_060, 2_120)
SIZE = 300  # one full tile, one partial one, two levels

ENTRIES = {
    "release": ReleaseEntry(
        name="hybrid-pcc/node",
        version="0.2.0",
        source_commit="ab" * 20,
        artefacts={"node.raw": "cd" * 32},
        sbom="ef" * 32,
        measurements={
            "sev-snp": (SnpMeasurement("12" * 48), SnpMeasurement("34" * 48, {4: "56" * 32})),
            "tpm2": ({4: "78" * 32, 11: "9a" * 32},),
        },
        configs={"default": "bc" * 32},
        issued=1_000,
        expires=1_000 + 90 * 86_400,
    ),
    "model": ModelEntryNote(model_id=MODEL, manifest=MANIFEST, licence="Apache-2.0", context=2048, issued=1_000),
    "directory": DirectoryEntry(deployment="example.org", epoch=7, seq=0, directory_id=filled(0x44, 32), nodes=3),
    "revoke": RevokeEntry(target=filled(0x55, 32), reason="vulnerability", issued=1_500),
}


def leaves(count: int) -> list[bytes]:
    """Return the leaf hashes of the entries ``entry 0`` and so on."""
    return [merkle.leaf_hash(f"entry {number}".encode()) for number in range(count)]


def checkpoint(size: int = SIZE) -> bytes:
    """Return the log's signed checkpoint of this size, without a witness."""
    return LOG.sign(Checkpoint(origin=ORIGIN, size=size, root=merkle.root(leaves(size))).encode_text())


def cosigned(*numbers: int, note: bytes = b"") -> bytes:
    """Return a checkpoint with the cosignatures of these witnesses, each at its own time."""
    text = checkpoint().decode("utf-8").rpartition("\n\n")[0] + "\n"
    return append_signatures(
        note or checkpoint(), [WITNESSES[n].cosign(text, now=lambda at=TIMES[n]: at) for n in numbers]
    )


def tree_cases() -> Iterator[Made]:
    """Trees, and proofs about them that hold or do not."""
    for count in (0, 1, 7, 8):
        entries = [f"entry {number}".encode() for number in range(count)]
        yield f"tree of {count}", "merkle_tree", GOOD, {"entries": entries}
    known = leaves(7)
    proof = merkle.inclusion_proof(known, 4)
    good = {"leaf": known[4], "index": 4, "size": 7, "proof": proof, "root": merkle.root(known)}
    yield "inclusion of leaf 4 of 7", "inclusion", GOOD, good
    for name, changes in (
        ("another leaf", {"leaf": known[3]}),
        ("another index", {"index": 5}),
        ("index beyond the tree", {"index": 7}),
        ("another size", {"size": 16}),
        ("another root", {"root": filled(0x01, 32)}),
        ("a hash too few", {"proof": proof[:-1]}),
        ("a hash too many", {"proof": (*proof, filled(0x01, 32))}),
        ("a hash of 31 bytes", {"proof": (*proof[:-1], proof[-1][:-1])}),
        ("hashes swapped", {"proof": proof[::-1]}),
    ):
        yield f"inclusion, {name}", "inclusion", "proof_failure", {**good, **changes}
    grown = merkle.consistency_proof(known, 4)
    roots = {"old_root": merkle.root(known[:4]), "root": merkle.root(known)}
    good = {"old_size": 4, "size": 7, "proof": grown, **roots}
    yield "consistency of 4 and 7", "consistency", GOOD, good
    yield (
        "consistency of 0 and 7",
        "consistency",
        GOOD,
        {**good, "old_size": 0, "old_root": merkle.root([]), "proof": ()},
    )
    for name, changes in (
        ("another older root", {"old_root": merkle.root(known[:3])}),
        ("another newer root", {"root": merkle.root(known[:6])}),
        ("sizes swapped", {"old_size": 7, "size": 4, "proof": ()}),
        ("no proof", {"proof": ()}),
        ("a hash too many", {"proof": (*grown, filled(0x01, 32))}),
        ("an older root that is not the empty tree's", {"old_size": 0, "proof": ()}),
        ("two empty trees with two roots", {"old_size": 0, "old_root": merkle.root([]), "size": 0, "proof": ()}),
    ):
        yield f"consistency, {name}", "consistency", "proof_failure", {**good, **changes}


def checkpoint_cases(keep: Make) -> Iterator[Made]:
    """Checkpoints and what witnesses say of them."""
    note, vkey = checkpoint(), LOG.vkey
    yield "checkpoint", "checkpoint", GOOD, {"note": note, "vkey": vkey}
    yield "checkpoint digest", "checkpoint_digest", GOOD, {"note": cosigned(0, 1)}
    text = note.decode("utf-8").rpartition("\n\n")[0] + "\n"
    lines = text.split("\n")
    for name, changed, expect in (
        ("of another size", note.replace(b"\n300\n", b"\n301\n"), "signature_failure"),
        ("signed by another key", signer(0x5B).sign(text), "signature_failure"),
        ("of another origin", LOG.sign(text.replace(ORIGIN, "example.org/other")), "signature_failure"),
        ("with a size with a zero before it", LOG.sign(text.replace("\n300\n", "\n0300\n")), "malformed"),
        ("with a size beyond 2^63", LOG.sign(text.replace("\n300\n", f"\n{2**63}\n")), "malformed"),
        ("without a root", LOG.sign("\n".join(lines[:2]) + "\n"), "malformed"),
        ("with a root of 31 bytes", LOG.sign(f"{ORIGIN}\n300\n{'A' * 40}Ag==\n"), "malformed"),
        ("with a tab", LOG.sign(text + "extension\twith a tab\n"), "malformed"),
        ("with spare base64 bits", spare_bits(note), "non_canonical"),
        ("without a last newline", note[:-1], "malformed"),
        ("of 65 signature lines", note + 64 * note.rpartition(b"\n\n")[2], "malformed"),
    ):
        yield f"checkpoint {name}", "checkpoint", expect, {"note": changed, "vkey": vkey}
    alone = f"{text}\n{WITNESSES[1].cosign(text, now=lambda: TIMES[1])}".encode()
    yield "cosignature", "cosignature", GOOD, {"note": alone, "vkey": WITNESSES[1].vkey}
    lattice = keep(lambda: LATTICE.cosign(text, now=lambda: TIMES[0]).encode("utf-8"), b"cosign", text.encode("utf-8"))
    both = append_signatures(note, [lattice.decode("utf-8")])
    yield "cosignature with ML-DSA-44", "cosignature", GOOD, {"note": both, "vkey": LATTICE.vkey}
    for name, changed, key in (
        ("of another witness", cosigned(1), WITNESSES[0].vkey),
        ("moved to another checkpoint", _moved(cosigned(1)), WITNESSES[1].vkey),
        ("missing", note, WITNESSES[1].vkey),
    ):
        yield f"cosignature {name}", "cosignature", "signature_failure", {"note": changed, "vkey": key}


def _moved(note: bytes) -> bytes:
    """Put a cosignature under the log's next checkpoint."""
    line = note.rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
    return append_signatures(checkpoint(SIZE + 1), [line.decode("utf-8")])


def policy(quorum: str, *groups: str) -> str:
    """Return a policy over the log and its three witnesses."""
    witnesses = [f"witness w{number} {witness.vkey}" for number, witness in enumerate(WITNESSES)]
    return "\n".join((f"log {LOG.vkey}", *witnesses, *groups, f"quorum {quorum}")) + "\n"


TWO_OF_THREE = policy("two", "group two 2 w0 w1 w2")


def quorum_cases() -> Iterator[Made]:
    """Quorums: t0 is the largest time such that the witnesses at least as late meet it."""
    stranger = CosignatureSigner.from_seed("witness.example/w9", filled(0x69, 32))
    line = stranger.cosign(checkpoint().decode("utf-8").rpartition("\n\n")[0] + "\n", now=lambda: TIMES[0])
    known = append_signatures(cosigned(0), [line])
    nested = policy("q", "group pair all w0 w1", "group q any pair w2")
    for name, text, note in (
        ("one witness", policy("w2"), cosigned(2)),
        ("two of three, all there", TWO_OF_THREE, cosigned(0, 1, 2)),
        ("two of three, two there", TWO_OF_THREE, cosigned(0, 2)),
        ("all of a group of a group", nested, cosigned(0, 1)),
        ("none", policy("none"), checkpoint()),
    ):
        yield f"quorum of {name}", "quorum", GOOD, {"note": note, "policy": text}
    doubled = cosigned(0) + cosigned(0).rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
    for name, text, note in (
        ("no cosignature", policy("w0"), checkpoint()),
        ("one of two", TWO_OF_THREE, cosigned(1)),
        ("an unknown witness", TWO_OF_THREE, known),
        ("one witness twice", TWO_OF_THREE, doubled),
        ("half of a group", nested, cosigned(0)),
    ):
        yield f"quorum not met: {name}", "quorum", "proof_failure", {"note": note, "policy": text}
    yield "policy with groups", "log_policy", GOOD, {"policy": nested}
    for name, text in (
        ("without a quorum", f"log {LOG.vkey}\n"),
        ("with two quorums", policy("w0") + "quorum w1\n"),
        ("with a name twice", policy("w0", f"witness w0 {LATTICE.vkey}")),
        ("with a key twice", policy("w0", f"witness w7 {WITNESSES[0].vkey}")),
        ("with an unknown member", policy("g", "group g any w8")),
        ("with a witness in two groups", policy("h", "group g any w0", "group h any w0 w1")),
        ("with a threshold above its members", policy("g", "group g 3 w0 w1")),
        ("with a log's key as a witness", policy("w9", f"witness w9 {LOG.vkey}")),
        ("with an unknown word", policy("w0", "trust everybody")),
        ("with a key whose hash is another", policy("w0").replace(LOG.vkey, LOG.vkey.replace("+", "+0", 1)[:-1])),
    ):
        yield f"policy {name}", "log_policy", "malformed", {"policy": text}


def tile_cases() -> Iterator[Made]:
    """Paths, and a log of 300 leaves as its tiles tell it."""
    for path in ("tile/0/000", "tile/0/001.p/44", "tile/1/x001/x234/067", "tile/entries/255.p/1", "checkpoint"):
        yield f"path {path}", "tile_path", GOOD, {"path": path}
    for path in (
        "tile/0/00",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/000",
        "tile/0/../../key",
        "tile/0/000/",
        "/tile/0/000",
        "tile/data/000",
        "checkpoint\n",
        "",
    ):
        yield f"path {path!r}", "tile_path", "malformed", {"path": path}
    known = leaves(SIZE)
    files = tiles.tiles_of(known, 0, SIZE)

    def some(paths: tuple[str, ...]) -> dict[str, bytes]:
        return {path: files[path] for path in paths}

    asked = {"index": 299, "size": SIZE, "leaf": known[299], "root": merkle.root(known)}
    asked["tiles"] = some(tiles.needed_for_inclusion(299, SIZE))
    yield "leaf 299 of 300 out of tiles", "tile_inclusion", GOOD, asked
    whole = some(tiles.needed_for_root(SIZE))
    yield "root of 300 out of tiles", "tile_root", GOOD, {"size": SIZE, "tiles": whole}
    yield "root of 301 out of the tiles of 300", "tile_root", "proof_failure", {"size": SIZE + 1, "tiles": whole}
    grown = {"old_size": 256, "old_root": merkle.root(known[:256]), "size": SIZE, "root": merkle.root(known)}
    grown["tiles"] = some(tiles.needed_for_consistency(256, SIZE))
    yield "256 to 300 out of tiles", "tile_consistency", GOOD, grown
    short = {path: data[:-32] for path, data in grown["tiles"].items()}
    yield "tiles a hash short", "tile_consistency", "proof_failure", {**grown, "tiles": short}
    yield "no tiles", "tile_consistency", "proof_failure", {**grown, "tiles": {}}
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in (b"entry 0", b"entry 1", b"entry 2"))
    read = {"start": 0, "end": 3, "bundles": {"tile/entries/000.p/3": bundle}}
    yield "three entries out of a bundle", "entry_bundle", GOOD, read
    longer = {"tile/entries/000.p/3": bundle + b"\0\0"}
    yield "a bundle with an entry too many", "entry_bundle", "malformed", {**read, "bundles": longer}
    yield "a bundle that misses the entry", "entry_bundle", "proof_failure", {**read, "end": 4}


def entry_cases(scene: Scene) -> Iterator[Made]:
    """Entries of each kind, and one of them with single things wrong."""
    by, other = scene.signer, signer(0x5B)
    for kind, entry in ENTRIES.items():
        note = sign(entry, by)
        yield f"{kind} entry", "entry", GOOD, {"entry": note, "vkey": by.vkey}
        yield f"{kind} entry signed by another key", "entry", "signature_failure", {"entry": note, "vkey": other.vkey}
    note = sign(ENTRIES["directory"], by)
    line = note.rpartition(b"\n\n")[2]
    text = note[: -len(line) - 1].decode("utf-8")
    release = sign(ENTRIES["release"], by)[: -len(line) - 1].decode("utf-8")
    for name, changed, expect in (
        ("with two signature lines", note + line, "malformed"),
        ("with another epoch", note.replace(b'"epoch":7', b'"epoch":8'), "signature_failure"),
        ("under another title", by.sign(text.replace("directory", "release", 1)), "malformed"),
        ("of a kind there is not", by.sign(text.replace("directory", "licence", 1)), "malformed"),
        ("of another protocol", by.sign(text.replace("hpcc/1", "hpcc/2", 1)), "malformed"),
        ("with unsorted fields", by.sign(scene.unsorted_entry), "non_canonical"),
        ("with a field too many", by.sign(text.replace('{"', '{"a":1,"')), "malformed"),
        ("with a field too few", by.sign(text.replace('"nodes":3,', "")), "malformed"),
        ("with a number as text", by.sign(text.replace('"epoch":7', '"epoch":"7"')), "malformed"),
        ("with a third line", by.sign(text + "more\n"), "malformed"),
        ("with a digest in capitals", by.sign(text.replace("44" * 32, "AA" * 32)), "non_canonical"),
        ("with spare base64 bits", spare_bits(note), "non_canonical"),
        ("without a blank line", note.replace(b"\n\n", b"\n"), "malformed"),
        ("of a release for a year", by.sign(release.replace("7777000", "31537000")), "malformed"),
        ("of a release that measures no PCR", by.sign(release.replace(_PCRS, "{}")), "malformed"),
        ("revoked for no listed reason", by.sign(_revoked(by).replace("vulnerability", "boredom")), "malformed"),
    ):
        yield f"entry {name}", "entry", expect, {"entry": changed, "vkey": by.vkey}


_PCRS = '{"11":"' + "9a" * 32 + '","4":"' + "78" * 32 + '"}'


def _revoked(by: NoteSigner) -> str:
    return sign(ENTRIES["revoke"], by).decode("utf-8").rpartition("\n\n")[0] + "\n"


def proof_cases(scene: Scene) -> Iterator[Made]:
    """Leaves as directories carry them, and proofs to hand on."""
    entry = sign(ENTRIES["model"], scene.signer)
    known = [*leaves(4), merkle.leaf_hash(entry), *leaves(2)]
    hashes = merkle.inclusion_proof(known, 4)
    note = LOG.sign(Checkpoint(origin=ORIGIN, size=7, root=merkle.root(known)).encode_text())
    leaf = Leaf(entry=entry, checkpoint_no=0, index=4, hashes=hashes).encode()
    yield "leaf of a directory", "leaf", GOOD, {"leaf": leaf}
    yield "leaf with bytes after its end", "leaf", "malformed", {"leaf": leaf + b"\0"}
    yield "leaf with 64 hashes", "leaf", "malformed", {"leaf": b"\0\1a\0" + bytes(8) + b"\x40" + bytes(64 * 32)}
    proof = TlogProof(index=4, hashes=hashes, checkpoint=note)
    good = {"proof": proof.encode(), "entry": entry, "vkey": LOG.vkey}
    yield "proof to hand on", "tlog_proof", GOOD, good
    title = proof.encode().replace(b"@v1", b"@v2", 1)
    lean = TlogProof(index=4, hashes=hashes[:-1], checkpoint=note).encode()
    for name, changes, expect in (
        ("of another entry", {"entry": sign(ENTRIES["revoke"], scene.signer)}, "proof_failure"),
        ("of another index", {"proof": proof.encode().replace(b"index 4", b"index 3")}, "proof_failure"),
        ("with a hash too few", {"proof": lean}, "proof_failure"),
        ("under another log's key", {"vkey": signer(0x5B).vkey}, "signature_failure"),
        ("of version 2", {"proof": title}, "malformed"),
        (
            "with an index with a zero before it",
            {"proof": proof.encode().replace(b"index 4", b"index 04")},
            "malformed",
        ),
    ):
        yield f"proof {name}", "tlog_proof", expect, {**good, **changes}


def cases(scene: Scene, keep: Make) -> Iterator[Made]:
    """Yield name, kind, outcome and input of every case of section 5."""
    yield from tree_cases()
    yield from checkpoint_cases(keep)
    yield from quorum_cases()
    yield from tile_cases()
    yield from entry_cases(scene)
    yield from proof_cases(scene)
