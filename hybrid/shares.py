"""What a client remembers of how its deployment's nodes were drawn and answered. Feeds the bias alarm; no content."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .bias import NodeCount
from .errors import ConfigurationError
from .state import read_json, write_json

SHARES = "shares"
KEPT_NODES = 512  # nodes come and go with every restart; the least drawn go first


class ShareBook:
    """Counts per node of one deployment, in memory, and in a file once there is a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._path: Path | None = None
        self.counts: dict[str, NodeCount] = {}
        self.trouble = ""

    def open(self, deployment: str) -> None:
        """Start from what is remembered of a deployment.

        A file that can't be read is ``trouble``, left as it is, and costs what it holds: these are counts, no check.
        """
        if self._folder is None or self._path is not None or self.trouble:
            return
        path = self._folder / SHARES / f"{deployment}.json"
        try:
            before = _read(path)
        except ConfigurationError as error:
            self.trouble = f"{error}; {error.hint}"
            return
        self._path = path
        for name, count in before.items():
            self.counts.setdefault(name, count)

    def drawn(self, chances: Mapping[str, float], drawn: Iterable[str]) -> None:
        """Count one draw: everybody's chance to be first, and who was drawn, in order."""
        for name, chance in chances.items():
            self._of(name).expected += chance
        for place, name in enumerate(drawn):
            self._of(name).offered += 1
            self._of(name).first += place == 0
        if len(self.counts) > 2 * KEPT_NODES:
            self.counts = self._most()

    def answered(self, chances: Mapping[str, float], name: str) -> None:
        """Count one answer, and everybody's chance to have been first in it."""
        for each, chance in chances.items():
            self._of(each).due += chance
        self._of(name).answered += 1

    def failed(self, names: Iterable[str]) -> None:
        """Count an attempt that ended outside the seal, for each of its candidates."""
        for name in names:
            self._of(name).failed += 1

    def save(self) -> None:
        """Write the counts down, where there is a folder. Raises ConfigurationError."""
        if self._path is None:
            return
        write_json(self._path, {"version": 1, "nodes": {name: asdict(count) for name, count in self._most().items()}})

    def _most(self) -> dict[str, NodeCount]:
        return dict(sorted(self.counts.items(), key=lambda pair: pair[1].expected, reverse=True)[:KEPT_NODES])

    def _of(self, name: str) -> NodeCount:
        return self.counts.setdefault(name, NodeCount())


def read_all(folder: Path) -> dict[str, dict[str, NodeCount]]:
    """Return the counts of every deployment this device has used."""
    return {path.stem: _read(path) for path in sorted((folder / SHARES).glob("*.json"))}


def _read(path: Path) -> dict[str, NodeCount]:
    value = read_json(path)
    try:
        return {name: _count(count) for name, count in value["nodes"].items()} if value is not None else {}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigurationError(f"{path} holds no shares of nodes", hint="removing it starts counting anew") from None


def _count(value: Mapping[str, Any]) -> NodeCount:
    return NodeCount(
        expected=float(value["expected"]),
        first=int(value["first"]),
        offered=int(value["offered"]),
        due=float(value["due"]),
        answered=int(value["answered"]),
        failed=int(value["failed"]),
    )
