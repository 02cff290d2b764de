"""``hybrid eval router``: scores of prompts into a file, and how well they rank them on stdout. Sends nothing.

A score is a function of the row's prompt and, where it has one, its own ``after``. ``weak`` and ``strong`` are looked
at only once every score is written, for the figures.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.rows import rows, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from hybrid.routing.cascade import AfterModel
    from hybrid.routing.complexity import LearnedScorer
    from hybrid.routing.evaluation import Curve

_FILE = click.Path(dir_okay=False, path_type=Path)
DIGITS = 6
SHARES = {"cpt50": 0.5, "cpt80": 0.8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A row of the data. weak, strong: quality of the local and of the larger model, 0..1; None where not known."""

    id: Any
    prompt: str
    weak: float | None
    strong: float | None
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the router says of a row, both 0..1: how much the larger model is needed, and P(device adequate)."""

    score: float
    p_ok: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The weights in use: prompt alone, and together with the signals of an answer."""

    scorer: "LearnedScorer"
    after: "AfterModel"

    @classmethod
    def load(cls, *, shipped: bool) -> "Router":
        """Load the weights of this installation, with what was learned here unless only the shipped ones are wanted."""
        from hybrid import config, state, weights
        from hybrid.routing.cascade import after_model_of

        folder = None if shipped else config.load().state or state.default_folder()
        scorer = weights.load_scorer(folder)
        learned = scorer.personal.after if scorer.personal else {}
        return cls(scorer=scorer, after=after_model_of(weights.shipped(), learned))

    def score(self, row: Asked) -> Scored:
        """Score one row from its prompt, and from its ``after`` where that says anything."""
        from hybrid.routing.cascade import After
        from hybrid.routing.features import extract

        said = self.scorer.score(extract(row.prompt))
        known = After.from_dict(row.after)
        value = self.scorer.rank(self.after.gain(said, known)) if known != After() else said.value
        return Scored(score=round(value, DIGITS), p_ok=said.p_ok)


