"""``hybrid logs``: what was decided, and why; no content is kept that could be shown."""

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from hybrid.cli.render import ON_DEVICE, PRIVATE_CLOUD
from hybrid.cli.since import since_option
from hybrid.cli.terminal import Screen, safe, screen_of, show, talk
from hybrid.wire.types import Route

if TYPE_CHECKING:
    from hybrid.config import Config
    from hybrid.decision_log import DecisionLog
    from hybrid.routing.log import DecisionRecord, Outcome

LAST = 40  # rows of the table, unless asked otherwise


@click.command("logs")
@since_option
@click.option("-n", "--last", metavar="N", type=click.IntRange(min=1), help=f"The last N; {LAST} in a table.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--purge", is_flag=True, help="Remove what is past its time, now.")
@click.option("--all", "everything", is_flag=True, help="With --purge: remove every decision and the budget's state.")
def command(*, since: float | None, last: int | None, as_json: bool, purge: bool, everything: bool) -> None:
    """Show where questions were answered, and why.

    The log holds no content: times to the minute, codes, and rounded numbers.
    """
    if everything and not purge:
        raise click.UsageError("--all belongs to --purge")
    if purge and (since is not None or last is not None or as_json):
        raise click.UsageError("--purge goes by age alone; it takes no --since, --last or --json")
    settings, log = open_log()
    try:
        if purge:
            _purge(log, everything=everything)
        else:
            _show(settings, log, since=since, last=last, as_json=as_json)
    finally:
        log.close()


def open_log() -> "tuple[Config, DecisionLog]":
    """Return the settings and the log they lead to; nothing is made where there is none."""
    from hybrid.config import load
    from hybrid.decision_log import DecisionLog
    from hybrid.state import default_folder

    settings = load()
    return settings, DecisionLog(settings.state or default_folder())


def nothing(log: "DecisionLog", since: float | None = None) -> str:
    """Say that there is nothing to show, and why that may be."""
    if since is not None and log.rows():
        return f"no decision was logged since {_time(since)}, in {log.path}"
    return f"no decision is logged, in {log.path}"


def _purge(log: "DecisionLog", *, everything: bool) -> None:
    gone = log.purge(everything=everything)
    what = "decisions" if everything else f"decisions older than {log.days} days"
    talk(f"removed {gone} {what} from {safe(str(log.path))}")


def _show(settings: "Config", log: "DecisionLog", *, since: float | None, last: int | None, as_json: bool) -> None:
    rows = log.rows(since)
    shown = rows[-(last or (len(rows) if as_json else LAST)) :]
    if as_json:
        for row in shown:
            show(json.dumps(row.to_dict()))
        return
    if not rows:
        talk(safe(nothing(log, since)))
        return
    screen = screen_of(sys.stdout)
    show("\n".join(line(row, screen) for row in shown))
    more = f"the last {len(shown)} of {len(rows)} decisions" if len(shown) < len(rows) else f"{len(rows)} decisions"
    talk(safe(f"{more}, kept {log.days} days in {log.path}"))
    talk(budget_line(settings, log))


def line(row: "DecisionRecord", screen: Screen) -> str:
    """Return one decision as one line: when, where, why, score against threshold, what became of it."""
    glyph, word, colour = ON_DEVICE if row.route is Route.ON_DEVICE else PRIVATE_CLOUD
    score = f"{row.score / 16:.2f} {_relation(row)} {row.threshold / 16:.2f}"
    route = screen.paint(f"{glyph} {word:<13}", colour)
    return f"{_time(60 * row.minute)}  {route}  {row.reasons[0]:<20} {score}  {_became(row)}".rstrip()


def _relation(row: "DecisionRecord") -> str:
    """Return how the score stood to the threshold; equal steps alone can't tell."""
    if row.score != row.threshold:
        return "≥" if row.score > row.threshold else "<"
    return "≥" if "complex" in row.reasons else "<" if "simple" in row.reasons else "≈"


def _became(row: "DecisionRecord") -> str:
    words = list(outcome_words(row.outcome))
    if row.outcome.route not in {None, row.route}:
        words.insert(0, f"answered {PRIVATE_CLOUD[1] if row.outcome.route is Route.PRIVATE_CLOUD else ON_DEVICE[1]}")
    if row.types:
        words.append(f"found {' '.join(row.types).lower()}")
    if row.propensity < 1:
        words.append(f"explored with chance {row.propensity:g}" if "explore" in row.reasons else "might have explored")
    return ", ".join(words)


def outcome_words(outcome: "Outcome") -> list[str]:
    """Say what became of an answer."""
    said = {
        f"{outcome.seconds or 0:g} s": outcome.seconds is not None,
        "said to be good": outcome.verdict == "good",
        "said to be bad": outcome.verdict == "bad",
        "overridden": outcome.overridden is not None,
        "asked again": outcome.reasked,
        "regenerated": outcome.regenerated,
        "tool failed": outcome.tool_failed,
        "doubt confirmed": outcome.agreed is False,
        "doubt unfounded": outcome.agreed is True,
        "no answer": outcome.route is None,
    }
    return [words for words, holds in said.items() if holds]


def budget_line(settings: "Config", log: "DecisionLog") -> str:
    """Say which share of the last requests went to the node, and what the budget allows."""
    from hybrid.routing.budget import WINDOW, as_budget, threshold

    share = log.share()
    if share is None:
        return "no request yet that might have gone to the private cloud by its score"
    went = (
        f"{share:.0%} of the last requests that might have gone to the private cloud went there (of {WINDOW} at most)"
    )
    given = as_budget(settings.budget)
    if given is None:
        return f"{went}; no budget is set"
    standing = log.standing(given)
    money = "" if given.money_per_month is None else f"{given.money_per_month:g} a month, "
    allowed = "no cost is known yet" if standing.share is None else f"{standing.share:.0%}"
    return f"{went}; the budget is {money}{allowed}, and asks for a score of {threshold(standing):.2f}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
