"""Attention on CPU, ours against the library's, at the shapes of the starter: 9 heads, 3 groups, 64 values.

``exponential``: 2 to the power of a number against e to it, seconds for a million. ``layer``: one row
for each number of tokens read at once on a context of 2,816. Runs alternate; BLAS has one thread, as in a node.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from _rows import row

HEADS, GROUPS, SIZE, CONTEXT = 9, 3, 64, 2_816
TOKENS = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    from device import runtime

    core = runtime.mlx(threads=1)
    exponentials(core, options.rounds)
    for tokens in TOKENS:
        compare(core, tokens, options.rounds)


def exponentials(core: Any, rounds: int) -> None:
    """Print the row of the exponential alone."""
    numbers = -core.abs(core.random.normal((1_000_000,)))
    core.eval(numbers)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(core, lambda: core.power(2.0, numbers)))
        theirs.append(seconds(core, lambda: core.exp(numbers)))
    row("attention.exponential", ours=ours, baseline=theirs, unit="s", smaller_is_better=True)


def compare(core: Any, tokens: int, rounds: int) -> None:
    """Print the row of so many tokens."""
    from device import attention

    heads = (HEADS, GROUPS, GROUPS)
    shapes = [(1, heads[0], tokens, SIZE), *((1, count, CONTEXT, SIZE) for count in heads[1:])]
    arrays = [core.random.normal(shape) for shape in shapes]
    core.eval(arrays)
    how = {"scale": SIZE**-0.5, "mask": "causal" if tokens > 1 else None}
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(core, lambda: attention.attention(core, *arrays, **how)))
        theirs.append(seconds(core, lambda: core.fast.scaled_dot_product_attention(*arrays, **how)))
    row("attention.layer", ours=ours, baseline=theirs, unit="s", smaller_is_better=True, tokens=tokens, context=CONTEXT)


def seconds(core: Any, run: Callable[[], Any]) -> float:
    """Time one computation."""
    begun = time.perf_counter()
    core.eval(run())
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
