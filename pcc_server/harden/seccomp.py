"""The system call filter: what each program is refused, and the BPF program that says so to the kernel.

A refused call fails with an error number and the process goes on; a call of a foreign architecture kills it. A rule
names calls, so the same rules stand for both architectures (node design 3.2). Reading files is Landlock's business.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pcc_server.events import Program

from .kernel import call
from .syscalls import NEWEST, Table

_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _IF_EQUAL, _IF_ANY, _IF_ABOVE, _IF_FROM, _RETURN = 0x20, 0x15, 0x45, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_STEP = struct.Struct("=HBBI")  # operation, steps to skip when true, when false, operand

# open(2): any of these asks for more than reading. O_TMPFILE without its O_DIRECTORY bit.
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000
_THREAD = 0x00010000  # CLONE_THREAD
FASTOPEN = 0x20000000  # MSG_FASTOPEN: connect by sending
_NAMESPACES = 0x7E020080  # CLONE_NEW*
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _SET_SECUREBITS, _SET_MM = 1, 4, 22, 28, 35
_SET_PTRACER = 0x59616D61


class Is(StrEnum):
    """How an argument is looked at, by its lower 32 bits but for ``GIVEN``."""

    EQUAL = "equal"
    OTHER = "other"  # than the value
    ANY = "any"  # of the value's bits is set
    NONE = "none"  # of them is set
    GIVEN = "given"  # it is not 0, in all its 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One look at an argument, counted from 0."""

    argument: int
    how: Is
    value: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A call that fails with ``error`` when all tests hold; without tests it always fails."""

    name: str
    error: int = errno.EPERM
    tests: tuple[Test, ...] = ()


def _all(names: str, error: int = errno.EPERM) -> tuple[Rule, ...]:
    return tuple(Rule(name=name, error=error) for name in names.split())


def _option(value: int, *more: Test) -> Rule:
    return Rule(name="prctl", tests=(Test(argument=0, how=Is.EQUAL, value=value), *more))


_FOREIGN = (
    *_all(
        "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp "
        "bpf io_uring_setup io_uring_enter io_uring_register io_setup userfaultfd perf_event_open "
        "mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick "
        "mount_setattr statmount listmount unshare setns add_key request_key keyctl "
        "kexec_load kexec_file_load init_module finit_module delete_module "
        "open_by_handle_at name_to_handle_at fanotify_init swapon swapoff reboot sethostname setdomainname "
        "settimeofday clock_settime clock_adjtime adjtimex acct quotactl quotactl_fd syslog vhangup "
        "iopl ioperm modify_ldt personality remap_file_pages migrate_pages move_pages uselib "
        "lookup_dcookie nfsservctl lsm_set_self_attr",
    ),
    Rule(name="clone", tests=(Test(argument=0, how=Is.ANY, value=_NAMESPACES),)),
    Rule(name="clone3", error=errno.ENOSYS),  # its flags lie in memory; libc then takes clone
    _option(_SET_DUMPABLE, Test(argument=1, how=Is.GIVEN)),
    _option(_SET_PTRACER),
    _option(_SET_SECUREBITS),
    _option(_SET_MM),
)
_WRITES = (
    *_all(
        "creat rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat "
        "mknod mknodat truncate ftruncate fallocate chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat "
        "utime utimes futimesat utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr "
        "setxattrat removexattrat file_setattr "
        "memfd_create memfd_secret shmget shmat shmctl semget msgget mq_open mq_unlink",
    ),
    Rule(name="open", error=errno.EROFS, tests=(Test(argument=1, how=Is.ANY, value=_WRITING),)),
    Rule(name="openat", error=errno.EROFS, tests=(Test(argument=2, how=Is.ANY, value=_WRITING),)),
    Rule(name="openat2", error=errno.ENOSYS),  # its flags lie in memory; libc then takes openat
)
_STARTS = (
    *_all("execve execveat fork vfork"),
    Rule(name="clone", tests=(Test(argument=0, how=Is.NONE, value=_THREAD),)),
)
_SELF = (
    *_all(
        "pidfd_open pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo inotify_init inotify_init1 setpgid "
        "setsid setuid setgid setgroups setreuid setregid setresuid setresgid setfsuid setfsgid capset "
        "setrlimit seccomp",
    ),
    Rule(name="prlimit64", tests=(Test(argument=2, how=Is.GIVEN),)),
    _option(_SET_PDEATHSIG),
    _option(_SET_SECCOMP),
)
_NETWORK = (
    *_all("socket socketpair connect bind listen"),
    # A port that was shut down is a plain socket again, and this flag connects it past connect(2) and past Landlock.
    *(
        Rule(name=name, tests=(Test(argument=flags, how=Is.ANY, value=FASTOPEN),))
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3))
    ),
)
_ACCEPT = _all("accept accept4")

RULES: Mapping[Program, tuple[Rule, ...]] = {
    Program.LAUNCHER: _FOREIGN,  # it starts our programs, opens devices and dials: the rest is what none of them needs
    Program.GATEWAY: _FOREIGN + _WRITES + _STARTS + _SELF + _NETWORK,
    Program.WORKER: _FOREIGN + _WRITES + _STARTS + _SELF + _NETWORK + _ACCEPT,
}


def signals_of(pid: int) -> tuple[Rule, ...]:
    """Return rules under which a process signals itself alone."""
    return tuple(Rule(name=name, tests=(Test(argument=0, how=Is.OTHER, value=pid),)) for name in ("kill", "tgkill"))


def program(rules: Iterable[Rule], table: Table) -> bytes:
    """Return the BPF program: 8 bytes a step. A name that the architecture does not have is left out."""
    named = [rule for rule in rules if rule.name in table.numbers]
    steps = [*_entry(table), *(step for rule in named for step in _steps(rule, table)), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(_STEP.pack(*step) for step in steps)


_Step = tuple[int, int, int, int]


def _entry(table: Table) -> Iterator[_Step]:
    """Kill what comes by another architecture's door; what is newer than our tables does not exist here."""
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_IF_EQUAL, 1, 0, table.audit)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    if table.x32:
        yield (_IF_FROM, 0, 1, table.x32)
        yield (_RETURN, 0, 0, _KILL)
    yield (_IF_ABOVE, 0, 1, NEWEST)
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)


