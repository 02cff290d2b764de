"""What can be asked of a Mac: whether its disk and its swap are encrypted, and whether the system protects itself.

Unverified: no Mac was at hand. What is in force for a running process, macOS shows to nobody outside it: a Mac node is
tier 0, and its audit says "not proven" (node design 3.2).
"""

import subprocess
from collections.abc import Callable, Iterator

from .report import Check, Found, Row, Unseen

FILEVAULT = Check("filevault", "on", "who has the disk has the weights, and what swap has written to it")
SWAP = Check("swap", "encrypted", "pages with prompts and keys can be read from the disk")
INTEGRITY = Check("system_integrity", "enabled", "root reads any process and changes the system")
PROCESSES = Check("processes", "what is in force for the node's processes", "the sandbox may not be what it should be")
_WAIT_S = 20

Ask = Callable[[str], str]


def ask(command: str) -> str:
    """Run a command of the system and return what it says. Raises Unseen."""
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=True, timeout=_WAIT_S)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        raise Unseen(f"{command} gives no answer: {type(error).__name__}") from None
    return done.stdout.strip()


def rows(ask: Ask = ask) -> Iterator[Row]:
    """Ask."""
    yield FILEVAULT.look(lambda: _says(ask("/usr/bin/fdesetup status"), "FileVault is On"))
    yield SWAP.look(lambda: _says(ask("/usr/sbin/sysctl -n vm.swapusage"), "encrypted"))
    yield INTEGRITY.look(lambda: _says(ask("/usr/bin/csrutil status"), "enabled"))
    yield PROCESSES.look(_unseen)


def _says(told: str, wanted: str) -> Found:
    return Found(wanted in told, told)


def _unseen() -> Found:
    raise Unseen("macOS shows it to nobody outside a process; run the node on Linux where it must be proven")
