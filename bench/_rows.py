"""One JSON line for each measured row, with the machine beside it. A claim is a ratio measured in one run."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

PACKAGES = ("mlx", "mlx-lm", "grpcio", "cryptography")


def machine() -> dict[str, Any]:
    """Say what the figures depend on; the one-minute load tells a quiet machine from a busy one."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": load,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def row(
    name: str,
    *,
    ours: Sequence[float],
    baseline: Sequence[float],
    unit: str,
    smaller_is_better: bool = False,
    **more: Any,
) -> float:
    """Print one row and return its ratio, ours to the baseline: the median of the ratios of runs made in turn.

    ours, baseline: one figure for each of the alternating runs.  unit: of both.  spread: (largest - smallest) / median.
    Where the two were not run in pairs it is the ratio of the medians.
    """
    pairs = list(zip(ours, baseline, strict=True)) if len(ours) == len(baseline) else []
    ratio = statistics.median(a / b for a, b in pairs or [(statistics.median(ours), statistics.median(baseline))])
    value = {
        "row": name,
        "ours": round(statistics.median(ours), 4),
        "baseline": round(statistics.median(baseline), 4),
        "ratio": round(ratio, 4),
        "better": "smaller" if smaller_is_better else "larger",
        "unit": unit,
        "runs": min(len(ours), len(baseline)),
        "spread": {"ours": spread(ours), "baseline": spread(baseline)},
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        **more,
    }
    print(json.dumps(value), flush=True)
    return ratio


def spread(figures: Sequence[float]) -> float:
    """Return (largest - smallest) / median, rounded."""
    return round((max(figures) - min(figures)) / statistics.median(figures), 3)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
