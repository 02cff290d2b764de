"""Files of a log: replaced atomically, on disk before a call returns, one writer at a time. Knows no format."""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import LogError

_PRIVATE = 0o700
_PUBLIC = 0o755
_FILE = 0o644
SECRET_FILE = 0o600
PATIENCE_S = 30.0  # a checkpoint waits for witnesses while it holds the lock
_POLL_S = 0.02


class Store:
    """One folder. Names are relative paths with ``/``; they come from our own code, never from a request."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which need not exist yet."""
        self.folder = folder

    def read(self, name: str) -> bytes:
        """Read one file. Raises LogError when it is not there."""
        data = self.get(name)
        if data is None:
            raise LogError(f"{self.folder / name} is missing")
        return data

    def get(self, name: str) -> bytes | None:
        """Read one file, or return None when there is none."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogError(f"cannot read {self.folder / name}: {error.strerror}") from None

    def write(self, name: str, data: bytes, mode: int = _FILE) -> None:
        """Replace one file atomically; it and its name are on disk when this returns. Raises LogError."""
        path = self.folder / name
        try:
            _make_folder(path.parent, _PRIVATE if mode == SECRET_FILE else _PUBLIC)
            _replace(path, data, mode)
        except OSError as error:
            raise LogError(f"cannot write {path}: {error.strerror}") from None

    def names(self, folder: str) -> list[str]:
        """List the files of one folder, sorted; none when it does not exist."""
        place = self.folder / folder
        if not place.is_dir():
            return []
        return sorted(f"{folder}/{path.name}" for path in place.iterdir() if not path.name.startswith("."))

    def remove_folder(self, name: str) -> None:
        """Remove a folder of files that nothing needs any more; no harm when it is not there."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _lock_file(self) -> BinaryIO:
        try:
            _make_folder(self.folder, _PRIVATE)
            return (self.folder / "lock").open("wb")
        except OSError as error:
            raise LogError(f"cannot write {self.folder / 'lock'}: {error.strerror}") from None

    @contextlib.contextmanager
    def locked(self, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Be the only writer, among processes and threads. Raises LogError when another one is and goes on being."""
        with self._lock_file() as file:
            until = time.monotonic() + patience_s
            while not _lock(file.fileno()):
                if time.monotonic() > until:
                    raise LogError(f"another process is writing: {self.folder / 'lock'} stays locked")
                time.sleep(_POLL_S)
            yield


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make_folder(path: Path, mode: int) -> None:
    """Create a folder and its parents; each new name is on disk too."""
    if path.is_dir():
        return
    _make_folder(path.parent, mode)
    path.mkdir(mode=mode, exist_ok=True)
    _sync_folder(path.parent)


def _replace(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
