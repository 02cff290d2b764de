"""The router's weights as they were installed, and the scorer made of them and of one user's correction."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from . import learning
from .routing.complexity import LearnedScorer
from .routing.personal import digest

FILE = "router-1.json"


@cache
def shipped() -> bytes:
    """Return the bytes of the installed weights. Raises FileNotFoundError when the installation is incomplete."""
    return files("hybrid.routing").joinpath("weights", FILE).read_bytes()


def load_scorer(folder: Path | None) -> LearnedScorer:
    """Build the scorer. folder: where this user's correction may lie; None uses the shipped weights alone."""
    weights = shipped()
    return LearnedScorer.from_bytes(weights, learning.current(folder, base=digest(weights)) if folder else None)
