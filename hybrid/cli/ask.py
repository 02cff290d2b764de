"""``hybrid ask``: one question, one answer on stdout."""

import click

from hybrid.cli.consent import consent_of
from hybrid.cli.door import configured, doors_of, open_client, orderly_exit
from hybrid.cli.failures import next_one_kills
from hybrid.cli.lines import Lines
from hybrid.cli.models import STARTER_ID, STARTER_NOTE
from hybrid.cli.options import Wishes, wishes
from hybrid.cli.prompt import gather, piped_stdin
from hybrid.cli.render import Progress
from hybrid.cli.terminal import screen_of, talk
from hybrid.cli.turn import Json, JsonLines, Output, Plain, exit_code, run_turn


@click.command("ask")
@wishes()
@click.argument("words", nargs=-1, metavar='"QUESTION"')
@click.option("--json", "shape", flag_value="json", help="One JSON object: text, route, decision, usage, egress.")
@click.option("--jsonl", "shape", flag_value="jsonl", help="One event per line, as JSON.")
@click.option("--no-stream", is_flag=True, help="Write the answer when it is whole.")
@click.pass_context
def command(ctx: click.Context, wish: Wishes, *, words: tuple[str, ...], shape: str | None, no_stream: bool) -> int:
    """Answer one question. Piped text and files join it.

    Mail, calendar and contact files stay on the device by themselves; --max-route on_device keeps any input there.
    """
    import sys

    screen = screen_of(sys.stderr, wish=wish.colour)
    prompt = gather(words, wish.files, wish.max_route, piped_stdin())
    output: Output = Json() if shape == "json" else JsonLines() if shape else Plain(stream=not no_stream)
    settings = configured(wish)
    consent = "always" if wish.local_node else consent_of(settings, Lines(), screen, conversation=False)
    with (
        orderly_exit(),
        Progress(screen) as progress,
        open_client(
            doors_of(ctx), settings, local_node=wish.local_node, on_handoff=consent, phase=progress.show
        ) as client,
    ):
        stream = client.stream(prompt.text, system=wish.system, sources=prompt.sources, **wish.sampling())
        reply = run_turn(stream, output, screen, verbose=wish.verbose)
        if reply is None:
            next_one_kills()
    if reply is not None and screen.tty and settings.model is None and reply.model == STARTER_ID:
        talk(STARTER_NOTE)
    return exit_code(reply)
