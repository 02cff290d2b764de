"""Vectors made by others, turned into cases: ``../shared/vectors`` beside a checkout (origins in its ORIGINS.md)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from . import foreign_evidence, foreign_log, foreign_sealed
from .cases import OURS, Case

THEIRS = OURS.parents[2] / "shared" / "vectors"

SUITES: Mapping[str, Callable[[Path], Iterator[Case]]] = {
    **foreign_sealed.SUITES,
    **foreign_log.SUITES,
    **foreign_evidence.SUITES,
}


def foreign_cases(folder: Path = THEIRS) -> Iterator[Case]:
    """Yield every case of every suite that SPEC claims to implement. Raises FileNotFoundError naming what is absent."""
    for name, cases in SUITES.items():
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"the vectors of others are not beside this checkout: {folder / name}")
        yield from cases(folder / name)
