"""What a process of the node says about itself once it has closed its sandbox: the kernel shows it to nobody else."""

import errno
import fcntl
import os
import socket
import stat
import sys
from typing import Any

_OWN = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_GONE = (errno.EBADF, errno.ENOTSOCK)  # closed, or closed and its number another one's by now
_STANDARD = frozenset((0, 1, 2))  # a child's are no files; the launcher's own log may be one


def describe() -> dict[str, Any]:
    """Return how many files are open for writing, and where its sockets listen, as ``node.Told`` has them."""
    numbers = [int(name) for name in os.listdir(_OWN)]  # noqa: PTH208 - the bare names
    found = [_seen(fd) for fd in numbers if fd not in _STANDARD]
    return {
        "writable_files": sum(written for written, _ in found),
        "listening": [where for _, where in found if where],
    }


def _seen(fd: int) -> tuple[bool, str]:
    """Tell whether a file is written through it, and where it listens; neither where another thread just closed it."""
    try:
        mode = os.fstat(fd).st_mode
        return stat.S_ISREG(mode) and _writes(fd), _listens(fd) if stat.S_ISSOCK(mode) else ""
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False, ""


def _writes(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _listens(fd: int) -> str:
    """Return where a socket listens, HOST:PORT; empty for one that does not."""
    twin = os.dup(fd)
    try:
        end = socket.socket(fileno=twin)
    except OSError:
        os.close(twin)
        raise
    with end:
        if end.family not in (socket.AF_INET, socket.AF_INET6) or not end.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return ""
        host, port, *_ = end.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
