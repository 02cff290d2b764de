"""How much memory this process may use now: what the machine has available, within the control group's limit."""

import os
from pathlib import Path

STATM = Path("/proc/self/statm")
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def room_bytes(*, device_limit: int | None = None) -> int:
    """Bytes this process may use, its present use included.

    device_limit: the accelerator's recommended working set, where it reports one. Source: device design 6.0.
    """
    import psutil

    own = int(psutil.Process().memory_info().rss)
    free = [int(psutil.virtual_memory().available), *_group_rooms()]
    room = min(free) + own
    return min(room, device_limit) if device_limit else room


def resident_bytes() -> int:
    """Bytes of this process that are in memory; 0 where it may not be asked.

    One file is read, and one that a process without a core file may still read of itself.
    """
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _group_rooms() -> list[int]:
    rooms = []
    for limit, use in LIMITS:
        try:
            rooms.append(max(0, int(limit.read_text()) - int(use.read_text())))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return rooms
