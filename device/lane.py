"""A layer's cache that is plain while one request runs and a batch while several do.

mlx-lm's generator always uses its batch cache, whose mask and per-row positions cost a lone request 5 % at a thousand
tokens of context. Most of the time a person runs one request. This cache answers the generator's calls and changes
form when rows come and go; the generator and the model cannot tell. Source: device design 1.2, measured on CPU.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from . import runtime
from .fit import KV_STEP, in_steps


class LaneCache:
    """Keys and values of one layer; ``_rows`` is mlx-lm's KVCache for one row, its BatchKVCache for more.

    most: tokens the row may come to hold.  phase: tokens past a whole step at which its room ends. Growing copies what
    is held: layers of one phase would all do it in the same step, and hold everybody up.
    """

    def __init__(self, rows: Any, *, most: int = 0, phase: int = 0) -> None:
        self._rows = rows
        self._most = [most]  # of each row
        self._phase = phase

    # -- what models call -----------------------------------------------------------------------------------------

    @property
    def offset(self) -> Any:
        """Position of the next token: a number for one row, an array for more."""
        return self._rows.offset

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Append keys and values (rows, heads, tokens, size) and return all of them."""
        self._grow(keys, values)
        both: tuple[Any, Any] = self._rows.update_and_fetch(keys, values)
        return both

    def make_mask(self, *arguments: Any, **named: Any) -> Any:
        """Return the attention mask for the next tokens."""
        return self._rows.make_mask(*arguments, **named)

    # -- what the generator calls ---------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """Arrays to evaluate."""
        return self._rows.state

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return int(self._rows.nbytes)

    def size(self) -> int:
        """Tokens held."""
        return int(self._rows.size())

    def empty(self) -> bool:
        """Tell whether nothing is held."""
        return bool(self._rows.empty())

    def is_trimmable(self) -> bool:
        """Tell that the last tokens can be cut off."""
        return True

    def trim(self, count: int) -> int:
        """Cut off the last tokens."""
        return int(self._rows.trim(count))

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Join rows that start together; one row is taken as it is, without a copy."""
        first, *others = caches
        for other in others:
            first.extend(other)
        return first

    def extend(self, other: Self) -> None:
        """Take another cache's rows in. Rows that meet hold a token at least."""
        self._most = [*self._most, *other._most]
        self._lay_out([*self._blocks(), *other._blocks()])

    def filter(self, keep: Sequence[int]) -> None:
        """Keep these rows only, given in order; a single one that is left becomes plain again."""
        if not self._plain:
            self._most = [self._most[row] for row in keep]
            self._lay_out(self._blocks(keep))

    def extract(self, row: int) -> Any:
        """Return one row as a plain cache of exactly its length."""
        if not self._plain:
            return self._rows.extract(row)
        core = runtime.mlx()
        exact = type(self._rows)()
        exact.keys, exact.values = (core.contiguous(array) for array in self._rows.keys_and_values())
        exact.offset = self._rows.offset
        return exact

    def prepare(self, **named: Any) -> None:
        """Pass on the padding of prompts of different lengths that are read together."""
        if self._plain:
            self._rows = self._rows.merge([self._rows])
        self._rows.prepare(**named)

    def finalize(self) -> None:
        """Undo that padding."""
        if not self._plain:
            self._rows.finalize()

    def __deepcopy__(self, memo: dict[int, Any]) -> "LaneCache":
        """Hand a single row over without copying it: the generator copies a batch only to drop the original."""
        other = LaneCache(copy.copy(self._rows) if self._plain else copy.deepcopy(self._rows, memo), phase=self._phase)
        other._most = list(self._most)
        return other

    def _grow(self, *new: Any) -> None:
        """Make room for new keys and values in steps: mlx-lm would add whole ones to whatever length it has."""
        rows = self._rows
        need = rows.size() + new[0].shape[2]
        held = [array[:, :, :0] for array in new] if rows.keys is None else [rows.keys, rows.values]
        if need > held[0].shape[2]:
            rows.keys, rows.values = (_lengthened(array, self._room(need)) for array in held)

    def _room(self, need: int) -> int:
        """Return a length for so many tokens, in this layer's phase, never longer than whole steps for the longest."""
        return min(in_steps(need - self._phase) + self._phase, in_steps(max(need, *self._most)))

    def _lay_out(self, blocks: Sequence["_Block"]) -> None:
        end = max(length for block in blocks for length in block.lengths)
        self._rows = _laid_out(blocks, end, self._room(end))

    def _blocks(self, keep: Sequence[int] | None = None) -> list["_Block"]:
        """Return the rows, or those to keep, in runs of neighbours."""
        rows = self._rows
        padding = [0] if self._plain else rows.left_padding.tolist()
        kept = range(len(padding)) if keep is None else keep
        runs = (run for _, run in itertools.groupby(enumerate(kept), key=lambda pair: pair[1] - pair[0]))
        return [_block(rows, [row for _, row in run], padding) for run in runs]

    @property
    def _plain(self) -> bool:
        return isinstance(self._rows, runtime.mlx_lm("models.cache").KVCache)


