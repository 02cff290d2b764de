"""The way from options to a client: configuration, a private node if one is wanted, and cleaning up after both.

Tests hand in their own ``Doors`` as click's ``obj``; nothing is injected by environment.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from hybrid.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import click

    from hybrid.cli.options import Wishes
    from hybrid.client import Client
    from hybrid.config import Config
    from hybrid.own_node import OwnNode

PROMISED_EXITS = ("SIGTERM", "SIGHUP")


def _client(**given: Any) -> "Client":
    from hybrid.client import Client

    return Client(**given)


def _own_node(settings: "Config") -> "OwnNode":
    """Start a node that runs what the device runs: a hand-over to a smaller model would help nobody."""
    from hybrid.local import DeviceModel
    from hybrid.own_node import OwnNode

    model = DeviceModel.find(settings.model, settings.models).model_id
    store = ("--store", str(settings.models)) if settings.models else ()
    return OwnNode.start(model=model, options=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What a command reaches the product through. client: makes a Client.  own_node: starts a private node."""

    client: "Callable[..., Client]" = _client
    own_node: "Callable[[Config], AbstractContextManager[OwnNode]]" = _own_node


def doors_of(ctx: "click.Context") -> Doors:
    """Return the doors a test handed in, or the real ones."""
    return ctx.find_object(Doors) or Doors()


def configured(wishes: "Wishes") -> "Config":
    """Return the settings with these wishes on top. Raises ConfigurationError, also for a node without its key."""
    from hybrid import config
    from hybrid.settings import deciding, trusted
    from hybrid.trust.policy import Policy

    names = ("model", "policy", "node", "node_key", "node_token_file", "node_ca_file", "trust")
    settings = config.load({name: getattr(wishes, name) for name in names})
    node = None if wishes.local_node else settings.node
    if node and not isinstance(deciding(settings), Policy) and trusted(node, settings.trust) is None:
        raise ConfigurationError(
            f"the key of node {node} is not known, so nothing may be sealed to it",
            hint="add --node-key KEY, or hybrid trust add it for good; the node prints its key when it starts",
        )
    return settings


@contextmanager
def open_client(
    doors: Doors,
    settings: "Config",
    *,
    local_node: bool = False,
    on_handoff: Any = None,
    phase: Callable[[str], None] = lambda _: None,
) -> "Iterator[Client]":
    """Yield a client for these settings; close it, and stop the node it started, on the way out.

    on_handoff: replaces the configured consent.  phase: told what is being waited for.
    """
    from hybrid.aio import from_config

    given: dict[str, Any] = {"on_handoff": on_handoff} if on_handoff else {}
    with ExitStack() as stack:
        if local_node:
            phase("starting a private node on loopback")
            node = stack.enter_context(doors.own_node(settings))
            given |= {"node": node.address, "node_key": node.key, "node_ca": None}
            phase(f"private node ready at {node.address}")
        client = doors.client(**from_config(settings, given))
        stack.callback(client.close)
        yield client


@contextmanager
def orderly_exit() -> Iterator[None]:
    """While inside, being asked to end runs every clean-up, so that no private node is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        for each in (signal.SIGINT, *numbers):
            signal.signal(each, signal.SIG_DFL)  # one more ends the process at once; a private node notices
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in PROMISED_EXITS if hasattr(signal, name)]
    before = [(number, signal.signal(number, leave)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
