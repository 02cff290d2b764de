"""The detectors: a canary in anything the node says, and calls that write in a strace of its processes."""

import base64
import hashlib
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

LEAKY = Path(__file__).with_name("leaky.py")
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


def leaks(canary: str, *texts: object) -> list[str]:
    """Return every text that holds the canary: plain, reversed, hex, base64, or as its SHA-256."""
    raw = canary.encode()
    forms = {
        canary,
        canary[::-1],
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        hashlib.sha256(raw).hexdigest(),
    }
    forms |= {base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in (1, 2)}
    said = [str(text) for text in texts]
    return [text for text in said if any(form in text for form in forms)]


def strace(output: Path) -> tuple[str, ...]:
    """Words that run a program and all its children under strace, every traced call with its time."""
    return (
        "strace",
        "-f",
        "--seccomp-bpf",
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


def leaky_interpreter(folder: Path, how: str, *, filtering: bool = True) -> tuple[str, ...]:
    """Words that start a node whose worker misbehaves as ``leaky.py`` says.

    filtering: whether the launcher drops what is no event, as it always does.
    """
    script = folder / "interpreter"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {LEAKY} '{how}' \"$@\"\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    code = (
        "import types, pcc_server.process as process, pcc_server.events as events; "
        f"process.sys = types.SimpleNamespace(executable={str(script)!r}); "
        f"events.parse = events.parse if {filtering} else lambda line: True; "
        "from pcc_server.cli import main; main()"
    )
    return (sys.executable, "-P", "-c", code)
