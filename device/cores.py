"""How many processor cores this process may really use: affinity, control group quota, physical cores."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
QUOTA_FILES = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def usable_cores(*, system: Path = SYSTEM, quota_files: Iterable[Path] = QUOTA_FILES) -> int:
    """Count physical cores within the affinity mask and the quota, at least one."""
    allowed = _affinity()
    physical = len({_siblings(system, cpu) for cpu in allowed})
    quotas = [quota for quota in map(_quota, quota_files) if quota is not None]
    return max(1, min([physical, *(math.floor(quota) for quota in quotas)]))


def _affinity() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(system: Path, cpu: int) -> str:
    """Name the physical core of a logical one; without the file every logical core counts as its own."""
    try:
        return (system / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(file: Path) -> float | None:
    """Read a control group quota in cores; None where there is none. Version 2 holds both numbers in one file."""
    try:
        words = file.read_text().split()
        if len(words) == 1:
            words.append((file.parent / "cpu.cfs_period_us").read_text().strip())
        quota, period = words
        return int(quota) / int(period) if quota not in {"max", "-1"} else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
