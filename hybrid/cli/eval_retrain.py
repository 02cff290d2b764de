"""``hybrid eval retrain``: fit the router to your own outcomes; kept only if every guardrail holds."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.logs import open_log
from hybrid.cli.terminal import safe, show, talk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hybrid.config import Config
    from hybrid.examples_store import ExampleStore
    from hybrid.retraining import Ask, Report

BUSY = 0.5
"""Load per processor from which the machine is not idle."""


@click.command("retrain")
@click.option("--dry-run", is_flag=True, help="Fit and judge, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--force-idle", is_flag=True, help="Ask kept questions again although busy or on battery.")
@click.option(
    "--recorded",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Only calibrate, by what hybrid eval record wrote of your local model; from 500 rows on.",
)
@click.option("--forget", is_flag=True, help="Delete every kept question and its key instead.")
def command(*, dry_run: bool, as_json: bool, force_idle: bool, recorded: Path | None, forget: bool) -> None:
    """Fit the router to what you did with its decisions.

    At most once a day, from 50 new outcomes on; nothing is sent. Without kept questions (learn = "keep") only
    probabilities and the level of scores follow you; with them, which words ask for the larger model, too.
    """
    from hybrid.cli.rows import rows
    from hybrid.retraining import calibrate, retrain
    from hybrid.state import default_folder

    settings, log = open_log()
    folder = settings.state or default_folder()
    store = _store(settings, folder)
    if forget:
        _forget(folder)
        return
    if recorded:
        given = rows(recorded, _recording)
        _tell(calibrate(folder, log, given, now=time.time(), dry_run=dry_run), as_json=as_json)
        log.close()
        return
    try:
        may_ask = store is not None and (force_idle or resting())
        if store is not None and not may_ask:
            talk("kept questions are not asked again now: that waits for mains power and an idle machine")
        ask = _local(settings) if may_ask else None
        report = retrain(folder, log, now=time.time(), store=store, ask=ask, dry_run=dry_run)
    finally:
        log.close()
    _tell(report, as_json=as_json)


def _recording(row: "Mapping[str, Any]") -> tuple[str, str, float]:
    from hybrid.cli.rows import text

    right = row.get("weak")
    if isinstance(right, bool) or not isinstance(right, int | float) or not 0 <= right <= 1:
        raise ValueError('"weak" must be a number from 0 to 1')
    return str(row.get("id", "")), text(row, "prompt"), float(right)


def _store(settings: "Config", folder: Path) -> "ExampleStore | None":
    from hybrid.examples_store import ExampleStore

    return ExampleStore(folder) if settings.learn == "keep" else None


def _forget(folder: Path) -> None:
    from hybrid.examples_store import ExampleStore

    ExampleStore(folder).purge()
    talk("every kept question is deleted, and so is the key that sealed them")


def resting() -> bool:
    """Whether the machine is on mains power, cool and idle."""
    from hybrid.machine import machine_signals
    from hybrid.routing.signals import Thermal

    now = machine_signals()
    idle = os.getloadavg()[0] < BUSY * (os.cpu_count() or 1)
    return now.on_mains and not now.low_power and now.thermal is Thermal.NOMINAL and idle


def _local(settings: "Config") -> "Ask":
    """Return the local model alone, which keeps nothing of what it is asked here."""
    from hybrid.client import Client

    def ask(text: str) -> str:
        with Client(model=settings.model, policy="only_on_device", receipts="off", decisions="off", learn="off") as one:
            return one.ask(text).text

    return ask


def _tell(report: "Report", *, as_json: bool) -> None:
    if as_json:
        show(json.dumps(report.to_dict()))
        return
    for rail in report.rails:
        show(safe(f"{'holds ' if rail.ok else 'BROKEN'}  {rail.name:<15} {rail.text}"))
    used = f"correction {report.version}" if report.version else "the shipped weights"
    show(safe(f"{report.reason}: {report.text}; in use: {used}"))
    talk(
        f"{report.outcomes} outcomes, {report.new} new, {report.featured} with kept questions;"
        f" {report.replayed} asked again"
    )
    if report.featured == 0 and report.evidence and report.rails:
        talk('hint: without kept questions the order of scores cannot change; learn = "keep" in the config keeps them')
