"""``hybrid eval replay``: what another threshold or mode would have done, from one's own decision log."""

import json
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.logs import nothing, open_log
from hybrid.cli.options import MODES
from hybrid.cli.render import size
from hybrid.cli.since import since_option
from hybrid.cli.terminal import safe, show, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hybrid.routing.replay import Account, Estimate, Report

UNKNOWN = "unknown"
METHOD_WORDS = {
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dr": "doubly robust",
}
NOTES = """thresholds: replayed in steps of 1/16, in which scores are kept
quality: share of answers nobody complained about; where the route would change, by a model of your outcomes
bytes: from lengths kept as powers of 4, so within a factor of 2"""


@click.command("replay")
@click.option("--threshold", type=click.FloatRange(0, 1.01), help="Score from which the node is asked; steps of 1/16.")
@click.option("--policy", "mode", metavar="MODE", type=click.Choice(MODES), help=f"Who may answer: {', '.join(MODES)}.")
@since_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(*, threshold: float | None, mode: str | None, since: float | None, as_json: bool) -> None:
    """Show what another threshold or policy would have done with your own decisions.

    Labels, availability and a person's choice hold in every replay. Without --threshold and --policy every threshold
    is replayed.
    """
    from hybrid.routing.policy import Mode
    from hybrid.routing.replay import sweep, what_if

    _, log = open_log()
    rows = log.rows(since)
    if threshold is None and mode is None:
        grid = sweep(rows)
        if as_json:
            show(json.dumps({"n": len(rows), "thresholds": [{"threshold": t, **a.to_dict()} for t, a in grid]}))
        elif rows:
            show("\n".join(_sweep_lines(grid)))
            talk(NOTES)
    else:
        report = what_if(rows, threshold=threshold, mode=Mode(mode) if mode else None)
        if as_json:
            show(json.dumps(report.to_dict()))
        elif rows:
            show("\n".join(_report_lines(report)))
            talk(NOTES)
    if not rows:
        talk(safe(nothing(log, since)))
    log.close()


FIGURES: tuple[tuple[str, "Callable[[Account], str]"], ...] = (
    ("private cloud", lambda a: f"{a.share:.1%}"),
    ("quality", lambda a: _number(a.quality, "{:.3f}")),
    ("seconds", lambda a: _number(a.seconds, "{:.2g}")),
    ("bytes sent", lambda a: f"about {size(a.bytes)}"),
    ("money", lambda a: _number(a.money, "{:.2g}")),
)


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else form.format(value)


def _report_lines(report: "Report") -> list[str]:
    policy = " ".join(_policy(report))
    rows = [("", "happened", policy)]
    rows += [(name, figure(report.happened), figure(report.would)) for name, figure in FIGURES]
    counts = f"{report.n} decisions; {report.changed} would change"
    counts += f", {report.held} are settled by labels, availability or a person" if report.held else ""
    estimates = [f"{METHOD_WORDS[e.method]:<20} {_estimate(e, report)}" for e in report.estimates]
    return [counts, "", *_aligned(rows), "", f"quality of {policy}, off-policy", *estimates]


def _policy(report: "Report") -> list[str]:
    return [report.mode] * bool(report.mode) + (
        [f"threshold {report.threshold:g}"] if report.threshold is not None else []
    )


def _estimate(estimate: "Estimate", report: "Report") -> str:
    if estimate.value is not None:
        return f"{estimate.value:.3f}, 95 % interval {estimate.low:.3f} to {estimate.high:.3f}"
    if report.unsupported:
        return f"{estimate.why}: {report.unsupported} would go where chance sent none like them"
    return f"{estimate.why}: exploration went there {report.explored} times with an outcome"


def _sweep_lines(grid: "Sequence[tuple[float, Account]]") -> list[str]:
    rows: list[tuple[str, ...]] = [("threshold", *(name for name, _ in FIGURES))]
    rows += [(f"{threshold:.4f}", *(figure(account) for _, figure in FIGURES)) for threshold, account in grid]
    return _aligned(rows)


def _aligned(rows: "Sequence[tuple[Any, ...]]") -> list[str]:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
