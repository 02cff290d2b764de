"""The GGUF container: metadata and a table of tensors, read without loading a weight.

Reads versions 2 and 3, little-endian. Source: ggml-org/ggml, docs/gguf.md. Every length is checked against the
file before it is believed.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .errors import ModelDamaged

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

# ggml type id -> (name, weights per block, bytes per block); source: ggml-common.h. Only these are converted.
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    30: ("BF16", 1, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where one tensor lies. shape: rows first, as numpy counts; start, size: bytes in the file; kind: a TYPES name."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUF:
    """An open file's metadata and tensors, by name."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def need(self, key: str) -> Any:
        """Return one metadata value. Raises ModelDamaged when the file lacks it."""
        if key not in self.metadata:
            raise ModelDamaged(self.path.name, f"lacks the metadata {key}")
        return self.metadata[key]


def read(path: Path) -> GGUF:
    """Read metadata and tensor table of ``path``.

    Raises ModelDamaged for anything that is no GGUF file of a known version, that points outside itself, or that
    holds tensors of a type this product cannot keep as it is; those are listed by name.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data)
    except (struct.error, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ModelDamaged(path.name, "is not a well-formed GGUF file") from error


class _Cursor:
    """A position in the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.take("<Q")
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise IndexError(length)
        self.at += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        return self.take(_SCALARS[kind])

    def array(self) -> list[Any]:
        kind, count = self.take("<I"), self.take("<Q")
        if count > len(self.data):
            raise IndexError(count)
        if kind not in _SCALARS:
            return [self.value(kind) for _ in range(count)]
        form = f"<{count}{_SCALARS[kind][1]}"
        values = list(struct.unpack_from(form, self.data, self.at))
        self.at += struct.calcsize(form)
        return values


def _parse(path: Path, data: mmap.mmap) -> GGUF:
    cursor = _Cursor(data)
    if data[:4] != _MAGIC:
        raise ModelDamaged(path.name, "is not a GGUF file")
    cursor.at = 4
    version, tensors, pairs = cursor.take("<I"), cursor.take("<Q"), cursor.take("<Q")
    if version not in _VERSIONS:
        raise ModelDamaged(path.name, f"GGUF version {version} is not known")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.take("<I"))
    infos = [_info(cursor) for _ in range(tensors)]
    align = metadata.get("general.alignment", 32)
    base = -(-cursor.at // align) * align
    return GGUF(path=path, metadata=metadata, tensors=_placed(path, infos, base, len(data)))


_Info = tuple[str, tuple[int, ...], int, int]  # name, shape, type id, offset


def _info(cursor: _Cursor) -> _Info:
    name, dims = cursor.text(), cursor.take("<I")
    if dims > _MAX_DIMS:
        raise IndexError(dims)
    shape = tuple(cursor.take("<Q") for _ in range(dims))[::-1]
    return name, shape, cursor.take("<I"), cursor.take("<Q")


def _placed(path: Path, infos: list[_Info], base: int, length: int) -> dict[str, Tensor]:
    foreign = [f"{name} (type {kind})" for name, _, kind, _ in infos if kind not in TYPES]
    if foreign:
        shown = ", ".join(foreign[:8]) + (f" and {len(foreign) - 8} more" if len(foreign) > 8 else "")  # noqa: PLR2004
        raise ModelDamaged(path.name, f"only Q4_0, Q4_1, Q8_0, F16, BF16 and F32 tensors are kept as they are: {shown}")
    place: Callable[[_Info], Tensor] = lambda info: _place(path, info, base, length)  # noqa: E731
    return {tensor.name: tensor for tensor in map(place, infos)}


def _place(path: Path, info: _Info, base: int, length: int) -> Tensor:
    name, shape, kind_id, offset = info
    kind, block, block_bytes = TYPES[kind_id]
    if not shape or 0 in shape or shape[-1] % block:
        raise ModelDamaged(path.name, f"tensor {name} has no rows, or some that are no multiple of {block}")
    size = prod(shape) // block * block_bytes
    if base + offset + size > length:
        raise ModelDamaged(path.name, f"tensor {name} lies outside the file")
    return Tensor(name=name, kind=kind, shape=shape, start=base + offset, size=size)
