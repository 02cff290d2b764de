"""How well the router ranks prompts that it never saw, beside simple routers; how well it is calibrated; budgets.

Trains anew for every split with the recipe that ships, so it takes some minutes. Needs ``shared/data``; fetches LiteLLM
into the temporary folder for the comparison, and reads the MiniLM model, which ``hybrid pull minilm-l6`` installs.
Prints JSON lines, and writes the measured part of docs/results.md and the pictures in docs/img.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import _baselines
import _page
import _unseen
import numpy as np
from _measures import (
    GRID,
    RUNS,
    Figure,
    Kept,
    Ranking,
    budgets,
    calibrated,
    columns,
    ece,
    figure,
    mean_curve,
    mixed_curve,
    on_the_device,
    oracle,
    ranking,
    with_after,
)
from _page import BARS, GOALS, bar, table
from _plots import cost_quality, diagram
from _rows import row
from _sets import DATA, FOLDS, PAIRS, ROOT, Row, fold
from _unseen import CONDITIONAL, EASY_OUT, Part, Said, by_set, joined

from hybrid.routing import evaluation
from hybrid.routing.evaluation import LEAST_ROWS, Scored
from hybrid.routing.training import LEAST_CALIBRATED

OURS, MINILM, LITELLM, LENGTH = "our router", "MiniLM classifier", "LiteLLM", "prompt length"
RANDOM = Figure(0.5)
DOCS = ROOT / "docs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One way of splitting: what every router said of rows that it never saw, by name, and how well it ranks them."""

    sets: Mapping[str, Said]
    easy: Said
    scores: Mapping[str, tuple[Mapping[str, Scored], Sequence[float]]]
    rankings: Mapping[str, Ranking]

    @classmethod
    def of(cls, sets: Mapping[str, Said], easy: Said, *, folds: bool) -> "Split":
        """Let every other router score the same rows, and judge all of them."""
        rows = {name: said.rows for name, said in sets.items()} | {"": easy.rows}
        ours = {name: said.score for name, said in (sets | {"": easy}).items()}
        scores = {
            OURS: _beside(sets, ours),
            MINILM: minilm(rows, folds=folds),
            LITELLM: _beside(sets, _baselines.litellm(rows)),
            LENGTH: _beside(sets, {name: _baselines.length(each) for name, each in rows.items()}),
        }
        found = {name: ranking(*each) for name, each in scores.items()}
        chance = Ranking(sets=dict.fromkeys(sets, RANDOM), mean=RANDOM, cpt50=50.0, mixed=RANDOM)
        return cls(
            sets=sets, easy=easy, scores=scores, rankings=found | {"random": chance, "oracle": oracle(sets, easy)}
        )

    @property
    def ours(self) -> Ranking:
        """The ranking of the router that ships."""
        return self.rankings[OURS]

    @property
    def least(self) -> Figure:
        """The lowest APGR of a set that is large enough to count."""
        counted = [figure for name, figure in self.ours.sets.items() if len(self.sets[name].rows) >= LEAST_ROWS]
        return min(counted, key=lambda each: each.value)


def _beside(
    sets: Mapping[str, Said], scores: Mapping[str, Sequence[float]]
) -> tuple[dict[str, Scored], Sequence[float]]:
    return {name: (scores[name], said.weak, said.strong) for name, said in sets.items()}, list(scores[""])


def minilm(rows: Mapping[str, Sequence[Row]], *, folds: bool) -> tuple[dict[str, Scored], list[float]]:
    """Return scores of a classifier on MiniLM embeddings, on a sample; it never saw a row's fold, or set and file.

    rows: by set; the utterances under the empty name.
    """
    shown = _baselines.embedded(rows)
    named = [(name, each) for name, (some, _) in shown.items() for each in some]
    x = np.vstack([described for _, described in shown.values()])
    gain, weight = np.array([r.gain for _, r in named]), np.array([1 / len(shown[name][0]) for name, _ in named])
    part = np.array([fold(r.group) if folds else PAIRS.index(name or _left_out_with(r)) for name, r in named])
    found = np.zeros(len(named))
    for n in range(FOLDS if folds else len(PAIRS)):
        held = part == n
        found[held] = _baselines.ridge(x[~held], gain[~held], weight[~held], x[held])
    of = {name: np.array([each == name for each, _ in named]) for name in shown}
    scores = {n: (found[of[n]], [r.weak for r in some], [r.strong for r in some]) for n, (some, _) in shown.items()}
    easy, _, _ = scores.pop("")
    return scores, easy.tolist()