class _Block(NamedTuple):
    """Rows side by side. keys, values: (rows, heads, tokens of the longest, size).  lengths: tokens of each."""

    keys: Any
    values: Any
    lengths: list[int]


def _block(rows: Any, numbers: Sequence[int], padding: Sequence[int]) -> _Block:
    end = rows.size()
    lengths = [end - padding[number] for number in numbers]
    part = (slice(numbers[0], numbers[-1] + 1), slice(None), slice(end - max(lengths), end))
    return _Block(rows.keys[part], rows.values[part], lengths)


def _laid_out(blocks: Sequence[_Block], end: int, room: int) -> Any:
    """Lay rows out in one rectangle, each ending where the longest ends. end: there.  room: length of the rectangle.

    It is written once: mlx-lm pads, joins and then lengthens, and each of the three writes it all, which held eight
    running answers up for seconds when one of a thousand tokens joined them.
    """
    module = runtime.mlx_lm("models.cache")
    lengths = [length for block in blocks for length in block.lengths]
    batch = module.KVCache() if len(lengths) == 1 else module.BatchKVCache([end - length for length in lengths])
    batch.keys = _rectangle([block.keys for block in blocks], end, room)
    batch.values = _rectangle([block.values for block in blocks], end, room)
    batch.offset += end
    if len(lengths) > 1:
        batch._idx = end  # noqa: SLF001 - as its own merge does
    return batch


def _rectangle(parts: Sequence[Any], end: int, room: int) -> Any:
    heads, size = parts[0].shape[1], parts[0].shape[3]
    rectangle = runtime.mlx().zeros((sum(part.shape[0] for part in parts), heads, room, size), parts[0].dtype)
    row = 0
    for part in parts:
        rectangle[row : row + part.shape[0], :, end - part.shape[2] : end] = part
        row += part.shape[0]
    return rectangle


def _lengthened(array: Any, length: int) -> Any:
    core = runtime.mlx()
    rows, heads, held, size = array.shape
    return core.concatenate([array, core.zeros((rows, heads, length - held, size), array.dtype)], axis=2)


def lanes(model: Any, served: Sequence[Any] | None = None, *, most: int = 0) -> list[Any]:
    """Return the caches to start a request with.

    served: plain caches of kept context, or None.  most: tokens it may come to hold, prompt and answer. Models whose
    layers need another kind of cache keep theirs.
    """
    module = runtime.mlx_lm("models.cache")
    layers = list(served) if served is not None else module.make_prompt_cache(model)
    if any(type(layer) is not module.KVCache for layer in layers):
        return layers
    phases = [number * KV_STEP // len(layers) for number in range(len(layers))]
    return [LaneCache(layer, most=most, phase=phase) for layer, phase in zip(layers, phases, strict=True)]


def plain(layers: Sequence[Any]) -> list[Any]:
    """Return the caches of one request as mlx-lm's own, of exactly their length."""
    return [layer.extract(0) if isinstance(layer, LaneCache) else layer for layer in layers]


def cut(cache: Sequence[Any], surplus: int) -> list[Any] | None:
    """Return a cache without the last ``surplus`` tokens, leaving the given one as it is; None where it cannot be.

    A plain cache is not copied: the new one sees the shared part, and its first write goes to an array of its own,
    since the part it sees has no room left.
    """
    module = runtime.mlx_lm("models.cache")
    if all(type(layer) is module.KVCache for layer in cache):
        return [_view(module, layer, layer.offset - surplus) for layer in cache]
    copied = copy.deepcopy(list(cache))
    if surplus and module.trim_prompt_cache(copied, surplus) != surplus:
        return None
    return copied


def _view(module: Any, layer: Any, length: int) -> Any:
    view = module.KVCache()
    view.keys, view.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    view.offset = length
    return view
