"""The node's own list of its faults, as its help gives it."""

import re
import subprocess
import sys


def names() -> set[str]:
    """Return what ``--fault`` takes."""
    words = [sys.executable, "-P", "-m", "pcc_server", "serve", "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    listed = re.search(r"loopback\):\s+([a-z_,\s]+)\.", shown)
    assert listed, shown
    return set(re.split(r",\s+", listed[1]))
