"""Stands in for the interpreter of a node's worker and misbehaves on purpose: the control of the detectors.

``leaky.py HOW -P -s -B -m pcc_server.worker …``; HOW is ``shout:TEXT``, ``write:FILE`` (opened for
each write) or ``hold:FILE`` (opened once). The sandbox, which would not let it, stays open.
"""

import runpy
import sys
import threading
import time

from pcc_server import harden

PLANTED = "planted\n" * 1000  # more than a page: the kernel counts by pages what is to reach a disk


def misbehave(how: str) -> None:
    kind, _, what = how.partition(":")
    held = open(what, "ab", buffering=0) if kind == "hold" else None  # noqa: PTH123, SIM115 - as plain as it gets
    while True:
        time.sleep(0.002)
        if kind == "shout":
            sys.stderr.write(f"DEBUG prompt={what}\n")
            sys.stderr.flush()
        elif held:
            held.write(PLANTED.encode())
        else:
            with open(what, "a") as file:  # noqa: PTH123 - as plain as it gets
                file.write(PLANTED)


if __name__ == "__main__":
    how, *words = sys.argv[1:]
    module = words[words.index("-m") + 1]
    sys.argv = words[words.index("-m") + 1 :]
    harden.stage1 = harden.stage2 = lambda *_, **__: harden.Protection()
    if module.endswith("worker"):
        threading.Thread(target=misbehave, args=(how,), daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
