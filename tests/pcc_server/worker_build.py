"""A node whose worker is a test build: some code runs in it before the worker's own."""

import sys


def worker_after(code: str) -> tuple[str, ...]:
    """Words that start such a node. code: statements without a line break, run before ``pcc_server.worker``."""
    worker = f"import runpy; {code}; runpy.run_module('pcc_server.worker', run_name='__main__', alter_sys=True)"
    launcher = f"""
import subprocess, types
from pcc_server import process
from pcc_server.cli import main

def start(words, **more):
    at = words.index("-m")
    changed = [*words[:at], "-c", {worker!r}, *words[at + 2 :]] if words[at + 1].endswith("worker") else words
    return subprocess.Popen(changed, **more)

process.subprocess = types.SimpleNamespace(Popen=start, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
main()
"""
    return (sys.executable, "-P", "-c", launcher)
