"""The launcher dials the engine of others: one loopback port or one Unix socket, and nothing else.

The worker has no socket() and no connect(): it asks for a connection by number and gets the descriptor over the
control socket (node design 3.11).
"""

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import control, events
from .config import Settings
from .engine_check import Check
from .errors import StartFailure

LOOPBACK = "127.0.0.1"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENING = "0A"
_WORD_BYTES = 4
_ANSWERS = frozenset((LOOPBACK, "0.0.0.0", "::"))  # noqa: S104 - compared with; addresses that a dial may end at
_CREDENTIALS = struct.calcsize("3i")  # of a peer: process, user, group


class Dialler:
    """Dials whoever was there first, and nobody of another user later.

    While an engine is away any user of the machine may take its port, and would get what is sealed to this node.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._user: int | None = None

    def answer(self, end: socket.socket, number: int) -> None:
        """Answer a worker's request: dial, and hand the connection over, perhaps still connecting.

        The launcher waits for nobody. end: its end of that worker's control socket.
        """
        try:
            with begin(self._settings) as connection:
                self._check(users(self._settings, connection))
                control.write(end, connection.fileno(), dialled=number)
        except OSError as error:
            control.write(end, dialled=number, error=f"the engine cannot be dialled: {error.strerror}")

    def _check(self, found: frozenset[int]) -> None:
        if found and self._user is None and len(found) == 1:
            (self._user,) = found
        if found - {self._user}:
            error = PermissionError(errno.EPERM, "another user of this machine has its place")
            events.fault(error)
            raise error


def users(settings: Settings, connection: socket.socket) -> frozenset[int]:
    """Return the users behind whom a connection to the engine may end; empty where this machine does not show it."""
    if sys.platform != "linux":
        return frozenset()
    if not settings.engine_uds:
        rows = (row for table in TABLES for row in _rows(Path(table)))
        return frozenset(row.user for row in rows if row.port == settings.engine_port and row.address in _ANSWERS)
    with contextlib.suppress(OSError):
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS))
        return frozenset({user})
    return frozenset()


def begin(settings: Settings) -> socket.socket:
    """Begin to connect to the engine the settings name; does not wait for it. Raises OSError."""
    family = socket.AF_UNIX if settings.engine_uds else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)  # noqa: FBT003 - the signature of the standard library
    code = connection.connect_ex(settings.engine_uds or (LOOPBACK, settings.engine_port))
    if code not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(code, errno.errorcode.get(code, "unknown error"))
    return connection


# --- who else could reach it -----------------------------------------------------------------------


def refuse_exposed(settings: Settings) -> None:
    """Refuse an engine that others can reach past the node. Raises StartFailure."""
    if settings.engine != "openai":
        return
    if (check := listener(settings)).held is False and settings.protect != "available":
        raise StartFailure(f"engine.listener: wanted {check.want}, found {check.got}: {check.consequence}")


def listener(settings: Settings) -> Check:
    """Tell whether the engine's port is bound on loopback only, as far as this machine's tables show."""
    want = "loopback only"
    consequence = "others reach the engine without the node; bind it to 127.0.0.1 or to a Unix socket"
    if settings.engine_uds:
        return Check(name="engine.listener", held=True, want=want, got="a Unix socket", consequence=consequence)
    found = sorted(listeners(settings.engine_port))
    others = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    got = ", ".join(others or found) or "nothing that can be seen from here"
    return Check(
        name="engine.listener", held=not others if found else None, want=want, got=got, consequence=consequence
    )


def listeners(port: int, tables: tuple[str, ...] = TABLES) -> set[str]:
    """Return the addresses on which something listens on a TCP port; empty where the kernel shows no table."""
    return {address for table in tables for address, bound, _ in listening(Path(table)) if bound == port}


def listening(table: Path) -> Iterator[tuple[str, int, str]]:
    """Yield address, port and inode of every listening socket in a table of the kernel's."""
    return ((row.address, row.port, row.inode) for row in _rows(table))


class _Row(NamedTuple):
    address: str
    port: int
    user: int
    inode: str


def _rows(table: Path) -> Iterator[_Row]:
    try:
        rows = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for row in rows:
        _, local, _, state, _, _, _, user, _, inode, *_ = row.split()
        if state == _LISTENING:
            address, _, port = local.partition(":")
            yield _Row(_address(bytes.fromhex(address)), int(port, 16), int(user), inode)


def _address(raw: bytes) -> str:
    """Read an address as the kernel prints it: words of four bytes, each in the machine's byte order."""
    words = (raw[at : at + _WORD_BYTES][::-1] for at in range(0, len(raw), _WORD_BYTES))
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
