"""Where a monitor reads a log from: a folder, or an address that serves one."""

import http.client
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .errors import LogError
from .store import Store

TIMEOUT_S = 20.0
MAX_FILE_BYTES = 256 * (2 + 16 * 1024)  # an entry bundle of the largest entries

Read = Callable[[str], bytes]


def reader_of(prefix: str) -> Read:
    """Return what reads paths below a folder or an http(s) prefix. It raises LogError."""
    if not prefix.startswith(("http://", "https://")):
        return Store(Path(prefix)).read

    def read(path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"{prefix.rstrip('/')}/{path}", timeout=TIMEOUT_S) as answer:  # noqa: S310 - http(s) alone
                data = bytes(answer.read(MAX_FILE_BYTES + 1))
        except (OSError, http.client.HTTPException):  # a status that is no success is an OSError too
            raise LogError(f"{prefix}/{path} cannot be fetched") from None
        if len(data) > MAX_FILE_BYTES:
            raise LogError(f"{prefix}/{path} is larger than any file of a log")
        return data

    return read
