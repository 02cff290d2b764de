"""``hybrid explain``: where a question would be answered, and why. Sends nothing, loads no language model."""

import json

import click

from hybrid.cli.decided import preview_text
from hybrid.cli.door import configured, doors_of, open_client
from hybrid.cli.options import Wishes, wishes
from hybrid.cli.prompt import gather, piped_stdin
from hybrid.cli.terminal import screen_of, talk

NOT_HERE = ("local_node", "seed", "temperature", "verbose")


@click.command("explain")
@wishes(*NOT_HERE)
@click.argument("words", nargs=-1, metavar='"QUESTION"')
@click.option(
    "--json", "as_json", is_flag=True, help="The decision, what would be sent and the estimates as one JSON object."
)
@click.pass_context
def command(ctx: click.Context, wish: Wishes, *, words: tuple[str, ...], as_json: bool) -> None:
    """Show where a question would be answered, and why; sends nothing.

    Also what would be sent, to which node, and what each route would take. No model is loaded, nothing is connected.
    """
    import sys

    prompt = gather(words, wish.files, wish.max_route, piped_stdin())
    with open_client(doors_of(ctx), configured(wish)) as client:
        preview = client.preview(prompt.text, system=wish.system, sources=prompt.sources, max_tokens=wish.max_tokens)
    if preview.lacks:
        talk("note: nobody can answer yet, as there is no model on this device; this is what would be with one")
        talk(f"hint: {preview.lacks}")
    if as_json:
        click.echo(json.dumps(preview.to_dict(), ensure_ascii=False, indent=2))
    else:
        click.echo(preview_text(preview, screen_of(sys.stdout, wish=wish.colour)), color=True)
