"""The options that ask, chat and explain share, gathered into one value: ``Wishes``."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from hybrid.cli.terminal import ColourWish
from hybrid.wire.types import Route

_FILE = click.Path(dir_okay=False, path_type=Path)
MODES = ("auto", "prefer_on_device", "prefer_private_cloud", "only_on_device", "only_private_cloud")
NODE_CA = "Certificate of the authority that signed the node's, PEM, in place of the public ones."
Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for on the command line; None and empty mean: as configured."""

    system: str | None
    model: str | None
    files: tuple[str, ...]
    max_route: Route | None
    policy: str | None
    node: str | None
    node_key: str | None
    node_token_file: Path | None
    node_ca_file: Path | None
    trust: Path | None
    local_node: bool
    seed: int | None
    max_tokens: int | None
    temperature: float | None
    colour: ColourWish
    verbose: bool

    def sampling(self) -> dict[str, Any]:
        """Return what ``Client.ask`` takes for choosing tokens."""
        return {"seed": self.seed, "max_tokens": self.max_tokens, "temperature": self.temperature}


def _options() -> list[Callable[[Any], Any]]:
    option = click.option
    return [
        option("-s", "--system", metavar="TEXT", help="How the model should answer, as its system text."),
        option("-m", "--model", metavar="ID", help="Model on the device; see hybrid list."),
        option("-f", "--file", "files", metavar="FILE", multiple=True, help="File, folder, glob or - for stdin."),
        option("--max-route", type=click.Choice([str(r) for r in Route]), help="How far files and stdin may travel."),
        option("--policy", metavar="MODE", type=click.Choice(MODES), help=f"Who may answer: {', '.join(MODES)}."),
        option("--on-device", is_flag=True, help="Short for --policy only_on_device."),
        option("--private-cloud", is_flag=True, help="Short for --policy only_private_cloud."),
        option("--node", metavar="HOST:PORT", help="A node that may answer, or a deployment of the trust file."),
        option("--node-key", metavar="KEY", help="The key this node printed at its start, in place of a trust file."),
        option(
            "--node-token-file", metavar="FILE", type=_FILE, help="Holds the access key of a node that asks for one."
        ),
        option("--node-ca", "node_ca_file", metavar="FILE", type=_FILE, help=NODE_CA),
        option("--trust", metavar="FILE", type=_FILE, help="Trust file, instead of the usual one."),
        option("--local-node", is_flag=True, help="Start a private node on this machine, and stop it afterwards."),
        option("--seed", metavar="N", type=click.IntRange(min=0), help="Same seed, same answer."),
        option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="Longest answer, in tokens."),
        option(
            "--temperature",
            metavar="T",
            type=click.FloatRange(min=0, max=5),
            help="0 always takes the likeliest token.",
        ),
        option("--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour."),
        option("-v", "--verbose", is_flag=True, help="All figures of the answer, also without a terminal."),
    ]


def wishes(*leave_out: str) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Give a command the shared options and hand it one ``Wishes`` first.

    leave_out: option names that mean nothing to this command; they read as not given.
    """

    def decorate(command: Callable[..., Returned]) -> Callable[..., Returned]:
        @wraps(command)
        def gathered(**given: Any) -> Returned:
            return command(_gather(given), **given)

        for option in reversed(_options()):
            option(gathered)
        parameters = gathered.__click_params__  # type: ignore[attr-defined]
        parameters[:] = [p for p in parameters if p.name not in leave_out]
        return gathered

    return decorate


def _gather(given: dict[str, Any]) -> Wishes:
    given["policy"] = _mode(given.pop("policy", None), given.pop("on_device", False), given.pop("private_cloud", False))
    if given.get("max_route"):
        given["max_route"] = Route(given["max_route"])
    if given.get("node_key") and not given.get("node"):
        raise click.UsageError("--node-key needs --node HOST:PORT")
    if given.get("node") and given.get("local_node"):
        raise click.UsageError("--node and --local-node name two different nodes; give one")
    blank = {"files": (), "local_node": False, "colour": "auto", "verbose": False}
    return Wishes(**{f.name: given.pop(f.name, blank.get(f.name)) for f in fields(Wishes)})


def _mode(policy: str | None, on_device: bool, private_cloud: bool) -> str | None:
    chosen = [policy, "only_on_device" if on_device else None, "only_private_cloud" if private_cloud else None]
    named = [mode for mode in chosen if mode]
    if len(named) > 1:
        raise click.UsageError("--policy, --on-device and --private-cloud exclude each other; give one")
    return named[0] if named else None
