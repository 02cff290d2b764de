"""Another program of the node's own user, without any right of root, tries to open the memory of its processes.

``python -m pcc_server.audit.stranger USER GROUP PID…`` prints ``{"control": true, "denied": {"PID": true}}``. The
control is a process of its own that nothing closes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from pcc_server.harden import limits
from pcc_server.harden.kernel import prctl

from .processes import Reach
from .report import Unseen

_FILES = ("mem", "environ")  # to change it, to read it: the kernel asks differently for each
_WAIT_S = 60
_SET_DUMPABLE = 4


def reach(user: int, group: int, pids: Sequence[int]) -> Reach:
    """Try it in a process of its own. Raises Unseen where this user cannot become that one."""
    if os.geteuid() not in (0, user):
        raise Unseen(f"the node runs as another user ({user}): run the audit as root")
    words = [sys.executable, "-P", "-s", "-B", "-m", "pcc_server.audit.stranger", *map(str, (user, group, *pids))]
    try:
        done = subprocess.run(words, capture_output=True, check=True, timeout=_WAIT_S)  # noqa: S603 - our own program
        told = json.loads(done.stdout)
    except (ValueError, subprocess.SubprocessError) as error:
        raise Unseen(f"the trial did not come to an end: {type(error).__name__}") from None
    return Reach(control=told["control"], denied={int(pid): denied for pid, denied in told["denied"].items()})


def main(argv: list[str]) -> None:
    """Become the user, try, print."""
    user, group, *pids = map(int, argv)
    _become(user, group)
    open_one = _open_one()
    told = {"control": not _denied(open_one), "denied": {pid: _denied(pid) for pid in pids}}
    os.kill(open_one, signal.SIGKILL)
    os.waitpid(open_one, 0)
    print(json.dumps(told))  # noqa: T201 - this is what it is for


def _open_one() -> int:
    """Start a process that is as open as any other program of this user."""
    ready, said = os.pipe()
    if not (pid := os.fork()):
        prctl(_SET_DUMPABLE, 1)  # changing the user has closed us
        os.write(said, b".")
        signal.pause()
    os.read(ready, 1)
    return pid


def _become(user: int, group: int) -> None:
    if os.geteuid() != user:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    limits.no_capabilities()


def _denied(pid: int) -> bool:
    """Tell whether both files were denied."""
    return not any(_opens(f"/proc/{pid}/{file}") for file in _FILES)


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
