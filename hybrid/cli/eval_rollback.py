"""``hybrid eval rollback``: go back to the weights before the last retraining."""

import json

import click

from hybrid.cli.terminal import safe, show, talk


@click.command("rollback")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(*, as_json: bool) -> None:
    """Go back to the correction before the one in use, or to the shipped weights.

    Three are kept. Running it again goes back further.
    """
    from hybrid import learning
    from hybrid.config import load
    from hybrid.state import default_folder

    folder = load().state or default_folder()
    before = learning.history(folder).used
    now = learning.rollback(folder)
    left, used = (each.version if each else 0 for each in (before, now.used))
    if as_json:
        show(json.dumps({"rolled_back": before is not None, "from": left, "version": used, "kept": len(now.kept)}))
    elif before is None:
        talk("there is nothing to go back from: the shipped weights are in use")
    else:
        show(safe(f"correction {left} is removed; in use: {f'correction {used}' if used else 'the shipped weights'}"))
