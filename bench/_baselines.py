"""What the router is measured against: prompt length, LiteLLM's keyword scorer, a classifier on MiniLM embeddings."""

import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import _minilm
import numpy as np
from _sets import Row

from hybrid.routing.features import STRUCTURAL, extract

LITELLM = "1.106.2"
"""Fetched for the bench alone. Pinned to what was read and measured; 1.107.0 is reported as compromised."""

SAMPLE = 1000
"""Rows of a set that are embedded: a text takes 20 to 100 ms on one core."""

RIDGE = 300_000.0
"""The best of eight from 30 to 10^8 by the mean APGR over left-out sets, in favour of the baseline."""

SCORE = """
import json, sys
from unittest.mock import MagicMock
from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter
router = ComplexityRouter(model_name="auto", litellm_router_instance=MagicMock(), complexity_router_config={})
print(json.dumps([[str(tier.value), score] for tier, score, _ in map(router.classify, json.load(sys.stdin))]))
"""


def length(rows: Sequence[Row]) -> list[float]:
    """Return prompt lengths in characters."""
    return [float(len(row.prompt)) for row in rows]


def litellm(sets: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
    """Return LiteLLM's complexity scores as shipped, by its heuristic classifier; no model, no network once installed.

    Made in an environment of its own in the temporary folder. Raises CalledProcessError where it can't be installed.
    """
    prompts = [row.prompt for rows in sets.values() for row in rows]
    done = subprocess.run(
        [_environment(), "-c", SCORE], input=json.dumps(prompts), capture_output=True, text=True, check=True
    )
    scores = iter(score for _, score in json.loads(done.stdout.splitlines()[-1]))
    return {name: [next(scores) for _ in rows] for name, rows in sets.items()}


def _environment() -> Path:
    where = Path(tempfile.gettempdir()) / "hybrid-bench" / f"litellm-{LITELLM}"
    python = where / "bin" / "python"
    if not (where / "ready").is_file():
        print(f"installing litellm {LITELLM} for the comparison", file=sys.stderr)
        venv.create(where, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"litellm=={LITELLM}"]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        (where / "ready").touch()
    return python


def sample(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of the rows that are embedded, `SAMPLE` at most, drawn and ordered by the prompt alone."""
    return sorted(range(len(rows)), key=lambda n: hashlib.sha256(rows[n].prompt.encode()).digest())[:SAMPLE]


def embedded(sets: Mapping[str, Sequence[Row]]) -> dict[str, tuple[list[Row], np.ndarray]]:
    """Return a sample of each set, and embedding and structural counts of its rows side by side."""
    shown = {name: [rows[n] for n in sample(rows)] for name, rows in sets.items()}
    return {name: (rows, _described(rows)) for name, rows in shown.items()}


def _described(rows: Sequence[Row]) -> np.ndarray:
    counts = [[f.values[name] for name in STRUCTURAL] for f in (extract(row.prompt) for row in rows)]
    return np.hstack([_minilm.embed([row.prompt for row in rows]), np.array(counts)])


def ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Fit the gain by ridge regression in standard scores, and return it for the rows shown."""
    weight = weight / weight.sum()
    mean = weight @ x
    spread = np.sqrt(weight @ (x - mean) ** 2) + 1e-6
    z = (x - mean) / spread
    left = (z * weight[:, None]).T @ z + np.eye(x.shape[1]) * RIDGE / len(x)
    beta = np.linalg.solve(left, (z * weight[:, None]).T @ (y - weight @ y))
    return (shown - mean) / spread @ beta
