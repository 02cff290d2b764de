"""Merkle proofs of transparency-dev/merkle and the test log of transparency-dev/tessera (SPEC 5)."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from .cases import SUCCESS, Case, Values

MERKLE = "rfc6962-merkle"
TESSERA = "tlog-tiles-tessera"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"  # protocol B3
_REFUSED = "proof_failure"


def merkle_cases(folder: Path) -> Iterator[Case]:
    """Yield both files; ``proof`` may be null."""
    for name, case in json.loads((folder / "inclusion.json").read_text("utf-8")).items():
        given = {"index": case["leafIdx"], "size": case["treeSize"], "leaf": _hex(case["leafHash"])}
        yield _merkle(name, "inclusion", {**given, "root": _hex(case["root"]), "proof": _proof(case)}, case)
    for name, case in json.loads((folder / "consistency.json").read_text("utf-8")).items():
        given = {"old_size": case["size1"], "old_root": _hex(case["root1"]), "size": case["size2"]}
        yield _merkle(name, "consistency", {**given, "root": _hex(case["root2"]), "proof": _proof(case)}, case)


def _merkle(name: str, kind: str, given: Values, case: Mapping[str, Any]) -> Case:
    expect = _REFUSED if case["wantErr"] else SUCCESS
    return Case(
        suite=MERKLE, name=name.removesuffix(".json"), section="5", kind=kind, given=given, expect=expect, output={}
    )


def _hex(text: str | None) -> str:
    return base64.b64decode(text or "", validate=True).hex()


def _proof(case: Mapping[str, Any]) -> list[str]:
    return [_hex(text) for text in case["proof"] or ()]


class _Log:
    """The stored log: its checkpoints by size, tiles and entry bundles by path."""

    def __init__(self, folder: Path) -> None:
        notes = {path.name: path.read_bytes() for path in folder.glob("checkpoint*")}
        self.notes = {int(note.split(b"\n")[1]): note for _, note in sorted(notes.items())}
        self.all_notes = notes
        self.roots = {size: base64.b64decode(note.split(b"\n")[2]).hex() for size, note in self.notes.items()}
        files = (path for path in sorted((folder / "tile").rglob("*")) if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes().hex() for path in files}

    def tile(self, size: int) -> dict[str, str]:
        """Return the one tile a tree of 1 to 255 leaves has."""
        path = f"tile/0/000.p/{size}"
        return {path: self.files[path]}

    def leaf(self, index: int) -> str:
        """Return a leaf hash out of the newest tile."""
        return self.files[f"tile/0/000.p/{max(self.notes)}"][64 * index : 64 * (index + 1)]


def tessera_cases(folder: Path) -> Iterator[Case]:
    """Yield notes, roots, entries, and consistency and inclusion out of tiles, each with a flipped twin."""
    log = _Log(folder)
    yield from _notes(log)
    for size in sorted(log.roots.keys() - {0}):
        tiles = log.tile(size)
        yield _tessera(f"root of {size}", "tile_root", {"size": size, "tiles": tiles}, {"root": log.roots[size]})
        yield from _entries(log, size)
        yield from _inclusion(log, size)
    for old, size in combinations(sorted(log.roots), 2):
        yield from _consistency(log, old, size)


def _notes(log: _Log) -> Iterator[Case]:
    for name, note in sorted(log.all_notes.items()):
        origin, size, root = note.decode("utf-8").split("\n")[:3]
        output = {"origin": origin, "size": int(size), "root": _hex(root)}
        yield _tessera(name, "checkpoint", {"note": note.hex(), "vkey": TESSERA_KEY}, output)
        changed = note.replace(b"\n" + size.encode() + b"\n", b"\n" + str(int(size) + 1).encode() + b"\n", 1)
        yield _tessera(
            f"{name} of another size", "checkpoint", {"note": changed.hex(), "vkey": TESSERA_KEY}, "signature_failure"
        )


def _entries(log: _Log, size: int) -> Iterator[Case]:
    path = f"tile/entries/000.p/{size}"
    bundle = log.files[path]
    leaves = [log.leaf(index) for index in range(size)]
    given = {"start": 0, "end": size, "size": size, "bundles": {path: bundle}}
    yield _tessera(f"entries of {size}", "entry_bundle", given, {"leaves": leaves})
    short = {**given, "bundles": {path: bundle[:-2]}}
    yield _tessera(f"entries of {size}, one byte short", "entry_bundle", short, "malformed")


def _inclusion(log: _Log, size: int) -> Iterator[Case]:
    for index in {0, size // 2, size - 1}:
        given = {"index": index, "size": size, "root": log.roots[size], "tiles": log.tile(size)}
        name = f"leaf {index} of {size}"
        yield _tessera(name, "tile_inclusion", {**given, "leaf": log.leaf(index)}, {})
        other = _flip(log.leaf(index))
        yield _tessera(f"{name}, another leaf", "tile_inclusion", {**given, "leaf": other}, _REFUSED)


def _consistency(log: _Log, old: int, size: int) -> Iterator[Case]:
    given = {"old_size": old, "size": size, "root": log.roots[size], "tiles": log.tile(size)}
    name = f"{old} to {size}"
    yield _tessera(name, "tile_consistency", {**given, "old_root": log.roots[old]}, {})
    forged = {**given, "old_root": _flip(log.roots[old])}
    yield _tessera(f"{name}, another old root", "tile_consistency", forged, _REFUSED)


def _flip(text: str) -> str:
    return f"{int(text[:2], 16) ^ 0x01:02x}{text[2:]}"


def _tessera(name: str, kind: str, given: Values, wanted: Values | str) -> Case:
    expect, output = (wanted, {}) if isinstance(wanted, str) else (SUCCESS, wanted)
    return Case(suite=TESSERA, name=name, section="5", kind=kind, given=given, expect=expect, output=output)


SUITES: Mapping[str, Callable[[Path], Iterator[Case]]] = {MERKLE: merkle_cases, TESSERA: tessera_cases}