@click.command("router")
@click.option("--data", required=True, metavar="ROWS.jsonl", type=_FILE, help="Rows: id, prompt; weak, strong, after.")
@click.option(
    "--scores", "out", required=True, metavar="OUT.jsonl", type=_FILE, help="One line a row: id, score, p_ok."
)
@click.option("--shipped", is_flag=True, help="Leave out what was learned on this device.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def command(*, data: Path, out: Path, shipped: bool, as_json: bool) -> None:
    """Score prompts, and say how well the scores rank them.

    weak and strong, 0 to 1, are how good the local and the larger model's answers were; rows without them are scored
    and left out of the figures. after holds signals of the local answer, as hybrid eval record writes them.
    """
    asked = list(rows(data, _asked))
    router = Router.load(shipped=shipped)
    start = time.perf_counter()
    scored = [router.score(row) for row in asked]
    spent_ms = (time.perf_counter() - start) * 1000
    _write(out, asked, scored)
    found = {
        "model": router.scorer.name,
        "calibrated": router.scorer.calibrated,
        "n": len(asked),
        "with_after": sum(bool(row.after) for row in asked),
        "ms_per_row": round(spent_ms / max(1, len(asked)), 3),
        **figures(asked, scored),
    }
    click.echo(json.dumps(found) if as_json else table(found))


def _asked(row: Mapping[str, Any]) -> Asked:
    after = row.get("after")
    if not isinstance(after, dict | None):
        raise ValueError('"after" must be an object')  # noqa: TRY004 - one kind of error for a wrong row
    if "id" not in row or isinstance(row["id"], dict | list):
        raise ValueError('"id" must be a text or a number')
    return Asked(
        id=row["id"],
        prompt=text(row, "prompt"),
        weak=_quality(row, "weak"),
        strong=_quality(row, "strong"),
        after=after or {},
    )


def _quality(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f'"{name}" must be a number from 0 to 1')
    return float(value)


def _write(out: Path, asked: Sequence[Asked], scored: Sequence[Scored]) -> None:
    with out.open("w", encoding="utf-8") as file:
        for row, said in zip(asked, scored, strict=True):
            known = {} if said.p_ok is None else {"p_ok": said.p_ok}
            file.write(json.dumps({"id": row.id, "score": said.score, **known}) + "\n")


def figures(asked: Sequence[Asked], scored: Sequence[Scored]) -> dict[str, Any]:
    """Return what the rows with both labels say of the scores, rounded; null where they don't say it."""
    pairs = zip(asked, scored, strict=True)
    known = [(a, s, a.weak, a.strong) for a, s in pairs if a.weak is not None and a.strong is not None]
    nothing = dict.fromkeys(("apgr", *SHARES, "intervals", "oracle", "gap_closed", "baselines", "ece"))
    if not known:
        return {"labelled": 0, **nothing}
    rows_, said, weak, strong = (list(column) for column in zip(*known, strict=True))
    ranking = _ranking([s.score for s in said], [float(len(row.prompt)) for row in rows_], weak, strong)
    return {"labelled": len(known), **nothing, **ranking, "ece": _ece(said, weak)}


def _ranking(scores: list[float], lengths: list[float], weak: list[float], strong: list[float]) -> dict[str, Any]:
    from hybrid.routing import evaluation

    try:
        curve = evaluation.pgr_curve(scores, weak, strong)
    except evaluation.NoGapError:
        return {}
    best = evaluation.oracle(weak, strong)
    drawn = {
        "apgr": evaluation.bootstrap(scores, weak, strong),
        **{k: evaluation.bootstrap(scores, weak, strong, figure=_cpt(x)) for k, x in SHARES.items()},
    }
    return {
        "apgr": round(curve.area, 4),
        **{name: round(curve.cpt(x), 2) for name, x in SHARES.items()},
        "intervals": {name: [round(end, 4) for end in evaluation.interval(values)] for name, values in drawn.items()},
        "oracle": round(best, 4),
        "gap_closed": round(evaluation.gap_closed(curve.area, best), 4),
        "baselines": {"length": round(evaluation.apgr(lengths, weak, strong), 4), "random": evaluation.CHANCE},
    }


def _cpt(x: float) -> "Callable[[Curve], float]":
    return lambda curve: curve.cpt(x)


def _ece(said: Sequence[Scored], weak: Sequence[float]) -> float | None:
    from hybrid.routing import evaluation

    stated = [(s.p_ok, w) for s, w in zip(said, weak, strict=True) if s.p_ok is not None]
    return round(evaluation.ece(*zip(*stated, strict=True)), 4) if stated else None


def table(found: Mapping[str, Any]) -> str:
    """Lay the figures out for a person."""
    counts = f"{found['n']:,}; with labels {found['labelled']:,}, with signals of an answer {found['with_after']:,}"
    lines = [f"router      {found['model']}, {found['ms_per_row']:.2f} ms a prompt", f"rows        {counts}"]
    if found["apgr"] is None:
        return "\n".join(
            [*lines, "figures     none: they need weak and strong, and a larger model that is the better one"]
        )
    low, high = found["intervals"]["apgr"]
    plain = found["baselines"]
    lines += [
        f"APGR        {found['apgr']:.3f} ({low:.3f} to {high:.3f}, 95 %)",
        f"compare     random {plain['random']}, prompt length {plain['length']:.3f}, oracle {found['oracle']:.3f}",
        *(_share_line(name, x, found) for name, x in SHARES.items()),
    ]
    if found["ece"] is not None:
        note = "" if found["calibrated"] else "; not calibrated for your local model"
        lines.append(f"ECE         {found['ece']:.3f} of P(device adequate){note}")
    return "\n".join(lines)


def _share_line(name: str, x: float, found: Mapping[str, Any]) -> str:
    low, high = found["intervals"][name]
    return f"{name.upper():<12}{found[name]:.1f} % sent recover {x:.0%} of the gap ({low:.1f} to {high:.1f}, 95 %)"
