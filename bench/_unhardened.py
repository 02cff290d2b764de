"""``pcc-server`` without hardening and scrubbing: the baseline of what those cost. There is no switch for it.

No allocator that overwrites what is freed, no sandbox, no limits. ``_unhardened.py serve …``, or as one of its own
children ``_unhardened.py --child pcc_server.worker …``.
"""

import runpy
import subprocess
import sys
from typing import Any

from pcc_server import harden, process

SCRUBBING = ("PYTHONMALLOC", "GLIBC_TUNABLES")


def soften() -> None:
    """Take the protections out of this process."""
    harden.hide = lambda: None
    harden.stage1 = harden.stage2 = lambda *_, **__: harden.Protection()


def soften_children() -> None:
    """Take them out of what this process starts."""
    built, start = process.environment, subprocess.Popen

    def environment(program: str) -> dict[str, str]:
        return {name: value for name, value in built(program).items() if name not in SCRUBBING}

    def start_soft(words: list[str], **more: Any) -> subprocess.Popen[bytes]:
        at = words.index("-m")
        return start([*words[:at], __file__, "--child", *words[at + 1 :]], **more)

    process.environment = environment
    process.subprocess.Popen = start_soft


if __name__ == "__main__":
    soften()
    if sys.argv[1] == "--child":
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        from pcc_server.cli import main

        soften_children()
        main()
