"""Tiled logs: paths, proofs out of tiles against proofs out of leaves, and the log of transparency-dev/tessera."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import pytest

from hybrid.wire.checkpoint import open_checkpoint
from hybrid.wire.encoding import v2
from hybrid.wire.errors import Malformed, Misuse, ProofFailure
from hybrid.wire.merkle import check_consistency, check_inclusion, consistency_proof, inclusion_proof, leaf_hash, root
from hybrid.wire.note import NoteVerifier
from hybrid.wire.tiles import (
    Tile,
    consistency_from_tiles,
    entries_from_bundles,
    entries_path,
    inclusion_from_tiles,
    needed_entries,
    needed_for_consistency,
    needed_for_inclusion,
    needed_for_root,
    parse_path,
    root_from_tiles,
    tile_path,
    tiles_of,
)
from tests.wire.foreign import TESSERA_KEY, foreign, tessera_notes

ENTRIES = [f"entry {number}".encode() for number in range(70_000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
SIZES = [1, 2, 3, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 70_000]
ALL = tiles_of(LEAVES, 0, 70_000)


def picked(paths: tuple[str, ...], size: int) -> dict[str, bytes]:
    """What a client fetches: these files alone, of the log as it was at a size."""
    return {path: (ALL if path in ALL else partial(size))[path] for path in paths}


def partial(size: int) -> dict[str, bytes]:
    """The partial tiles of a tree of this size, cut out of the full ones."""
    found = {}
    for level in range(3):
        index, width = divmod(size >> 8 * level, 256)
        if width:
            full = ALL.get(tile_path(level, index)) or ALL[tile_path(level, index, (70_000 >> 8 * level) % 256)]
            found[tile_path(level, index, width)] = full[: width * 32]
    return found


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("tile/0/000", Tile(0, 0)),
        ("tile/63/999.p/255", Tile(63, 999, 255)),
        ("tile/0/x001/x234/067", Tile(0, 1_234_067)),  # the example of C2SP
        ("tile/entries/x001/x234/067.p/1", Tile(None, 1_234_067, 1)),
        ("checkpoint", None),
    ],
)
def test_paths_are_read_as_they_are_written(path: str, tile: Tile | None) -> None:
    assert parse_path(path) == tile
    assert tile is None or tile.path == path


# fmt: off
NO_PATHS = [
    "", "checkpoint\n", "checkpoint\x00", " checkpoint", "/checkpoint", "checkpoint/", "Checkpoint", "./checkpoint",
    "tile", "tile/", "tile/0", "tile/0/0", "tile/0/00", "tile/0/0000", "tile//000", "Tile/0/000", "tile/0/000\n",
    "tile/64/000", "tile/00/000", "tile/-1/000", "tile/data/000", "tile/0/000/", "tile/0/000.p", "tile/0/000.p/",
    "tile/0/000.p/0", "tile/0/000.p/01", "tile/0/000.p/256", "tile/0/000.p/1/", "tile/0/x000/000", "tile/0/x000",
    "tile/0/001/x234", "tile/0/001/234", "tile/0/x1a1/000", "tile/0/\u0660\u0660\u0660",
    "tile/0/x999/x999/x999/x999/x999/x999/999", "tile/0/x001/x001/x001/x001/x001/x001/x001/001",
    "tile/entries/../../etc/passwd", "tile/../checkpoint", "../checkpoint", "tile/0/000.p/../1", "tile/0/000%2e",
]
# fmt: on


@pytest.mark.parametrize("path", NO_PATHS)
def test_no_other_path_is_served(path: str) -> None:
    with pytest.raises(Malformed):
        parse_path(path)


@pytest.mark.parametrize(
    "tile", [Tile(64, 0), Tile(-1, 0), Tile(0, -1), Tile(0, 2**63), Tile(0, 0, 0), Tile(0, 0, 257)]
)
def test_a_tile_no_log_has_has_no_path(tile: Tile) -> None:
    with pytest.raises(Misuse):
        _ = tile.path


def test_a_tree_of_70_000_has_the_tiles_that_c2sp_counts() -> None:
    assert len([path for path in ALL if path.startswith("tile/0/")]) == 273 + 1
    assert ALL.keys() >= {tile_path(0, 273, 112), tile_path(1, 0), tile_path(1, 1, 17), tile_path(2, 0, 1)}
    assert len(ALL) == 274 + 2 + 1
    assert set(tiles_of(LEAVES, 0, 256)) == {"tile/0/000", "tile/1/000.p/1"}


def test_growing_step_by_step_makes_the_files_of_growing_at_once() -> None:
    steps: dict[str, bytes] = {}
    for old, new in zip([0, *SIZES], SIZES, strict=False):
        made = tiles_of(LEAVES, old, new)
        assert made.keys() >= partial(new).keys() - partial(old).keys()
        steps |= made
    assert {path: data for path, data in steps.items() if path in ALL} == ALL
    assert tiles_of(LEAVES, 700, 700) == {}
    with pytest.raises(Misuse):
        tiles_of(LEAVES, 0, 70_001)


# --- proofs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_root_and_inclusion_proofs_come_out_of_the_tiles_named_for_them(size: int) -> None:
    assert root_from_tiles(size, picked(needed_for_root(size), size)) == root(LEAVES[:size])
    for index in {0, 1, size // 2, size - 1} & set(range(size)):
        proof = inclusion_from_tiles(index, size, picked(needed_for_inclusion(index, size), size))
        check_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root(LEAVES[:size]))
        if size <= 700:
            assert proof == inclusion_proof(LEAVES[:size], index)


@pytest.mark.parametrize(
    ("old", "new"), [*combinations_with_replacement([0, *SIZES[:9]], 2), (700, 65_537), (65_536, 70_000)]
)
def test_consistency_proofs_come_out_of_the_tiles_named_for_them(old: int, new: int) -> None:
    proof = consistency_from_tiles(old, new, picked(needed_for_consistency(old, new), new))
    if new <= 700:
        assert proof == consistency_proof(LEAVES[:new], old)
    check_consistency(old_size=old, old_root=root(LEAVES[:old]), new_size=new, new_root=root(LEAVES[:new]), proof=proof)


def test_the_paths_named_are_needed_each_and_a_full_tile_stands_in_for_a_partial_one() -> None:
    paths = needed_for_consistency(300, 700)
    assert len(paths) >= 2
    for path in paths:
        with pytest.raises(ProofFailure):
            consistency_from_tiles(300, 700, picked(tuple(set(paths) - {path}), 700))
    full = {path: ALL[path.partition(".p/")[0]] for path in paths if path.startswith("tile/0/")}
    upper = {path: data for path, data in picked(paths, 700).items() if path.startswith("tile/1/")}
    standing_in = {path.partition(".p/")[0]: data for path, data in full.items()}
    assert consistency_from_tiles(300, 700, standing_in | upper) == consistency_proof(LEAVES[:700], 300)


def test_a_tile_that_is_short_long_or_changed_proves_nothing() -> None:
    paths = needed_for_inclusion(299, 700)
    good = picked(paths, 700)
    for path, data in good.items():
        for broken in (data[:-1], data + bytes(32), b""):
            with pytest.raises(ProofFailure):
                inclusion_from_tiles(299, 700, {**good, path: broken})
    path = tile_path(0, 1)
    changed = bytes((good[path][0] ^ 1,)) + good[path][1:]
    proof = inclusion_from_tiles(299, 700, {**good, path: changed})
    with pytest.raises(ProofFailure):
        check_inclusion(leaf=LEAVES[299], index=299, size=700, proof=proof, root=root(LEAVES[:700]))


@pytest.mark.parametrize(
    "name",
    [lambda: needed_for_inclusion(5, 5), lambda: needed_for_consistency(6, 5), lambda: needed_entries(2, 6, 5)],
)
def test_asking_for_what_lies_outside_the_log_is_misuse(name: Callable[[], object]) -> None:
    with pytest.raises(Misuse):
        name()


# --- entries ------------------------------------------------------------------------------------


def bundles(paths: tuple[str, ...]) -> dict[str, bytes]:
    tiles = {path: parse_path(path) for path in paths}
    return {
        path: b"".join(map(v2, ENTRIES[tile.index * 256 : tile.index * 256 + tile.width]))
        for path, tile in tiles.items()
        if tile
    }


@pytest.mark.parametrize(("start", "end", "count"), [(0, 1, 1), (255, 257, 2), (256, 512, 1), (0, 700, 3), (9, 9, 0)])
def test_entries_come_out_of_the_bundles_named_for_them(start: int, end: int, count: int) -> None:
    paths = needed_entries(start, end, 700)
    assert len(paths) == count
    assert entries_from_bundles(start, end, bundles(paths)) == tuple(ENTRIES[start:end])


def test_a_bundle_that_is_missing_short_or_long_is_refused() -> None:
    good = bundles(needed_entries(250, 700, 700))
    last = entries_path(2, 188)
    for broken in (good[last][:-1], good[last] + b"\x00", good[last] + v2(b"one more"), b""):
        with pytest.raises(Malformed):
            entries_from_bundles(250, 700, {**good, last: broken})
    with pytest.raises(ProofFailure):
        entries_from_bundles(250, 700, {path: data for path, data in good.items() if path != last})
    with pytest.raises(Malformed):
        entries_from_bundles(0, 1, {"tile/entries/../000": b""})


# --- a log made by others -----------------------------------------------------------------------


def test_all_notes_roots_and_entries_of_the_tessera_log_agree() -> None:
    key = NoteVerifier.parse(TESSERA_KEY)
    points = [open_checkpoint(note, key) for note in tessera_notes().values()]
    assert len(points) == 17
    for point in points:
        tiles = {path: foreign(f"tlog-tiles-tessera/{path}") for path in needed_for_root(point.size)}
        files = {path: foreign(f"tlog-tiles-tessera/{path}") for path in needed_entries(0, point.size, point.size)}
        leaves = [leaf_hash(entry) for entry in entries_from_bundles(0, point.size, files)]
        assert root_from_tiles(point.size, tiles) == root(leaves) == point.root


def test_any_two_sizes_of_the_tessera_log_are_consistent_and_no_forgery_is() -> None:
    key = NoteVerifier.parse(TESSERA_KEY)
    points = {point.size: point for point in (open_checkpoint(note, key) for note in tessera_notes().values())}
    pairs = list(combinations_with_replacement(sorted(points), 2))
    assert len(pairs) == 16 * 17 // 2
    for old, new in pairs:
        tiles = {path: foreign(f"tlog-tiles-tessera/{path}") for path in needed_for_consistency(old, new)}
        sizes_and_proof: dict[str, Any] = {
            "old_size": old,
            "new_size": new,
            "proof": consistency_from_tiles(old, new, tiles),
        }
        good = {**sizes_and_proof, "old_root": points[old].root, "new_root": points[new].root}
        check_consistency(**good)
        with pytest.raises(ProofFailure):
            check_consistency(**{**good, "old_root": points[(old + 1) % 16].root})
