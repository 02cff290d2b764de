"""The measured part of docs/results.md: Markdown tables, put between two marks; what people wrote around it stays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from _measures import Figure, Kept, Ranking
from _sets import PAIRS

BEGIN, END = "<!-- measured by bench/router.py -->\n", "<!-- end of what is measured -->\n"
BARS = {"mean": 0.58, "least": 0.49, "after": 0.65, "mixed": 0.80, "ece": 0.05, "budget": 0.03}
GOALS = {"mean": 0.60, "after": 0.70, "mixed": 0.84}


def put(file: Path, measured: str) -> None:
    """Replace what lies between the marks. Raises ValueError for a page without them."""
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        message = f"{file.name} has no place for what is measured"
        raise ValueError(message)
    file.write_text(f"{before}{BEGIN}\n{measured.strip()}\n\n{END}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def rankings(routers: Mapping[str, Ranking]) -> str:
    """Return APGR by router and set, with intervals, and mixed traffic."""
    rows = [
        [name, *(r.sets.get(s, "") for s in PAIRS), r.mean, f"{r.cpt50:.1f}", r.mixed] for name, r in routers.items()
    ]
    return table(["router", *PAIRS, "mean", "CPT50, %", "mixed"], rows)


def bar(name: str, figure: Figure, wanted: float, *, most: bool = False, goal: float | None = None) -> list[object]:
    """Return one line of the table of bars; most: the bar is a ceiling."""
    held = figure.value <= wanted if most else figure.value >= wanted
    sign = "≤" if most else "≥"
    words = "holds" if held else f"**falls short by {abs(figure.value - wanted):.3f}**"
    reached = (
        "" if goal is None else (f", goal {goal:.2f} reached" if figure.value >= goal else f", goal {goal:.2f} not")
    )
    return [name, f"{sign} {wanted:.2f}", figure, words + (reached if held else "")]


def budget_rows(kept: Mapping[str, Kept]) -> str:
    """Return the budget errors by kind of traffic, in points."""
    head = ["traffic", "mean error, points", "largest", "most above the budget", "within 3", "fixed threshold, largest"]
    rows = [
        [kind, *(f"{100 * v:.1f}" for v in (k.mean, k.worst, k.over)), f"{k.within:.0%}", f"{100 * k.fixed:.1f}"]
        for kind, k in kept.items()
    ]
    return table(head, rows)
