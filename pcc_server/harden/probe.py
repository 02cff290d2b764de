"""Forbidden acts, tried on purpose: each returns when it succeeded and raises OSError when it was denied.

All are harmless where nothing denies them, and undo what they did. "Succeeded" means that the act was let through to
the kernel's own work: where that needs an argument nobody should give, one is given that fails for another reason.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial

from .kernel import call, prctl
from .seccomp import FASTOPEN
from .syscalls import table

Probe = Callable[[], None]

DENIED = frozenset((errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS))
_HERE = -100  # AT_FDCWD: a path is taken from here
_NO_FD = -1
_NOBODY = 0x3FFFFFFF  # a process id that no system gives
_GET_DUMPABLE, _SET_DUMPABLE, _SET_PTRACER, _SET_PDEATHSIG, _GET_PDEATHSIG = 3, 4, 0x59616D61, 1, 2
_MADE = frozenset(("memfd_create", "memfd_secret", "pidfd_open", "inotify_init1", "fanotify_init", "userfaultfd"))


def _call(name: str, *words: int) -> int:
    """Make a system call by name. Raises OSError, ENOSYS where there is no such call."""
    numbers = table()
    if numbers is None or name not in numbers.numbers:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return call(numbers[name], *words)


def _reach(name: str, *words: int) -> None:
    """Make a system call; one that fails for any other reason than a denial has passed."""
    with _let_through():
        result = _call(name, *words)
        if name in _MADE:
            os.close(result)


class _let_through(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        return isinstance(error, OSError) and error.errno not in DENIED


def _text(words: bytes) -> int:
    """Return the address of a text, which lives as long as the interpreter."""
    return ctypes.addressof(_TEXTS.setdefault(words, ctypes.create_string_buffer(words)))


_TEXTS: dict[bytes, ctypes.Array[ctypes.c_char]] = {}


def _own_name() -> str:
    return f"/tmp/pcc-probe-{os.getpid()}-{threading.get_native_id()}"  # noqa: S108 - made with O_EXCL


def _open(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags | os.O_CLOEXEC, 0o600))


def _create_file() -> None:
    _open(_own_name(), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.unlink(_own_name())  # noqa: PTH108 - the bare call


def _make_folder() -> None:
    os.mkdir(_own_name())  # noqa: PTH102 - the bare call
    os.rmdir(_own_name())  # noqa: PTH106 - the bare call


def _open_hidden_flags() -> None:
    how = ctypes.create_string_buffer(24)  # struct open_how, all zero: for reading
    os.close(_call("openat2", _HERE, _text(b"/"), ctypes.addressof(how), len(how)))


def _socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def _pair() -> None:
    for end in socket.socketpair():
        end.close()


def _fork() -> None:
    """By the bare call: libraries run code of theirs before and after ``os.fork``."""
    if not (child := _call("clone", signal.SIGCHLD)):
        os._exit(0)
    os.waitpid(child, 0)


def _parent_memory() -> None:
    _open(f"/proc/{os.getppid()}/mem")


def _new_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _dumpable() -> None:
    was = prctl(_GET_DUMPABLE)
    prctl(_SET_DUMPABLE, 1)
    prctl(_SET_DUMPABLE, was)


def _outlive() -> None:
    signal_number = ctypes.c_int()
    prctl(_GET_PDEATHSIG, ctypes.addressof(signal_number))
    prctl(_SET_PDEATHSIG, signal_number.value)


def _raise_limit() -> None:
    same = ctypes.create_string_buffer(struct.pack("=qq", *resource.prlimit(0, resource.RLIMIT_CORE)), 16)
    _call("prlimit64", 0, resource.RLIMIT_CORE, ctypes.addressof(same), 0)


def _shared_memory() -> None:
    _call("shmctl", _call("shmget", 0, mmap.PAGESIZE, 0o600), 0, 0)  # IPC_PRIVATE, IPC_RMID


def _read_own_memory() -> None:
    _reach("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0)


def _signal_parent() -> None:
    os.kill(os.getppid(), 0)


PROBES: dict[str, Probe] = {
    "create_file": _create_file,
    "open_to_write": partial(_open, "/dev/null", os.O_WRONLY),
    "open_to_read_and_write": partial(_open, "/dev/null", os.O_RDWR),
    "open_to_append": partial(_open, "/dev/null", os.O_WRONLY | os.O_APPEND),
    "open_hidden_flags": _open_hidden_flags,
    "make_folder": _make_folder,
    "rename": partial(_reach, "renameat2", _HERE, 0, _HERE, 0, 0),
    "unlink": partial(_reach, "unlinkat", _HERE, 0, 0),
    "link": partial(_reach, "linkat", _HERE, 0, _HERE, 0, 0),
    "symlink": partial(_reach, "symlinkat", 0, _HERE, 0),
    "truncate": partial(_reach, "truncate", 0, 0),
    "chmod": partial(_reach, "fchmodat", _HERE, 0, 0),
    "chown": partial(_reach, "fchownat", _HERE, 0, 0, 0, 0),
    "touch": partial(_reach, "utimensat", _HERE, 0, 1, 0),
    "set_attribute": partial(_reach, "setxattr", 0, 0, 0, 0, 0),
    "make_device": partial(_reach, "mknodat", _HERE, 0, 0, 0),
    "memory_file": partial(_reach, "memfd_create", _text(b"pcc-probe"), 1),
    "shared_memory": _shared_memory,
    "read_password_hashes": partial(_open, "/etc/shadow"),
    "read_accounts": partial(_open, "/etc/passwd"),
    "read_parent_memory": _parent_memory,
    "list_root": partial(_open, "/", os.O_RDONLY | os.O_DIRECTORY),
    "tcp_socket": partial(_socket, socket.AF_INET, socket.SOCK_STREAM),
    "udp_socket": partial(_socket, socket.AF_INET, socket.SOCK_DGRAM),
    "unix_socket": partial(_socket, socket.AF_UNIX, socket.SOCK_STREAM),
    "raw_socket": partial(_socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "socket_pair": _pair,
    "connect": partial(_reach, "connect", _NO_FD, 0, 0),
    "connect_by_sending": partial(_reach, "sendto", _NO_FD, 0, 0, FASTOPEN, 0, 0),
    "connect_by_message": partial(_reach, "sendmsg", _NO_FD, 0, FASTOPEN),
    "connect_by_messages": partial(_reach, "sendmmsg", _NO_FD, 0, 0, FASTOPEN),
    "bind": partial(_reach, "bind", _NO_FD, 0, 0),
    "listen": partial(_reach, "listen", _NO_FD, 0),
    "execute": partial(_reach, "execve", _text(b""), 0, 0),
    "execute_at": partial(_reach, "execveat", _HERE, _text(b""), 0, 0, 0),
    "fork": _fork,
    "clone3": partial(_reach, "clone3", 0, 0),
    "trace": partial(_reach, "ptrace", 7, _NOBODY, 0, 0),  # PTRACE_CONT
    "read_foreign_memory": _read_own_memory,
    "write_foreign_memory": partial(_reach, "process_vm_writev", _NOBODY, 0, 0, 0, 0, 0),
    "hold_process": partial(_reach, "pidfd_open", _NOBODY, 0),
    "take_descriptor": partial(_reach, "pidfd_getfd", _NO_FD, 0, 0),
    "compare_processes": partial(_reach, "kcmp", _NOBODY, _NOBODY, 1, 0, 0),
    "signal_parent": _signal_parent,
    "bpf": partial(_reach, "bpf", _NO_FD, 0, 0),
    "io_uring": partial(_reach, "io_uring_setup", 1, 0),
    "userfaultfd": partial(_reach, "userfaultfd", 0x40000000),
    "perf_event": partial(_reach, "perf_event_open", 0, 0, _NO_FD, _NO_FD, 0),
    "mount": partial(_reach, "mount", 0, 0, 0, 0, 0),
    "open_filesystem": partial(_reach, "fsopen", 0, 0),
    "change_root": partial(_reach, "chroot", 0),
    "new_namespace": partial(_reach, "unshare", 0),
    "enter_namespace": partial(_reach, "setns", _NO_FD, 0),
    "keyring": partial(_reach, "keyctl", _NO_FD, 0, 0, 0, 0),
    "file_handle": partial(_reach, "open_by_handle_at", _NO_FD, 0, 0),
    "watch_files": partial(_reach, "inotify_init1", 0),
    "personality": partial(_reach, "personality", 0xFFFFFFFF),
    "change_user": partial(_reach, "setresuid", -1, -1, -1),
    "raise_limit": _raise_limit,
    "become_dumpable": _dumpable,
    "allow_tracer": lambda: _let_prctl(_SET_PTRACER, 1),
    "outlive_launcher": _outlive,
    "new_code": _new_code,
}
# What denies a probe where it is not the system call filter.
_BY: dict[str, str] = {
    "read_password_hashes": "landlock",
    "read_accounts": "landlock",
    "read_parent_memory": "landlock",
    "list_root": "landlock",
    "new_code": "mdwe",
}


def _let_prctl(option: int, word: int) -> None:
    with _let_through():
        prctl(option, word)


def run(held: AbstractSet[str] | None = None) -> dict[str, bool]:
    """Try them all; returns name -> whether it was denied.

    held: only those that one of these protections must deny; ``None``: every one.
    """
    chosen = (name for name in PROBES if held is None or _BY.get(name, "seccomp") in held)
    return {name: _denied(PROBES[name]) for name in chosen}


def _denied(probe: Probe) -> bool:
    try:
        probe()
    except OSError:
        return True
    return False
