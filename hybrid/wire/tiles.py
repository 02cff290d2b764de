"""Tiled logs (C2SP tlog-tiles): which static files hold a log, and proofs computed from them (SPEC 5).

A tile has up to 256 hashes of one level; level n + 1 has one hash for each full tile of level n. ``needed_…`` names
the files to fetch for a purpose, the function beside it computes from them; what the files say is proved by nothing
but the root it leads to. Sizes and indices count leaves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from .constants import DIGEST_BYTES, MAX_ENTRY_BYTES, MAX_TREE_SIZE
from .encoding import Reader
from .errors import Malformed, Misuse, ProofFailure
from .merkle import Span, check_consistency, consistency_spans, inclusion_spans, node_hash, root, split

TILE_WIDTH = 256
CHECKPOINT_PATH = "checkpoint"

_LEVEL_BITS = 8
_MAX_LEVEL = 63
_GROUP = 1000
_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """One file. level: None for a bundle of entries; width: hashes or entries in it, 256 when full."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where the file lies, such as ``tile/0/x001/234.p/7``. Raises Misuse for a file no log has."""
        known_level = self.level is None or 0 <= self.level <= _MAX_LEVEL
        if not (known_level and 0 <= self.index <= MAX_TREE_SIZE and 1 <= self.width <= TILE_WIDTH):
            raise Misuse("no log has such a tile")
        folder = "entries" if self.level is None else str(self.level)
        return f"tile/{folder}/{_groups(self.index)}" + (f".p/{self.width}" if self.width < TILE_WIDTH else "")

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read a path, only in its one spelling. Raises Malformed."""
        found = _PATH.fullmatch(path)
        if not found:
            raise Malformed("the path is not a log's")
        level = None if found[1] == "entries" else int(found[1])
        index = int(found[2].replace("/", "").replace("x", ""))
        tile = cls(level, index, int(found[3] or TILE_WIDTH))
        try:
            same = tile.path == path
        except Misuse:
            same = False
        if not same:
            raise Malformed("the path is not a log's, or not in its one spelling")
        return tile


def _groups(index: int) -> str:
    path = f"{index % _GROUP:03}"
    while index := index // _GROUP:
        path = f"x{index % _GROUP:03}/{path}"
    return path


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile of hashes. Raises Misuse."""
    return Tile(level, index, width).path


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a bundle of entries. Raises Misuse."""
    return Tile(None, index, width).path


def parse_path(path: str) -> Tile | None:
    """Read a path that a log may serve; None for ``checkpoint``. Raises Malformed for every other path."""
    return None if path == CHECKPOINT_PATH else Tile.parse(path)


# --- which files ---------------------------------------------------------------------------------


def needed_for_inclusion(index: int, size: int) -> tuple[str, ...]:
    """Name the tiles for ``inclusion_from_tiles``. Raises Misuse."""
    return _paths(inclusion_spans(index, size), size)


def needed_for_consistency(old_size: int, new_size: int) -> tuple[str, ...]:
    """Name the tiles for ``consistency_from_tiles``: those of the new tree. Raises Misuse."""
    return _paths(consistency_spans(old_size, new_size), new_size)


def needed_for_root(size: int, within: int | None = None) -> tuple[str, ...]:
    """Name the tiles for ``root_from_tiles``. Raises Misuse."""
    whole = _whole(size, within)
    return _paths(((0, size),) if size else (), whole)


def needed_entries(start: int, end: int, size: int) -> tuple[str, ...]:
    """Name the bundles of the entries from start up to, not including, end, in a tree of this size. Raises Misuse."""
    _check_range(start, end, size)
    if start == end:
        return ()
    numbers = range(start // TILE_WIDTH, (end - 1) // TILE_WIDTH + 1)
    return tuple(entries_path(number, min(TILE_WIDTH, size - number * TILE_WIDTH)) for number in numbers)


def _check_range(start: int, end: int, size: int) -> None:
    if not 0 <= start <= end <= size <= MAX_TREE_SIZE:
        raise Misuse("the range of entries lies outside the log")


def _whole(size: int, within: int | None) -> int:
    whole = size if within is None else within
    _check_range(0, size, whole)
    return whole


def _paths(spans: Sequence[Span], size: int) -> tuple[str, ...]:
    tiles = (_tile_of(part, size)[0] for span in spans for part in _complete(span))
    return tuple(dict.fromkeys(tile.path for tile in tiles))


# --- what they say -------------------------------------------------------------------------------


def inclusion_from_tiles(index: int, size: int, tiles: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Compute the proof that leaf ``index`` is in the tree of this size. Raises ProofFailure, Misuse."""
    return tuple(_subtree(span, size, tiles) for span in inclusion_spans(index, size))


