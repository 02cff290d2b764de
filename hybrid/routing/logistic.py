"""Weighted logistic regression with a pull to what is known already. numpy; nothing here knows what it fits."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

NEWTON_STEPS = 50


def logistic(
    x: Numbers, y: Numbers, weight: Numbers, *, prior: tuple[float, float], pull: float
) -> tuple[float, float]:
    """Return intercept and slope of a weighted logistic regression on one variable, pulled to ``prior``."""
    found = newton(np.stack([np.ones(len(x)), x]), y, weight, start=np.zeros(len(x)), prior=np.array(prior), pull=pull)
    return float(found[0]), float(found[1])


def newton(columns: Numbers, y: Numbers, weight: Numbers, *, start: Numbers, prior: Numbers, pull: float) -> Numbers:
    """Minimise sum of weight * log loss of sigmoid(start + at @ columns) + pull / 2 * |at - prior|^2, by Newton.

    columns: shape (k, n).  A step is halved until the loss falls: rows that are easily told apart make it overshoot.
    """

    def loss(at: Numbers) -> float:
        odds = start + at @ columns
        return float((weight * (np.logaddexp(0.0, odds) - y * odds)).sum() + pull / 2 * ((at - prior) ** 2).sum())

    at = prior.astype(np.float64)
    for _ in range(NEWTON_STEPS):
        p = sigmoid(start + at @ columns)
        slopes = columns @ (weight * (p - y)) + pull * (at - prior)
        bends = (columns * (weight * p * (1 - p))) @ columns.T + pull * np.eye(len(prior))
        move = np.linalg.solve(bends, slopes)
        lower = next((0.5**n for n in range(30) if loss(at - 0.5**n * move) < loss(at)), None)
        if lower is None:
            break
        at = at - lower * move
    return at


def sigmoid(x: Numbers) -> Numbers:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-x.clip(-40.0, 40.0))))
