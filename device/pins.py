"""Which bytes an unpinned model is on this machine: ``models.lock`` beside the store, written on an explicit yes only.

A model of the hub without digests in the catalogue is whatever the hub serves. Once somebody agreed to what came, its
commit and model digest are kept here; later pulls fetch that commit, and other bytes are refused at pull and load.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .catalog import Entry, HubSource
from .errors import BadSource


class Pins:
    """The lock file at ``path``: model id -> repository, commit, model digest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def applied(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Return the entries, the recorded ones pinned. What the catalogue pins itself is never looked up here.

        Raises BadSource when the file was damaged: a digest that cannot be read must not count as none.
        """
        kept = tuple(entries)
        rows = self._rows() if any(_open(entry) for entry in kept) else {}
        return tuple(_pinned(entry, rows[entry.id]) if _open(entry) and entry.id in rows else entry for entry in kept)

    def record(self, entry: Entry, source: str, digest: bytes) -> None:
        """Keep what the hub served for ``entry``. source: as the manifest has it, the commit after the ``@``.

        Hold the store's lock. Raises TypeError for an entry that is not of a hub.
        """
        if not isinstance(entry.source, HubSource):
            raise TypeError(entry.id)
        row = {"repo": entry.source.repo, "revision": source.rpartition("@")[2], "digest": digest.hex()}
        rows = {**self._rows(), entry.id: row}
        part = self._path.with_name(f".{self._path.name}.part")
        with part.open("w", encoding="ascii") as file:
            file.write(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def _rows(self) -> dict[str, Mapping[str, str]]:
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise BadSource(str(self._path), f"cannot be read ({type(error).__name__})") from error
        if not isinstance(value, dict) or not all(map(_is_row, value.values())):
            raise BadSource(str(self._path), "is not as it was written")
        return value


def _open(entry: Entry) -> bool:
    return not entry.digest and isinstance(entry.source, HubSource)


def _is_row(row: Any) -> bool:
    texts = [row.get(key) for key in ("repo", "revision", "digest")] if isinstance(row, dict) else [None]
    return all(isinstance(text, str) and text for text in texts)


def _pinned(entry: Entry, row: Mapping[str, str]) -> Entry:
    """Return the entry at the recorded commit; one that now names another repository is another model."""
    if not isinstance(entry.source, HubSource) or entry.source.repo != row["repo"]:
        return entry
    return replace(entry, source=replace(entry.source, revision=row["revision"]), digest=row["digest"])