def _left_out_with(utterance: Row) -> str:
    return next(name for name, file in EASY_OUT.items() if utterance.group.startswith(f"{file}/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that is measured. kinds: whole sets left out.  groups: five folds by group."""

    parts: Mapping[str, Part]
    kinds: Split
    groups: Split
    floor: float
    dropped: Ranking
    kept: Mapping[str, Kept]

    @classmethod
    def measure(cls) -> "Results":
        """Train for every split and judge; minutes."""
        parts, folds, without = _unseen.parts()
        files = {EASY_OUT[name]: part.easy for name, part in parts.items()}
        easy = joined([part.easy for part in without.values()])
        return cls(
            parts=parts,
            kinds=Split.of({n: p.sets[n] for n, p in parts.items()}, joined(list(files.values())), folds=False),
            groups=Split.of(*by_set(folds), folds=True),
            floor=statistics.mean(part.floor for part in folds),
            dropped=ranking({n: columns(p.sets[n]) for n, p in without.items()}, easy.score.tolist()),
            kept=budgets(parts),
        )


# --- the page ---------------------------------------------------------------------------------------------------------


TEXT = """
## The bars

{bars}
## Whole sets left out

Each set is ranked by a router that was trained on the other three and on two of the three files of assistant
utterances.

{kinds}
![Share of requests sent against the share of the quality gap recovered](img/cost-quality.svg)

## Unseen groups of known kinds

Five folds by subject, category, intent or row.

{groups}
The MiniLM classifier is ridge regression on its embeddings and our counts, on {sample:,} rows of a set at most, since
embedding a text takes tens of milliseconds; its ridge was chosen by the first of these two tables, in its favour.
LiteLLM is release {litellm}, its heuristic classifier as shipped. The oracle ranks by what the larger model adds in
truth.

## With signals of the answer

{signals}
## Calibration

{calibration}
![Stated against observed probability](img/reliability.svg)

## Budget on a shifted mix

Budgets of 10 to 50 %, {runs} runs each, over 500 requests after 200, of rows that the router never saw, beside a
threshold fixed at 1 - share. Where demand stays below the budget the error is 0. Where demand is hardly more than the
budget, the controller sends a little less than it might: a budget is a ceiling, not a quota.

{budgets}
## What fires

{firing}
"""


def page(found: Results) -> str:
    """Return the measured part of the page."""
    return TEXT.format(
        bars=bars(found),
        kinds=_page.rankings({**found.kinds.rankings, f"{OURS}, {CONDITIONAL} not used": found.dropped}),
        groups=_page.rankings(found.groups.rankings),
        sample=_baselines.SAMPLE,
        litellm=_baselines.LITELLM,
        signals=signals(found),
        calibration=calibration(found),
        runs=RUNS,
        budgets=_page.budget_rows(found.kept),
        firing=firing(found),
    )


def bars(found: Results) -> str:
    """Return the table of the bars."""
    kinds, groups = found.kinds, found.groups
    pooled = joined(list(groups.sets.values()))
    device = Figure(statistics.mean(on_the_device(kinds.sets).values()))
    worst = Figure(max(each.mean for each in found.kept.values()))
    lines = [
        bar("Q1 mean APGR, whole sets left out", kinds.ours.mean, BARS["mean"], goal=GOALS["mean"]),
        bar("Q1 unseen groups", groups.ours.mean, BARS["mean"], goal=GOALS["mean"]),
        bar("Q2 least set, whole sets left out", kinds.least, BARS["least"]),
        bar("Q2 unseen groups", groups.least, BARS["least"]),
        bar("Q3 with signals of the answer, whole set left out", after(kinds), BARS["after"], goal=GOALS["after"]),
        bar("Q3 unseen categories", after(groups), BARS["after"], goal=GOALS["after"]),
        bar("Q4 mixed traffic, whole sets left out", kinds.ours.mixed, BARS["mixed"], goal=GOALS["mixed"]),
        bar("Q4 unseen groups", groups.ours.mixed, BARS["mixed"], goal=GOALS["mixed"]),
        bar("Q5 ECE, unseen groups, four pairs pooled", ece(pooled.p_ok, pooled.weak), BARS["ece"], most=True),
        bar(f"Q5 ECE, unseen kinds, calibrated on {LEAST_CALIBRATED} outcomes", device, BARS["ece"], most=True),
        bar("Q6 mean budget error, worst traffic", worst, BARS["budget"], most=True),
    ]
    return table(["bar", "wanted", "measured (95 % interval)", ""], lines)


def after(split: Split) -> Figure:
    """Return the APGR with signals of the answer, over the rows that have them."""
    scored = with_after(joined(list(split.sets.values())))
    return figure(evaluation.apgr(*scored), evaluation.bootstrap(*scored))


def signals(found: Results) -> str:
    """Return the table of the one set that has signals of the answer."""
    lines = []
    for name, split in (("whole set left out", found.kinds), ("unseen categories", found.groups)):
        said, value = split.sets["mmlu_pro"], after(split)
        best = evaluation.oracle(said.weak, said.strong)
        prompt = evaluation.apgr(*columns(said))
        closed = evaluation.gap_closed(value.value, best)
        lines.append([name, f"{prompt:.3f}", value, f"{best:.3f}", f"{closed:.2f}"])
    return table(["mmlu_pro", "prompt alone", "with signals", "oracle", "gap closed"], lines)


def calibration(found: Results) -> str:
    """Return the table of calibration errors."""
    sets = found.kinds.sets
    groups, kinds = (joined(list(split.sets.values())) for split in (found.groups, found.kinds))
    alone = {name: evaluation.ece(said.p_ok, said.weak) for name, said in sets.items()}
    device = on_the_device(sets)
    lines = [
        ["as shipped, unseen groups, pooled", ece(groups.p_ok, groups.weak), ""],
        ["as shipped, unseen kinds and models, pooled", ece(kinds.p_ok, kinds.weak), _by_set(alone)],
        [f"calibrated on {LEAST_CALIBRATED} outcomes", f"{statistics.mean(device.values()):.3f}", _by_set(device)],
    ]
    return table(["P(device adequate)", "ECE", "by set"], lines)


def _by_set(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def firing(found: Results) -> str:
    """Return the share of requests that score above the neutral threshold."""
    alone = [np.mean(part.sets[name].score >= part.floor) for name, part in found.parts.items()]
    easy = np.mean(np.concatenate([part.easy.score >= part.floor for part in found.parts.values()]))
    groups = [np.mean(said.score >= found.floor) for said in (*found.groups.sets.values(), found.groups.easy)]
    lines = [["whole sets left out", *alone, easy], ["unseen groups", *groups]]
    shown = [[name, *(f"{share:.1%}" for share in shares)] for name, *shares in lines]
    return table(["above the neutral threshold", *PAIRS, "assistant"], shown)


def draw(found: Results) -> None:
    """Draw both pictures."""
    split = found.kinds
    hard = {name: mean_curve(scores) for name, (scores, _) in split.scores.items()}
    mixed = {name: mixed_curve(*scores) for name, scores in split.scores.items()}
    best = {n: (s.strong - s.weak, s.weak, s.strong) for n, s in split.sets.items()}
    hard["oracle"], mixed["oracle"] = mean_curve(best), mixed_curve(best, [0.0] * len(split.easy.rows))
    titles = {"hard prompts, whole sets left out": hard, "mixed traffic, whole sets left out": mixed}
    cost_quality(DOCS / "img" / "cost-quality.svg", GRID, titles)
    groups, kinds = (joined(list(each.sets.values())) for each in (found.groups, split))
    device = [calibrated(said, seed=0) for name, said in split.sets.items() if name in on_the_device(split.sets)]
    shown = {
        "unseen groups": (groups.p_ok, groups.weak),
        "unseen kinds": (kinds.p_ok, kinds.weak),
        "unseen kinds, calibrated": tuple(np.concatenate(side) for side in zip(*device, strict=True)),
    }
    diagram(DOCS / "img" / "reliability.svg", {name: evaluation.reliability(*each) for name, each in shown.items()})


def report(found: Results) -> None:
    """Print one JSON line for each way of splitting."""
    for name, split in (("whole sets left out", found.kinds), ("unseen groups", found.groups)):
        for measure in ("mean", "mixed"):
            ours, plain = (getattr(split.rankings[each], measure) for each in (OURS, LENGTH))
            row(
                f"APGR, {measure}, {name}",
                ours=[ours.value],
                baseline=[plain.value],
                baseline_name="prompt length",
                unit="APGR",
                interval=[round(ours.low, 4), round(ours.high, 4)],
                others={each: round(getattr(r, measure).value, 4) for each, r in split.rankings.items()},
            )


def main() -> None:
    if not DATA.is_dir():
        print("router.py: shared/data is absent, nothing to measure", file=sys.stderr)
        return
    found = Results.measure()
    draw(found)
    _page.put(DOCS / "results.md", page(found))
    report(found)


if __name__ == "__main__":
    main()
