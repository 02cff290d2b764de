"""The detectors, which are those of ``pcc-server audit``, and a node that misbehaves to show that they fire."""

import stat
import sys
from pathlib import Path

from pcc_server.audit.search import leaks
from pcc_server.audit.traces import calls, strace, writers

LEAKY = Path(__file__).with_name("leaky.py")
FAULTY = Path(__file__).with_name("faulty.py")
__all__ = ["FAULTY", "LEAKY", "calls", "leaks", "leaky_interpreter", "strace", "writers"]


def leaky_interpreter(
    folder: Path, how: str, *, filtering: bool = True, program: Path = LEAKY, scrubbing: bool = True
) -> tuple[str, ...]:
    """Words that start a node whose worker misbehaves as ``leaky.py``, or another program, says.

    filtering: whether the launcher drops what is no event, as it always does.  scrubbing: whether its children get the
    allocator that overwrites what is freed, as they always do.
    """
    script = folder / "interpreter"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {program} '{how}' \"$@\"\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    code = (
        "import types, pcc_server.process as process, pcc_server.events as events, pcc_server.harden as harden; "
        "harden.stage1 = lambda *_, **__: harden.Protection(); "  # a sandboxed launcher would not start a script
        f"process.sys = types.SimpleNamespace(executable={str(script)!r}); "
        f"events.parse = events.parse if {filtering} else lambda line: True; "
        f"built = process.environment; dropped = () if {scrubbing} else ('PYTHONMALLOC', 'GLIBC_TUNABLES'); "
        "process.environment = lambda program: {k: v for k, v in built(program).items() if k not in dropped}; "
        "from pcc_server.cli import main; main()"
    )
    return (sys.executable, "-P", "-c", code)
