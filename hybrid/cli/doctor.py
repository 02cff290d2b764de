"""``hybrid doctor``: each check says what it found, why it matters, and the one line that would make it better."""

import json
from dataclasses import asdict
from typing import Any

import click

from hybrid.cli.checks import Check, run_checks
from hybrid.cli.terminal import ColourWish, Screen, safe, screen_of

UNAVAILABLE = 4
MARKS = {"ok": ("✓ ok  ", "green"), "warn": ("! warn", "yellow"), "fail": ("✗ fail", "bold")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour.")
def command(as_json: bool, colour: ColourWish) -> int:
    """Check this machine and say what would make it better.

    Each check says what it found, why it matters and how to fix it. Uses no network.
    Exit code 0 when nothing fails, else 4.
    """
    import sys

    checks = run_checks()
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        facts: dict[str, Any] = {"ok": not failed, "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_block(check, screen_of(sys.stdout, wish=colour)) for check in checks), color=True)
    return UNAVAILABLE if failed else 0


def _block(check: Check, screen: Screen) -> str:
    mark, colour = MARKS[check.status]
    lines = [f"{screen.paint(mark, colour)}  {check.name:<13} {safe(check.what)}"]
    lines.append(f"{'':8}{'':13} why: {safe(check.why)}")
    if check.fix:
        lines.append(f"{'':8}{'':13} fix: {safe(check.fix)}")
    return "\n".join(lines)
