"""The heap setting takes effect in a real process, and leaves alone what a user has set."""

import os
import subprocess
import sys

import pytest

from device import heap

PROBE = """
import ctypes, sys
from device import heap
print(heap.keep_threshold())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(8_000_000))  # glibc's own rule would now raise the limit to 8 MB

def mapped():
    with open("/proc/self/maps") as maps:
        return sum(1 for _ in maps)

before = mapped()
held = [libc.malloc(1_000_000) for _ in range(64)]
print(mapped() - before, sum(1 for address in held if address % 4096 == 16))
"""


def _probe(**env: str) -> tuple[str, int]:
    """Return what ``keep_threshold`` said, and how many of 64 arrays lie in pages of their own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    said, numbers = done.stdout.splitlines()
    return said, int(numbers.split()[1])


@pytest.mark.linux
def test_large_arrays_keep_pages_of_their_own() -> None:
    assert _probe() == ("True", 64)


@pytest.mark.linux
def test_who_set_glibc_s_own_variable_keeps_it() -> None:
    said, apart = _probe(**{heap.OVERRIDE: str(32 * 1024 * 1024)})
    assert said == "False"
    assert apart < 64  # the control: without the setting the arrays share an arena
