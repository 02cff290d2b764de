"""Find a fast BLAS and put it in the process's global symbol scope before MLX binds to one.

Tried in order: what is already there (LD_PRELOAD), OpenBLAS of the system or of the Python prefix, MKL of the Python
prefix. PyPI's ``scipy-openblas32`` and numpy's own copy do not help: their symbols carry a prefix.
Source: device design 7.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["openblas", "mkl"]

OPENBLAS = ("libopenblas.so.0", "libopenblasp.so.0")
MKL = ("libmkl_rt.so.3", "libmkl_rt.so.2")
ROW_MAJOR, NO_TRANSPOSE = 101, 111  # the constants of cblas.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A fast BLAS in the global scope. handle: the loaded library.  name: the file that was asked for."""

    kind: Kind
    name: str
    handle: ctypes.CDLL = field(repr=False)

    def threads(self) -> int:
        """Threads the library computes with now."""
        name = "openblas_get_num_threads" if self.kind == "openblas" else "MKL_Get_Max_Threads"
        return int(getattr(self.handle, name)())

    def product(self, left: memoryview, right: memoryview, depth: int) -> bytes:
        """Return the product of two f32 matrices in row order, (n, depth) and (depth, m), by the library itself."""
        rows, columns = left.nbytes // (4 * depth), right.nbytes // (4 * depth)
        operands = [(ctypes.c_char * matrix.nbytes).from_buffer_copy(matrix.cast("B")) for matrix in (left, right)]
        result = (ctypes.c_float * (rows * columns))()
        sides = [ctypes.c_int(side) for side in (rows, columns, depth)]
        one, zero, columns_c = ctypes.c_float(1.0), ctypes.c_float(0.0), ctypes.c_int(columns)
        sgemm = self.handle.cblas_sgemm
        sgemm.restype = None
        ours = (operands[0], ctypes.c_int(depth), operands[1], columns_c)
        sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, *sides, one, *ours, zero, result, columns_c)
        return bytes(result)


def load(threads: int, *, prefix: Path | None = None) -> Library | None:
    """Put the first fast BLAS found into the global symbol scope, limited to ``threads``; None where there is none."""
    return present() or _openblas(threads, prefix or Path(sys.prefix)) or _mkl(threads, prefix or Path(sys.prefix))


def kind_of(handle: ctypes.CDLL) -> Kind | None:
    """Tell which fast library answers behind ``cblas_sgemm``; None for the reference one or none at all."""
    if not hasattr(handle, "cblas_sgemm"):
        return None
    if hasattr(handle, "openblas_get_config"):
        return "openblas"
    return "mkl" if hasattr(handle, "MKL_Get_Max_Threads") else None


def present() -> Library | None:
    """Return the fast BLAS that is already in the global symbol scope, for example by LD_PRELOAD."""
    handle = ctypes.CDLL(None)
    kind = kind_of(handle)
    return Library(kind=kind, name="the library already in the process", handle=handle) if kind else None


def _openblas(threads: int, prefix: Path) -> Library | None:
    """Load OpenBLAS. The count must be set before: threads are started when the library is loaded."""
    with _environment("OPENBLAS_NUM_THREADS", str(threads)):
        for name in (*OPENBLAS, *(str(prefix / "lib" / name) for name in OPENBLAS)):
            handle = _open(name)
            if handle is not None and kind_of(handle) == "openblas":
                return Library(kind="openblas", name=Path(name).name, handle=handle)
    return None


def _mkl(threads: int, prefix: Path) -> Library | None:
    """Load MKL with the threading layer it brings, so that it needs no other OpenMP library."""
    if _open(str(prefix / "lib" / "libiomp5.so")) is None:
        return None
    for name in MKL:
        handle = _open(str(prefix / "lib" / name))
        if handle is not None and kind_of(handle) == "mkl":
            handle.MKL_Set_Threading_Layer(0)  # 0 is Intel's OpenMP
            handle.MKL_Set_Num_Threads(threads)
            return Library(kind="mkl", name=name, handle=handle)
    return None


def _open(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable unless the user did, and leave no trace for child processes."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
