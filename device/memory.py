"""How much memory this process may use now: what the machine has available, within the control group's limit."""

from pathlib import Path

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


def _group_rooms() -> list[int]:
    rooms = []
    for limit, use in LIMITS:
        try:
            rooms.append(max(0, int(limit.read_text()) - int(use.read_text())))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return rooms
