"""A downloader ends with the process that started it, even when that is killed."""

import subprocess
import sys

import psutil

PARENT = """
import sys
from device.child import start_module
child = start_module("timeit", ["-n", "1", "-r", "1", "import time; time.sleep(60)"], {})
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_downloader_does_not_outlive_a_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=30)
    assert not alive
    assert gone


def test_a_downloader_that_is_left_alone_ends_by_itself() -> None:
    from device.child import start_module

    with start_module("timeit", ["-n", "1", "-r", "1", "pass"], {}) as child:
        assert child.stdout is not None
        output = child.stdout.read()
    assert "1 loop" in output
    assert child.returncode == 0


def test_closing_its_input_ends_a_downloader() -> None:
    """So an interrupt in the middle of a pull leaves nobody behind."""
    from device.child import start_module

    with start_module("timeit", ["-n", "1", "-r", "1", "import time; time.sleep(60)"], {}) as child:
        pass
    assert child.returncode == 1
