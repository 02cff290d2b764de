"""Who may read a file that holds a secret: its owner, and where that is somebody else the group that we are in."""

import os
import stat
from pathlib import Path

_GROUP_MAY_READ = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
_OWNER_ALONE = stat.S_IRWXG | stat.S_IRWXO


def remedy(path: Path, found: os.stat_result) -> str:
    """Return the command that keeps others from a file, empty where they are kept from it.

    What belongs to somebody else was given to us through its group, as Kubernetes and systemd give secrets.
    """
    ours = found.st_uid == os.geteuid()
    if not found.st_mode & (_OWNER_ALONE if ours else _GROUP_MAY_READ):
        return ""
    return f"chmod {'600' if ours else '640'} {path}"
