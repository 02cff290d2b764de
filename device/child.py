"""A child process that ends with its parent, so that a killed pull leaves nobody writing behind it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

# os.read, not sys.stdin: a thread inside a buffered read aborts the interpreter at its end.
_WATCH = """
import os, runpy, sys, threading
def watch():
    while os.read(0, 4096):
        pass
    os._exit(1)
module = sys.argv.pop(1)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def start_module(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start ``python -m module`` with this interpreter; it ends when we do or when its ``stdin`` is closed.

    environment: added to ours. stdout and stderr come as one text pipe.
    """
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-P", "-c", _WATCH, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
