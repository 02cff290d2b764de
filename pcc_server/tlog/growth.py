"""Which files a tree's growth changes: its hash tiles and entry bundles, and the partial ones it leaves behind."""

from collections.abc import Iterator, Mapping, Sequence

from hybrid.wire.encoding import v2
from hybrid.wire.merkle import leaf_hash, root
from hybrid.wire.tiles import TILE_WIDTH, entries_path, tile_path

_HASH_BYTES = 32
_KEEP_TILES = 1  # full tiles whose partial forms stay for clients that hold a slightly older checkpoint


def changed_files(stored: Mapping[str, bytes], size: int, entries: Sequence[bytes]) -> dict[str, bytes]:
    """Return path -> bytes of every tile and bundle that appending these entries makes, full and partial.

    stored: the files of the tree of ``size`` entries.
    """
    files = dict(_bundles(stored, size, entries))
    first, hashes, level = size, [leaf_hash(entry) for entry in entries], 0
    while hashes:
        tiles = _row(stored, level, first, hashes)
        files |= {tile_path(level, number, len(tile)): b"".join(tile) for number, tile in tiles}
        hashes = [root(tile) for _, tile in tiles if len(tile) == TILE_WIDTH]
        first, level = first // TILE_WIDTH, level + 1
    return files


def _row(
    stored: Mapping[str, bytes], level: int, first: int, hashes: Sequence[bytes]
) -> list[tuple[int, Sequence[bytes]]]:
    """Return (index, hashes) of the tiles of one level from the one that ``first`` lies in."""
    index, width = divmod(first, TILE_WIDTH)
    begun = stored[tile_path(level, index, width)] if width else b""
    row = [begun[at : at + _HASH_BYTES] for at in range(0, len(begun), _HASH_BYTES)] + list(hashes)
    return [(index + at // TILE_WIDTH, row[at : at + TILE_WIDTH]) for at in range(0, len(row), TILE_WIDTH)]


def _bundles(stored: Mapping[str, bytes], size: int, entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(entries):
        index, width = divmod(size + at, TILE_WIDTH)
        begun = stored[entries_path(index, width)] if width else b""
        some = entries[at : at + TILE_WIDTH - width]
        yield entries_path(index, width + len(some)), begun + b"".join(v2(entry) for entry in some)
        at += len(some)


def outgrown_folders(size: int) -> list[str]:
    """Return the folders of partial files that a full file has replaced a whole tile ago (C2SP tlog-tiles)."""
    folders: list[str] = []
    level, full = 0, size // TILE_WIDTH
    while full > _KEEP_TILES:
        number = full - _KEEP_TILES - 1
        folders.append(tile_path(level, number, 1).rpartition("/")[0])
        if level == 0:
            folders.append(entries_path(number, 1).rpartition("/")[0])
        level, full = level + 1, full // TILE_WIDTH
    return folders
