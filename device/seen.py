"""Which model folders were hashed before, so that an untouched one is not hashed again at each load.

Kept in one file of the store, never inside a model folder. Losing it costs time, not safety.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from .manifest import NAME, Manifest

Marks = dict[str, Any]


class Seen:
    """The memory of checked folders in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, folder: Path, marks: Marks) -> bool:
        """Whether every file, the manifest included, is the one that was hashed, by identity and times."""
        return bool(self._read().get(str(folder)) == marks)

    def remember(self, folder: Path, marks: Marks) -> None:
        """Note that this folder was hashed and found good. A store that cannot be written is hashed each time.

        marks: taken before the hashing began, so that a change during it is not taken for what was hashed.
        """
        self._write({**self._read(), str(folder): marks})

    def forget(self, folder: Path) -> None:
        """Drop what is known about this folder."""
        known = self._read()
        if known.pop(str(folder), None) is not None:
            self._write(known)

    def _read(self) -> dict[str, Any]:
        try:
            value = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, value: dict[str, Any]) -> None:
        part = self._path.with_name(f"{self._path.name}.part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(value, sort_keys=True), encoding="ascii")
            part.replace(self._path)


def marks_of(folder: Path, manifest: Manifest) -> Marks:
    """Take inode, size and both times of each file; the change time cannot be set back by its owner."""
    marks: Marks = {"": hashlib.sha256((folder / NAME).read_bytes()).hexdigest()}
    for path in manifest.files:
        facts = (folder / path).stat()
        marks[path] = [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    return marks
