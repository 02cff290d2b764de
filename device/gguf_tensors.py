"""GGUF tensors to MLX's packed layout, without dequantising: weight, scales and biases in groups of 32.

MLX packs element i of a group into bits ``bits * i`` upward of little-endian 32-bit words and reads it as
``scale * q + bias``; ggml keeps the low nibbles of a block first and the high ones after them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelDamaged
from .gguf_file import GGUF, Tensor
from .manifest import canonical_json

GROUP = 32  # block size of the three quantised types, and MLX's group size for them
_BLOCKS = {
    "Q4_0": np.dtype([("d", "<f2"), ("q", "u1", 16)]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]),
    "Q8_0": np.dtype([("d", "<f2"), ("q", "u1", 32)]),
}
_PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BITS: Mapping[str, int] = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One array of the MLX folder. dtype: its safetensors name."""

    name: str
    dtype: str
    array: Array


def pieces(gguf: GGUF, tensor: Tensor, name: str, heads: int | None) -> Iterator[Piece]:
    """Yield the MLX arrays of one tensor.

    name: module path with its leaf, such as ``model.layers.0.mlp.up_proj.weight``.
    heads: attention heads whose rows llama.cpp's converter interleaved and which are put back; None leaves rows alone.
    Raises ModelDamaged when a value cannot be held in 16 bits.
    """
    raw = np.memmap(gguf.path, dtype="u1", mode="r", offset=tensor.start, shape=(tensor.size,))
    if tensor.kind in _PLAIN:
        yield _plain(tensor, name, _rows(raw.view(_PLAIN[tensor.kind]).reshape(tensor.shape), heads))
        return
    blocks = raw.view(_BLOCKS[tensor.kind]).reshape(*tensor.shape[:-1], tensor.shape[-1] // GROUP)
    stem = name.removesuffix(".weight")
    words, scales, biases = _packed(tensor, blocks)
    yield Piece(name=f"{stem}.weight", dtype="U32", array=_rows(words, heads))
    yield Piece(name=f"{stem}.scales", dtype="F16", array=_rows(scales, heads))
    yield Piece(name=f"{stem}.biases", dtype="F16", array=_rows(biases, heads))


def _packed(tensor: Tensor, blocks: Array) -> tuple[Array, Array, Array]:
    scales = np.ascontiguousarray(blocks["d"])
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        if tensor.kind == "Q8_0":
            codes = blocks["q"] ^ np.uint8(0x80)  # signed -128..127 to 0..255
            biases = scales * np.float16(-128)
        else:
            codes = _nibbles(blocks["q"])
            biases = np.ascontiguousarray(blocks["m"]) if tensor.kind == "Q4_1" else scales * np.float16(-8)
    for values in (scales, biases):
        _finite(tensor, values)
    words = np.ascontiguousarray(codes).reshape(*blocks.shape[:-1], -1).view("<u4")
    return words, scales, biases


def _nibbles(codes: Array) -> Array:
    """16 bytes of ggml (low nibbles are elements 0-15, high ones 16-31) to 16 bytes with neighbours side by side."""
    elements = np.concatenate([codes & 15, codes >> 4], axis=-1)
    packed: Array = elements[..., 0::2] | (elements[..., 1::2] << 4)
    return packed


def _rows(array: Array, heads: int | None) -> Array:
    """Undo llama.cpp's row permutation of q and k; whole rows move, so packed words, scales and biases move alike.

    Source: LlamaModel.permute in ggml-org/llama.cpp, convert_hf_to_gguf.py, which this inverts.
    """
    if heads is None:
        return np.ascontiguousarray(array)
    half = array.shape[0] // heads // 2
    return np.ascontiguousarray(array.reshape(heads, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape))


def _plain(tensor: Tensor, name: str, array: Array) -> Piece:
    """Keep 16-bit tensors; f32 ones (norms) become f16, or they would promote every activation to f32."""
    if tensor.kind != "F32":
        return Piece(name=name, dtype=tensor.kind, array=array)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype("<f2")
    _finite(tensor, narrow)
    return Piece(name=name, dtype="F16", array=narrow)


def _finite(tensor: Tensor, values: Array) -> None:
    if not np.isfinite(values).all():
        raise ModelDamaged(tensor.name, "holds a value that 16-bit floats cannot")


def write_safetensors(path: Path, parts: list[Piece]) -> None:
    """Write arrays as one safetensors file: names sorted, so that equal input gives equal bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    start = 0
    for part in sorted(parts, key=lambda p: p.name):
        end = start + part.array.nbytes
        header[part.name] = {"dtype": part.dtype, "shape": list(part.array.shape), "data_offsets": [start, end]}
        start = end
    head = canonical_json(header)
    head += b" " * (-len(head) % 8)  # the format wants tensors aligned to 8 bytes
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for part in sorted(parts, key=lambda p: p.name):
            file.write(part.array.data)
