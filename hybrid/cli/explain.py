"""``hybrid explain``: where a question would be answered, and why. Sends nothing, loads no language model."""

import json

import click

from hybrid.cli.door import configured, doors_of, open_client
from hybrid.cli.options import Wishes, wishes
from hybrid.cli.prompt import gather, piped_stdin
from hybrid.cli.render import decision_text
from hybrid.cli.terminal import screen_of

NOT_HERE = ("local_node", "seed", "max_tokens", "temperature", "verbose")


@click.command("explain")
@wishes(*NOT_HERE)
@click.argument("words", nargs=-1, metavar='"QUESTION"')
@click.option("--json", "as_json", is_flag=True, help="The decision as one JSON object of six keys.")
@click.pass_context
def command(ctx: click.Context, wish: Wishes, *, words: tuple[str, ...], as_json: bool) -> None:
    """Show where a question would be answered, and why; sends nothing.

    No model is loaded and nothing is connected.
    """
    import sys

    prompt = gather(words, wish.files, wish.max_route, piped_stdin())
    with open_client(doors_of(ctx), configured(wish)) as client:
        decision = client.explain(prompt.text, sources=prompt.sources)
    if as_json:
        click.echo(json.dumps(decision.to_dict(), ensure_ascii=False, indent=2))
    else:
        click.echo(decision_text(decision, screen_of(sys.stdout, wish=wish.colour)), color=True)
