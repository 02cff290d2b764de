"""What a pull tells while it works, and what a source needs to do its part of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .catalog import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a pull. phase: wait, download, unpack, convert, verify or done; bytes within that phase."""

    phase: str
    done_bytes: int
    total_bytes: int


Report = Callable[[str, int, int], None]  # phase, bytes done, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fetch. A source leaves the model's files in ``staging/raw`` and writes nowhere else.

    room: to be asked before the first byte, with the bytes still to be fetched; raises DiskFull.
    """

    entry: Entry
    staging: Path
    report: Report
    room: Callable[[int], None]

    @property
    def raw(self) -> Path:
        """Where the fetched files go."""
        return self.staging / "raw"


Fetch = Callable[[Job], str]  # returns what the manifest says about where the bytes came from
