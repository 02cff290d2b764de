"""Vectors made by others, beside this checkout. Their absence is a failure that says so, never a silent skip."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"


def foreign(name: str) -> bytes:
    """Read one file below ``../shared/vectors``."""
    path = FOLDER / name
    if not path.is_file():
        pytest.fail(f"the vectors of others are not beside this checkout: ../shared/vectors/{name}")
    return path.read_bytes()


def merkle_cases(kind: str) -> dict[str, dict[str, Any]]:
    """Read the cases ``inclusion`` or ``consistency`` of transparency-dev/merkle, by path."""
    loaded: dict[str, dict[str, Any]] = json.loads(foreign(f"rfc6962-merkle/{kind}.json"))
    return loaded


def hashes(case: dict[str, Any]) -> tuple[bytes, ...]:
    """Read a case's proof, which may be null."""
    return tuple(base64.b64decode(text, validate=True) for text in case["proof"] or ())


def tessera_notes() -> dict[str, bytes]:
    """Read all checkpoints of the tiled log that transparency-dev/tessera tests with."""
    names = ["checkpoint", *(f"checkpoint.{size}" for size in range(16))]
    return {name: foreign(f"tlog-tiles-tessera/{name}") for name in names}
