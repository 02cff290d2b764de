"""The command line: translates options in and events out, decides nothing.

Every command's module loads when that command runs; ``hybrid --help`` loads none of them.
Exit codes: 0 ok, 1 error, 2 usage, 3 refused by policy or person, 4 unavailable, 5 attestation failed,
6 context overflow, 75 try later, 130 interrupted.
"""

import os
from importlib import import_module
from typing import Any

import click

from hybrid.cli.failures import guarded, misused

COMMANDS = {
    "ask": ("hybrid.cli.ask", "Answer one question."),
    "chat": ("hybrid.cli.chat", "Hold a conversation."),
    "explain": ("hybrid.cli.explain", "Show where a question would be answered, and why; sends nothing."),
    "pull": ("hybrid.cli.pull", "Fetch a model into the store."),
    "list": ("hybrid.cli.list_", "List, show or remove models."),
    "verify": ("hybrid.cli.verify", "Show every check of a node, or of a receipt."),
    "trust": ("hybrid.cli.trust", "List, add or remove the deployments you trust."),
    "doctor": ("hybrid.cli.doctor", "Check this machine and say what would make it better."),
}
EPILOG = """\b
hybrid "two words"         the same as hybrid ask "two words"
git diff | hybrid "review this"
hybrid chat --local-node   see both routes on one machine"""


class LazyGroup(click.Group):
    """A group whose commands load on use, and whose errors all end in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, in the order of ``COMMANDS``."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command's module; None for a name that is no command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101 - our own table
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help rows from the table, so that help loads no command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

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
        ctx.exit(guarded(lambda: super(LazyGroup, self).invoke(ctx)))


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
    cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
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
