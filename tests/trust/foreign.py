"""Where the vectors of others lie, and a plain word when they are absent."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def foreign(name: str) -> bytes:
    """The bytes of one vector, by its path below ``../shared/vectors``."""
    path = FOLDER / name
    if not path.exists():
        pytest.fail(f"the vectors of others are not beside this checkout: ../shared/vectors/{name}")
    return path.read_bytes()
