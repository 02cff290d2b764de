"""The receipts a client keeps: files it can check again years later, without a network. Never content (SPEC 9).

One private file per answer, named by its receipt id; the oldest go when there are too many.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigurationError
from .state import write_private

RECEIPTS, SUFFIX = "receipts", ".receipt"
KEPT_FILES = 1000  # some tens of kilobytes each
KEPT_BYTES = 256 * 1024 * 1024  # a receipt of a large software directory holds all of it
MAX_FILE_BYTES = 8 * 1024 * 1024  # a bundle, its leaves and checkpoints are far smaller
_ID = re.compile(r"[0-9a-f]{4,64}")
NAME_CHARS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReceipt:
    """One file. id: the first half of the receipt id.  at: Unix seconds it was written.  size: bytes."""

    id: str
    at: float
    size: int
    path: Path


class ReceiptStore:
    """The folder of receipts of one user."""

    def __init__(self, folder: Path, *, limit: int = KEPT_FILES) -> None:
        self.folder = folder / RECEIPTS
        self._limit = limit

    def keep(self, receipt_id: str, data: bytes) -> Path:
        """Write one receipt file and let the oldest go. Raises ConfigurationError when the folder can't be written."""
        path = self.folder / f"{receipt_id[:NAME_CHARS]}{SUFFIX}"
        write_private(path, data)
        for old in self._too_many():
            with contextlib.suppress(OSError):
                old.path.unlink()
        return path

    def _too_many(self) -> Iterator[KeptReceipt]:
        """Yield the oldest: those beyond the number, or beyond the room, that a user's receipts may take."""
        room = KEPT_BYTES
        for place, kept in enumerate(self.list()):
            room -= kept.size
            if place and (place >= self._limit or room < 0):
                yield kept

    def list(self) -> tuple[KeptReceipt, ...]:
        """Return what is kept, newest first."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                status = path.stat()
                found.append(KeptReceipt(id=path.stem, at=status.st_mtime, size=status.st_size, path=path))
            except FileNotFoundError:  # another process let it go
                continue
        return tuple(sorted(found, key=lambda kept: (kept.at, kept.id), reverse=True))

    def path(self, receipt_id: str) -> Path | None:
        """Return the file of a receipt id or a beginning of it, None when there is none.

        Raises ConfigurationError when the beginning fits several.
        """
        if not is_id(receipt_id):
            return None
        fitting = [kept.path for kept in self.list() if kept.id.startswith(receipt_id[:NAME_CHARS])]
        if len(fitting) > 1:
            raise ConfigurationError(f"{len(fitting)} receipts begin with {receipt_id}", hint="give more of the id")
        return fitting[0] if fitting else None


def is_id(text: str) -> bool:
    """Whether a text can be a receipt id, or the beginning of one."""
    return _ID.fullmatch(text) is not None


def read_receipt(path: Path) -> bytes:
    """Return the bytes of a receipt file. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} is larger than any receipt file")
    return data
