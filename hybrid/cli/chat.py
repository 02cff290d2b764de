"""``hybrid chat``: a conversation on the terminal or over a pipe. Nothing is saved unless asked."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import click

from hybrid.cli.consent import Consent, consent_of
from hybrid.cli.conversation import Conversation
from hybrid.cli.door import Doors, configured, doors_of, open_client, orderly_exit
from hybrid.cli.lines import Lines
from hybrid.cli.opening import Opening
from hybrid.cli.options import Wishes, wishes
from hybrid.cli.terminal import screen_of, talk
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from hybrid.client import Client
    from hybrid.config import Config

GREETING = (
    '/help lists the commands, """ opens a text of several lines, Ctrl-D leaves. Nothing is saved unless you say so.'
)


@click.command("chat")
@wishes()
@click.pass_context
def command(ctx: click.Context, wish: Wishes) -> int:
    """Hold a conversation. Ctrl-C stops an answer; twice, or Ctrl-D, leaves.

    Without a terminal it reads one question per line. --local-node starts a private node of your own on loopback,
    so that you see both routes on one machine; starting it is the consent to hand over to it.
    """
    settings = configured(wish)
    screen, lines = screen_of(sys.stderr, wish=wish.colour), Lines()
    consent = "always" if wish.local_node else consent_of(settings, lines, screen, conversation=True)

    def make(phase: Callable[[str], None]) -> "_Context":
        return _ready_client(doors_of(ctx), settings, wish, consent, phase)

    with orderly_exit(), closing(Opening(make)) as opening:
        if lines.typed:
            talk(GREETING)
            if wish.local_node:
                talk("starting a private node on loopback; you can type already")
        return Conversation(opening, lines, screen, wish, consent).run()


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    _Context = AbstractContextManager[Client]


@contextmanager
def _ready_client(
    doors: Doors, settings: "Config", wish: Wishes, consent: "Consent | str", phase: Callable[[str], None]
) -> "Iterator[Client]":
    """Yield a client whose model is in memory, where the device may answer at all."""
    with open_client(doors, settings, local_node=wish.local_node, on_handoff=consent, phase=phase) as client:
        if settings.policy != "only_private_cloud":
            phase("loading the model")
            with suppress(HybridError):  # the first question says what is missing
                client.count_tokens("ready")
        yield client
