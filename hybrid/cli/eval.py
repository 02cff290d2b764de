"""``hybrid eval``: judge, record, replay and retrain the router, on files and on your own log; sends nothing."""

import click

from hybrid.cli.lazy import LazyGroup

COMMANDS = {
    "router": ("hybrid.cli.eval_router", "Score prompts, and say how well the scores rank them."),
    "privacy": ("hybrid.cli.eval_privacy", "Mark what the recognisers find in texts."),
    "record": ("hybrid.cli.eval_record", "Let the model on this device answer rows whose answer is known, greedily."),
    "replay": (
        "hybrid.cli.eval_replay",
        "Show what another threshold or policy would have done with your own decisions.",
    ),
    "retrain": ("hybrid.cli.eval_retrain", "Fit the router to what you did with its decisions."),
    "rollback": (
        "hybrid.cli.eval_rollback",
        "Go back to the correction before the one in use, or to the shipped weights.",
    ),
}


@click.group("eval", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Judge the router, and fit it to what you do with it.

    All of it stays on this device. The result goes to stdout or to the file you name, everything else to stderr.
    """