def consistency_from_tiles(old_size: int, new_size: int, tiles: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Compute the proof that the new tree adds to the old one. Raises ProofFailure, Misuse."""
    return tuple(_subtree(span, new_size, tiles) for span in consistency_spans(old_size, new_size))


def root_from_tiles(size: int, tiles: Mapping[str, bytes], within: int | None = None) -> bytes:
    """Compute the root of the tree of this size. Raises ProofFailure, Misuse.

    within: size of the tree whose tiles these are, when it has grown since.
    """
    whole = _whole(size, within)
    return _subtree((0, size), whole, tiles) if size else root(())


def needed_for_earlier_root(size: int, newest_size: int) -> tuple[str, ...]:
    """Name the tiles for ``earlier_root``. Raises Misuse."""
    wanted = (*needed_for_root(size, newest_size), *needed_for_consistency(size, newest_size))
    return tuple(dict.fromkeys(wanted))


def earlier_root(size: int, *, newest_size: int, newest_root: bytes, tiles: Mapping[str, bytes]) -> bytes:
    """Return the root that the newest tree's first ``size`` leaves have, proved by tiles that lead to the newest root.

    Tiles are nobody's word: ones that do not lead there say nothing about the past. Raises ProofFailure, Misuse.
    """
    begun = root_from_tiles(size, tiles, within=newest_size)
    proof = consistency_from_tiles(size, newest_size, tiles)
    check_consistency(old_size=size, old_root=begun, new_size=newest_size, new_root=newest_root, proof=proof)
    return begun


def entries_from_bundles(start: int, end: int, bundles: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Read the entries from start up to, not including, end. Raises Malformed, ProofFailure when one is missing.

    bundles: by path, as ``needed_entries`` named them. Whether they are the log's is for their leaf hashes to show.
    """
    entries: dict[int, bytes] = {}
    for path, data in bundles.items():
        tile = Tile.parse(path)
        if tile.level is None:
            entries |= dict(enumerate(_bundle(data, tile.width), tile.index * TILE_WIDTH))
    if any(number not in entries for number in range(start, end)):
        raise ProofFailure("an entry of the log is missing")
    return tuple(entries[number] for number in range(start, end))


def _bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    reader = Reader(data)
    entries = tuple(reader.v2(MAX_ENTRY_BYTES) for _ in range(width))
    reader.end()
    return entries


def _subtree(span: Span, size: int, tiles: Mapping[str, bytes]) -> bytes:
    """Hash the leaves of a span; one that is not complete is folded from its complete parts, right to left."""
    *parts, last = _complete(span)
    value = _stored(last, size, tiles)
    for part in reversed(parts):
        value = node_hash(_stored(part, size, tiles), value)
    return value


def _complete(span: Span) -> Iterator[Span]:
    """Cut a span of a tree into complete subtrees, the widest first."""
    low, high = span
    while width := high - low:
        part = split(width + 1)  # the largest power of two up to width
        yield low, low + part
        low += part


def _tile_of(part: Span, size: int) -> tuple[Tile, int, int]:
    """Find the tile of a complete subtree, and from which hash up to which the subtree is in it."""
    height = (part[1] - part[0]).bit_length() - 1
    level = height // _LEVEL_BITS
    first = part[0] >> level * _LEVEL_BITS
    index, at = divmod(first, TILE_WIDTH)
    width = min(TILE_WIDTH, (size >> level * _LEVEL_BITS) - index * TILE_WIDTH)
    return Tile(level, index, width), at, at + (1 << height % _LEVEL_BITS)


def _stored(part: Span, size: int, tiles: Mapping[str, bytes]) -> bytes:
    tile, low, high = _tile_of(part, size)
    hashes = _hashes(tile, tiles)
    return root([hashes[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] for at in range(low, high)])


def _hashes(tile: Tile, tiles: Mapping[str, bytes]) -> bytes:
    """Return a tile's bytes; a partial tile may be gone once the full one exists."""
    for found in dict.fromkeys((tile, Tile(tile.level, tile.index))):
        if found.path in tiles:
            data = tiles[found.path]
            if len(data) != found.width * DIGEST_BYTES:
                raise ProofFailure(f"{found.path} has {len(data)} bytes, not {found.width * DIGEST_BYTES}")
            return data
    raise ProofFailure(f"{tile.path} is missing")


# --- making them ---------------------------------------------------------------------------------


def tiles_of(leaf_hashes: Sequence[bytes], old_size: int, new_size: int) -> dict[str, bytes]:
    """Make every tile that growing from old to new size adds or replaces, by path. Raises Misuse.

    leaf_hashes: of the whole tree, at least ``new_size`` of them.
    """
    _check_range(old_size, new_size, len(leaf_hashes))
    tiles: dict[str, bytes] = {}
    row, level = list(leaf_hashes[:new_size]), 0
    while len(row) > old_size:
        for at in range(old_size - old_size % TILE_WIDTH, len(row), TILE_WIDTH):
            hashes = row[at : at + TILE_WIDTH]
            tiles[tile_path(level, at // TILE_WIDTH, len(hashes))] = b"".join(hashes)
        full = range(0, len(row) - len(row) % TILE_WIDTH, TILE_WIDTH)
        row = [root(row[at : at + TILE_WIDTH]) for at in full]
        level, old_size = level + 1, old_size // TILE_WIDTH
    return tiles