def _steps(rule: Rule, table: Table) -> Iterator[_Step]:
    """One rule, entered with the call's number loaded and left with it loaded."""
    looks = [step for test in rule.tests for step in _look(test)]
    reload = [(_LOAD, 0, 0, _NUMBER)] if looks else []
    yield (_IF_EQUAL, 0, len(looks) + 1 + len(reload), table[rule.name])
    for left, (operation, true, false, operand) in zip(range(len(looks), 0, -1), looks, strict=True):
        yield (operation, left if true == _FAILS else true, left if false == _FAILS else false, operand)
    yield (_RETURN, 0, 0, _ERRNO | rule.error)
    yield from reload


_FAILS = -1  # a jump out of the rule


def _look(test: Test) -> tuple[_Step, ...]:
    low, everything = _ARGUMENTS + 8 * test.argument, 0xFFFFFFFF
    load = (_LOAD, 0, 0, low)
    if test.how is Is.EQUAL:
        return load, (_IF_EQUAL, 0, _FAILS, test.value)
    if test.how is Is.OTHER:
        return load, (_IF_EQUAL, _FAILS, 0, test.value)
    if test.how is Is.ANY:
        return load, (_IF_ANY, 0, _FAILS, test.value)
    if test.how is Is.NONE:
        return load, (_IF_ANY, _FAILS, 0, test.value)
    return load, (_IF_ANY, 2, 0, everything), (_LOAD, 0, 0, low + 4), (_IF_ANY, 0, _FAILS, everything)


def install(bpf: bytes, table: Table) -> None:
    """Put the filter over every thread of this process, for good. Needs no_new_privs.

    Raises OSError; ESRCH when a thread has a filter that the others do not have.
    """
    code = ctypes.create_string_buffer(bpf, len(bpf))
    head = struct.pack("@HP", len(bpf) // _STEP.size, ctypes.addressof(code))
    described = ctypes.create_string_buffer(head, len(head))
    if call(table["seccomp"], _MODE_FILTER, _TSYNC, ctypes.addressof(described)):
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
