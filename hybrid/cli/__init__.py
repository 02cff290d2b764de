"""The command line: translates options in and events out, decides nothing.

Every command's module loads when that command runs; ``hybrid --help`` loads none of them.
Exit codes: 0 ok, 1 error, 2 usage, 3 refused by policy or person, 4 unavailable, 5 attestation failed,
6 context overflow, 75 try later, 130 interrupted.
"""

import os
from typing import Any

import click

from hybrid.cli.failures import guarded, misused
from hybrid.cli.lazy import LazyGroup

COMMANDS = {
    "ask": ("hybrid.cli.ask", "Answer one question."),
    "chat": ("hybrid.cli.chat", "Hold a conversation."),
    "explain": ("hybrid.cli.explain", "Show where a question would be answered, and why; sends nothing."),
    "pull": ("hybrid.cli.pull", "Fetch a model into the store."),
    "list": ("hybrid.cli.list_", "List, show or remove models."),
    "verify": ("hybrid.cli.verify", "Show every check of a node, or of a receipt."),
    "trust": ("hybrid.cli.trust", "List, add or remove the deployments you trust."),
    "logs": ("hybrid.cli.logs", "Show where questions were answered, and why."),
    "eval": ("hybrid.cli.eval", "Judge the router, and fit it to what you do with it."),
    "doctor": ("hybrid.cli.doctor", "Check this machine and say what would make it better."),
}
EPILOG = """\b
hybrid "two words"         the same as hybrid ask "two words"
git diff | hybrid "review this"
hybrid chat --local-node   see both routes on one machine"""


class Root(LazyGroup):
    """The group of all commands: its errors all end in one place, and several words are a question."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command; what is wrong with them is said as everything else is."""
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            ctx.exit(misused(error))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Read a first argument of several words as a question; refuse a single unknown word."""
        word = args[0]
        if word not in COMMANDS and len(word.split()) > 1:
            return "ask", self.get_command(ctx, "ask"), args
        if word not in COMMANDS and not word.startswith("-"):
            ctx.fail(_no_such_command(word))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its failures become a sentence, a hint and an exit code."""
        ctx.exit(guarded(lambda: super(Root, self).invoke(ctx)))


def _no_such_command(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, COMMANDS, n=1)
    did_you_mean = f"; did you mean 'hybrid {near[0]}'?" if near else ";"
    return f"no such command: {word!a}{did_you_mean} to ask a model one word: hybrid ask {word!a}"


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from hybrid.cli.version import version_text

        click.echo(version_text())
        ctx.exit()


@click.group(
    cls=Root,
    table=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Version, protocol, engine and default model; loads nothing.",
)  # fmt: skip
def main() -> None:
    """Answer on this device; hand over, sealed, to a private node when it must; say why.

    The answer goes to stdout, everything else to stderr.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would print, our own errors say
