"""Where a monitor reads a log from: a folder, or an address that serves one."""

from collections.abc import Callable
from pathlib import Path

from .errors import LogError
from .store import Store
from .web import WebError, call

TIMEOUT_S = 60.0  # for a whole file
_OK = 200
MAX_FILE_BYTES = 256 * (2 + 16 * 1024)  # an entry bundle of the largest entries

Read = Callable[[str], bytes]


def reader_of(prefix: str) -> Read:
    """Return what reads paths below a folder or an http(s) prefix. It raises LogError."""
    if not prefix.startswith(("http://", "https://")):
        return Store(Path(prefix)).read

    def read(path: str) -> bytes:
        url = f"{prefix.rstrip('/')}/{path}"
        try:
            status, data = call("GET", url, limit=MAX_FILE_BYTES, patience_s=TIMEOUT_S)
        except WebError:
            status, data = 0, b""
        if status != _OK:
            raise LogError(f"{prefix}/{path} cannot be fetched")
        if len(data) > MAX_FILE_BYTES:
            raise LogError(f"{prefix}/{path} is larger than any file of a log")
        return data

    return read
