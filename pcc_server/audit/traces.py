"""What a node's processes asked of the kernel, as strace wrote it down: calls that write, and what calls carry (S2)."""

import re
from collections.abc import Iterable
from pathlib import Path

WRITING = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")
CHANGING = re.compile(
    r"^(creat|rename\w*|unlink\w*|mkdir\w*|rmdir|link|linkat|symlink\w*|truncate|mknod\w*|chmod|fchmodat\w*|memfd_create"
    r"|io_uring_setup)\("
)
OPENING = re.compile(r"^(open|openat|openat2)\(")
HELD = re.compile(r"^(write|writev|pwrite64|pwritev|pwritev2|ftruncate|fallocate|fchmod)\(\d+<(/[^>]*)>")
HARMLESS = ('"/dev/null"', '"/dev/tty"')
TRACED = (
    "open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,"
    "symlinkat,truncate,ftruncate,fallocate,mknod,mknodat,chmod,fchmod,fchmodat,memfd_create,io_uring_setup,"
    "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg"
)


def strace(output: Path) -> tuple[str, ...]:
    """Words that run a program and all its children under strace, every traced call with its time.

    Without --seccomp-bpf, which is faster: it does not see what the node's own filter refuses.
    """
    return (
        "strace",
        "-f",
        "-qq",
        "-ttt",
        "-y",
        "-s",
        "4096",
        "-o",
        str(output),
        "-e",
        f"trace={TRACED}",
    )


def calls(output: Path, *, since: float) -> list[str]:
    """Return the calls that any process under the trace, threads included, began after a moment.

    A call that another one interrupted is written in two lines; the first holds its arguments.
    """
    lines = (line.split(maxsplit=2) for line in output.read_text(errors="replace").splitlines())
    return [call for _, at, call in lines if float(at) >= since and not call.startswith(("<... ", "+++", "---"))]


def writers(found: Iterable[str]) -> list[str]:
    """Return the calls that create, open for writing, rename or remove, or that write to a file held open."""
    return [
        call
        for call in found
        if CHANGING.match(call)
        or (OPENING.match(call) and WRITING.search(call) and not any(n in call for n in HARMLESS))
        or ((held := HELD.match(call)) and f'"{held[2]}"' not in HARMLESS)
    ]
