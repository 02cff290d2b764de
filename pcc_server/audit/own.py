"""What a process of the node says about itself once it has closed its sandbox: the kernel shows it to nobody else."""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Any

_OWN = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_STANDARD = frozenset((0, 1, 2))  # a child's are no files; the launcher's own log may be one


def describe() -> dict[str, Any]:
    """Return how many files are open for writing, and where its sockets listen, as ``node.Told`` has them."""
    found = [fd for fd in _open() if fd not in _STANDARD]
    files = [fd for fd in found if stat.S_ISREG(os.fstat(fd).st_mode) and _writes(fd)]
    sockets = [fd for fd in found if stat.S_ISSOCK(os.fstat(fd).st_mode)]
    return {"writable_files": len(files), "listening": [where for fd in sockets if (where := _listens(fd))]}


def _open() -> Iterator[int]:
    for name in os.listdir(_OWN):  # noqa: PTH208 - the bare names
        try:
            os.fstat(int(name))
        except OSError:  # the folder's own descriptor, closed by now
            continue
        yield int(name)


def _writes(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _listens(fd: int) -> str:
    """Return where a socket listens, HOST:PORT; empty for one that does not."""
    end = socket.socket(fileno=os.dup(fd))
    with end:
        if end.family not in (socket.AF_INET, socket.AF_INET6) or not end.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return ""
        host, port, *_ = end.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
