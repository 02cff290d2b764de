"""Counts copies of secrets in another process's memory, through ``/proc/PID/mem``. Linux; needs root or ptrace rights.

What it does not see, by nature: pieces shorter than 8 bytes, lists of separate number objects, compressed or otherwise
transformed copies, buffers inside the kernel, memory of a GPU, other processes such as an external engine. Requests in
flight are in memory as long as they run. A count of 0 says nothing unless the same scan has found a planted copy.
"""

import ctypes
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CHUNK_BYTES = 4 * 1024 * 1024
_PAGE = os.sysconf("SC_PAGESIZE")
_ENTRY_BYTES = 8  # of /proc/PID/pagemap, one per page
_IN_USE = 0b11 << 62  # the page is in memory, or in swap
_SPECIAL = ("[vvar", "[vdso", "[vsyscall")


class Span(NamedTuple):
    """Addresses of one stretch of memory; the end is not part of it."""

    start: int
    end: int


def scan(pid: int, needles: Mapping[str, bytes]) -> dict[str, int]:
    """Return how often each needle lies in writable or anonymous memory of a process.

    Read-only pages of files are left out: nobody can have written to them. Raises OSError when the process is gone or
    may not be read.
    """
    found = dict.fromkeys(needles, 0)
    reader = _Reader(max(map(len, needles.values()), default=1) - 1)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - addresses are read, not a file's lines
        for span in _in_use(pid, _mappings(pid)):
            for piece in reader.pieces(memory.fileno(), span):
                for name, needle in needles.items():
                    found[name] += piece.count(needle)
    return found


def _mappings(pid: int) -> Iterator[Span]:
    with open(f"/proc/{pid}/maps") as lines:  # noqa: PTH123 - as above
        listed = [line.split(maxsplit=5) for line in lines]
    for addresses, rights, _offset, _device, inode, *name in listed:
        if (inode == "0" or "w" in rights) and not "".join(name).startswith(_SPECIAL):
            start, end = (int(number, 16) for number in addresses.split("-"))
            yield Span(start, end)


def _in_use(pid: int, spans: Iterator[Span]) -> Iterator[Span]:
    """Cut spans down to pages that were ever touched: much is only reserved."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as table:  # noqa: PTH123 - as above
        for start, end in spans:
            raw = os.pread(table.fileno(), (end - start) // _PAGE * _ENTRY_BYTES, start // _PAGE * _ENTRY_BYTES)
            first = None
            for page, entry in enumerate(memoryview(raw).cast("Q")):
                if entry & _IN_USE and first is None:
                    first = page
                elif not entry & _IN_USE and first is not None:
                    yield Span(start + first * _PAGE, start + page * _PAGE)
                    first = None
            if first is not None:
                yield Span(start + first * _PAGE, end)


class _Piece(NamedTuple):
    """Bytes that were read. fresh: from where on they were not part of the piece before."""

    address: int
    fresh: int
    end: int

    def count(self, needle: bytes) -> int:
        """Count the copies that end in the fresh part."""
        count, at = 0, self.address
        while hit := _memmem(at, self.end - at, needle, len(needle)):
            count += hit + len(needle) > self.fresh
            at = hit + 1
        return count


class _Reader:
    """Reads memory piece by piece; each begins with the last bytes of the one before, as long as a needle may reach."""

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap
        self._buffer = bytearray(overlap + CHUNK_BYTES)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._kept = 0
        self._end = 0

    def pieces(self, memory: int, span: Span) -> Iterator[_Piece]:
        """Read a span. What was unmapped meanwhile is passed over."""
        if span.start != self._end:
            self._kept = 0
        at = span.start
        while at < span.end:
            length = self._read(memory, at, min(CHUNK_BYTES, span.end - at))
            fresh, end = self._kept, self._kept + length
            yield _Piece(self._address, self._address + fresh, self._address + end)
            self._keep(end)
            at += length or _PAGE
        self._end = span.end

    def _read(self, memory: int, at: int, length: int) -> int:
        view = memoryview(self._buffer)[self._kept : self._kept + length]
        try:
            return os.preadv(memory, [view], at)
        except OSError:
            self._kept = 0
            return 0

    def _keep(self, end: int) -> None:
        kept = min(self._overlap, end)
        self._buffer[:kept] = self._buffer[end - kept : end]
        self._kept = kept


def _find_memmem() -> "ctypes._FuncPointer":
    """Return the C library's search: three times as fast as ``bytes.find``, and it lets other threads run."""
    search = ctypes.CDLL(None).memmem
    search.restype = ctypes.c_void_p
    search.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    return search


_memmem = _find_memmem()
