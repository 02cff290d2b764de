"""Landlock by plain ctypes: what a process may open, execute and connect to, for itself and all it will start.

It binds the calling thread and what that starts, so it comes before any other thread. Numbers are those of
``linux/landlock.h``, equal on every architecture (node design 3.2).
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag

from .kernel import call

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1  # flag: tell the version of the interface
_PATH, _PORT = 1, 2  # kinds of rule
_ATTRIBUTES = struct.Struct("=QQQ")  # handled file rights, handled network rights, scopes
_PATH_RULE = struct.Struct("=Qi")  # allowed rights, folder or file; packed
_PORT_RULE = struct.Struct("=QQ")  # allowed rights, port
NETWORK_ABI, SCOPES_ABI = 4, 6


class Right(IntFlag):
    """What may be done with files below a path."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Net(IntFlag):
    """What may be done with TCP ports."""

    BIND = 1 << 0
    CONNECT = 1 << 1


READ = Right.READ_FILE | Right.READ_DIR
RUN = Right.READ_FILE | Right.EXECUTE
KEEP = READ | Right.WRITE_FILE | Right.TRUNCATE | Right.REMOVE_FILE | Right.REMOVE_DIR | Right.MAKE_REG | Right.MAKE_DIR
DEVICE = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV
_OF_A_FILE = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # of file rights an interface knows; 16 from the fifth on
_SCOPES = 0b11  # abstract Unix sockets and signals reach nobody outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What stays allowed. paths: what is missing on this machine is left out.

    bind, connect: ports that stay allowed; ``None``: every one.
    """

    paths: tuple[tuple[str, Right], ...] = ()
    bind: tuple[int, ...] | None = ()
    connect: tuple[int, ...] | None = ()


def abi() -> int:
    """Return the version of the kernel's interface; 0 where there is none."""
    try:
        return call(_CREATE, 0, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: Rules, version: int) -> None:
    """Forbid everything else to this thread and all it starts, for good. Needs no_new_privs. Raises OSError.

    version: as ``abi`` gave it, 1 at least.
    """
    files = (1 << _BITS.get(version, 16)) - 1
    net = _handled(rules) if version >= NETWORK_ABI else 0
    size = 8 if version < NETWORK_ABI else 16 if version < SCOPES_ABI else 24
    attributes = ctypes.create_string_buffer(_ATTRIBUTES.pack(files, net, _SCOPES), _ATTRIBUTES.size)
    ruleset = call(_CREATE, ctypes.addressof(attributes), size, 0)
    try:
        for path, rights in rules.paths:
            _allow_path(ruleset, path, rights & files)
        for right, ports in ((Net.BIND, rules.bind), (Net.CONNECT, rules.connect)):
            if net & right:
                _allow_ports(ruleset, right, ports or ())
        call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _handled(rules: Rules) -> int:
    return (0 if rules.bind is None else Net.BIND) | (0 if rules.connect is None else Net.CONNECT)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_A_FILE
        if rights:
            rule = ctypes.create_string_buffer(_PATH_RULE.pack(rights, fd), _PATH_RULE.size)
            call(_ADD, ruleset, _PATH, ctypes.addressof(rule), 0)
    finally:
        os.close(fd)


def _allow_ports(ruleset: int, right: Net, ports: Iterable[int]) -> None:
    for port in ports:
        rule = ctypes.create_string_buffer(_PORT_RULE.pack(right, port), _PORT_RULE.size)
        call(_ADD, ruleset, _PORT, ctypes.addressof(rule), 0)
