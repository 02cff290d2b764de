"""Numbers of the system calls that the filters and probes name, by architecture.

x86-64: ``asm/unistd_64.h``. aarch64: ``asm-generic/unistd.h`` as ``asm/unistd.h`` of that architecture includes it.
From 424 on the numbers are the same everywhere; those above 450 are those of Linux 6.1 to 6.17. Only x86-64 has been
run; tests compare both tables with the kernel's headers.
"""

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

NEWEST = 469  # file_setattr, Linux 6.17: what is above did not exist when the tables were written


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One architecture. audit: its number in seccomp data.  x32: numbers from here on are the x32 calls; 0: none."""

    audit: int
    numbers: Mapping[str, int]
    x32: int = 0

    def __getitem__(self, name: str) -> int:
        """Return the number of a call. Raises KeyError where the architecture has no such call."""
        return self.numbers[name]


def _numbers(text: str) -> dict[str, int]:
    pairs = (word.split("=") for word in text.split())
    return {name: int(number) for name, number in pairs}


X86_64 = Table(
    audit=0xC000003E,
    x32=0x40000000,
    numbers=_numbers("""
creat=85 rename=82 renameat=264 renameat2=316 unlink=87 unlinkat=263 mkdir=83 mkdirat=258 rmdir=84 link=86
linkat=265 symlink=88 symlinkat=266 mknod=133 mknodat=259 truncate=76 ftruncate=77 fallocate=285 chmod=90
fchmod=91 fchmodat=268 fchmodat2=452 chown=92 lchown=94 fchown=93 fchownat=260 utime=132 utimes=235
futimesat=261 utimensat=280 setxattr=188 lsetxattr=189 fsetxattr=190 removexattr=197 lremovexattr=198
fremovexattr=199 setxattrat=463 removexattrat=466 file_setattr=469 open=2 openat=257 openat2=437 socket=41
socketpair=53 connect=42 bind=49 listen=50 accept=43 accept4=288 execve=59 execveat=322 fork=57 vfork=58
clone=56 clone3=435 ptrace=101 process_vm_readv=310 process_vm_writev=311 process_madvise=440
process_mrelease=448 pidfd_open=434 pidfd_getfd=438 pidfd_send_signal=424 kcmp=312 kill=62 tkill=200 tgkill=234
rt_sigqueueinfo=129 rt_tgsigqueueinfo=297 bpf=321 io_uring_setup=425 io_uring_enter=426 io_uring_register=427
io_setup=206 userfaultfd=323 perf_event_open=298 mount=165 umount2=166 pivot_root=155 chroot=161 open_tree=428
open_tree_attr=467 move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 mount_setattr=442 statmount=457
listmount=458 unshare=272 setns=308 add_key=248 request_key=249 keyctl=250 kexec_load=246 kexec_file_load=320
init_module=175 finit_module=313 delete_module=176 memfd_create=319 memfd_secret=447 shmget=29 shmat=30
shmctl=31 semget=64 msgget=68 mq_open=240 mq_unlink=241 open_by_handle_at=304 name_to_handle_at=303
fanotify_init=300 inotify_init=253 inotify_init1=294 swapon=167 swapoff=168 reboot=169 sethostname=170
setdomainname=171 settimeofday=164 clock_settime=227 clock_adjtime=305 adjtimex=159 acct=163 quotactl=179
quotactl_fd=443 syslog=103 vhangup=153 iopl=172 ioperm=173 modify_ldt=154 personality=135 remap_file_pages=216
migrate_pages=256 move_pages=279 uselib=134 lookup_dcookie=212 nfsservctl=180 setuid=105 setgid=106
setgroups=116 setreuid=113 setregid=114 setresuid=117 setresgid=119 setfsuid=122 setfsgid=123 capset=126
prlimit64=302 setrlimit=160 setpgid=109 setsid=112 lsm_set_self_attr=460 prctl=157 seccomp=317
landlock_create_ruleset=444 getpid=39 sendto=44 sendmsg=46 sendmmsg=307
"""),
)
AARCH64 = Table(
    audit=0xC00000B7,
    numbers=_numbers("""
renameat=38 renameat2=276 unlinkat=35 mkdirat=34 linkat=37 symlinkat=36 mknodat=33 truncate=45 ftruncate=46
fallocate=47 fchmod=52 fchmodat=53 fchmodat2=452 fchown=55 fchownat=54 utimensat=88 setxattr=5 lsetxattr=6
fsetxattr=7 removexattr=14 lremovexattr=15 fremovexattr=16 setxattrat=463 removexattrat=466 file_setattr=469
openat=56 openat2=437 socket=198 socketpair=199 connect=203 bind=200 listen=201 accept=202 accept4=242
execve=221 execveat=281 clone=220 clone3=435 ptrace=117 process_vm_readv=270 process_vm_writev=271
process_madvise=440 process_mrelease=448 pidfd_open=434 pidfd_getfd=438 pidfd_send_signal=424 kcmp=272 kill=129
tkill=130 tgkill=131 rt_sigqueueinfo=138 rt_tgsigqueueinfo=240 bpf=280 io_uring_setup=425 io_uring_enter=426
io_uring_register=427 io_setup=0 userfaultfd=282 perf_event_open=241 mount=40 umount2=39 pivot_root=41 chroot=51
open_tree=428 open_tree_attr=467 move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 mount_setattr=442
statmount=457 listmount=458 unshare=97 setns=268 add_key=217 request_key=218 keyctl=219 kexec_load=104
kexec_file_load=294 init_module=105 finit_module=273 delete_module=106 memfd_create=279 memfd_secret=447
shmget=194 shmat=196 shmctl=195 semget=190 msgget=186 mq_open=180 mq_unlink=181 open_by_handle_at=265
name_to_handle_at=264 fanotify_init=262 inotify_init1=26 swapon=224 swapoff=225 reboot=142 sethostname=161
setdomainname=162 settimeofday=170 clock_settime=112 clock_adjtime=266 adjtimex=171 acct=89 quotactl=60
quotactl_fd=443 syslog=116 vhangup=58 personality=92 remap_file_pages=234 migrate_pages=238 move_pages=239
lookup_dcookie=18 nfsservctl=42 setuid=146 setgid=144 setgroups=159 setreuid=145 setregid=143 setresuid=147
setresgid=149 setfsuid=151 setfsgid=152 capset=91 prlimit64=261 setrlimit=164 setpgid=154 setsid=157
lsm_set_self_attr=460 prctl=167 seccomp=277 landlock_create_ruleset=444 getpid=172 sendto=206 sendmsg=211 sendmmsg=269
"""),
)
_BY_MACHINE = {"x86_64": X86_64, "aarch64": AARCH64}


def table() -> Table | None:
    """Return the table of the architecture this interpreter runs on; ``None``: it has none."""
    wide = sys.maxsize > 2**32  # a 32-bit interpreter on a 64-bit kernel makes other calls
    return _BY_MACHINE.get(platform.machine()) if wide and sys.platform == "linux" else None
