"""``hybrid trust``: the deployments this user trusts, and what each must prove. Edits one private file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.terminal import safe, talk
from hybrid.errors import ConfigurationError

if TYPE_CHECKING:
    from hybrid.trust.policy import Policy

SOFTWARE = ("never", "loopback", "always")


@click.group("trust")
def command() -> None:
    """List, add or remove the deployments you trust.

    What each must prove is written in one file of yours; hybrid trust path says where it is.
    """


@command.command("path")
def path() -> None:
    """Print where the trust file is."""
    click.echo(str(_path()))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_(as_json: bool) -> None:
    """Show every deployment: endpoint, least tier, keys."""
    deployments = _deployments()
    if not deployments:
        talk("no deployment is trusted yet: hybrid trust add HOST:PORT --key KEY")
    if as_json:
        click.echo(json.dumps({name: _facts(policy) for name, policy in deployments.items()}, indent=2))
        return
    for name, policy in deployments.items():
        facts = _facts(policy)
        click.echo(safe(f"{name}  {policy.endpoint or 'no fixed address'}"))
        click.echo(safe(f"  tier {policy.min_tier} or higher; software evidence: {policy.allow_software}"))
        click.echo(
            safe(f"  log: {facts['log']}; directory signed by {', '.join(map(_short, policy.directory_signers))}")
        )


@command.command("add")
@click.argument("node", metavar="HOST:PORT|FILE")
@click.option("--key", metavar="KEY", help="The key the node printed at its start.")
@click.option("--name", metavar="DEPLOYMENT", help="Its deployment's name.  [default: localhost, or the host]")
@click.option("--allow-software", type=click.Choice(SOFTWARE), default="loopback", help="Where tier 0 will do.")
def add(node: str, key: str | None, name: str | None, allow_software: Any) -> None:
    """Trust a node by its key, or every deployment of a trust file that you were given.

    An entry of the same name is replaced. ``--allow-software always`` accepts a node whose operator can read
    everything, from anywhere, and warns at every use.
    """
    file = Path(node).expanduser()
    added = _of_file(file) if file.is_file() and not key else _of_node(node, key, name, allow_software)
    before = _changed(lambda known: {**known, **added})
    for each, policy in added.items():
        stead = f", in place of the one at {before[each].endpoint}" if each in before else ""
        talk(safe(f"{each} is trusted from now on, at {policy.endpoint or 'no fixed address'}{stead}"))
        if policy.endpoint:
            talk(safe(f"hint: hybrid verify {each} looks at it; hybrid ask --node {each} hands over to it"))
        if policy.allow_software == "always":
            talk("warning: software evidence is accepted anywhere; such a node is NOT private from its operator")


@command.command("rm")
@click.argument("name", metavar="DEPLOYMENT")
def rm(name: str) -> None:
    """Trust a deployment no longer."""
    _changed(lambda known: _without(known, name))
    talk(safe(f"{name} is trusted no longer"))


def _without(known: Mapping[str, "Policy"], name: str) -> Mapping[str, "Policy"]:
    if name not in known:
        raise ConfigurationError(f"there is no deployment {name}", hint=f"known: {', '.join(known) or 'none'}")
    return {each: policy for each, policy in known.items() if each != name}


def _short(key: str) -> str:
    return "+".join(key.split("+")[:2])  # base64 has a "+" of its own


def _path() -> Path:
    from hybrid.config import load
    from hybrid.trust_file import default_trust_path

    return load().trust or default_trust_path()


def _deployments() -> Mapping[str, "Policy"]:
    from hybrid.trust_file import read_trust_file

    return read_trust_file(_path()).deployments if _path().exists() else {}


def _changed(change: "Callable[[Mapping[str, Policy]], Mapping[str, Policy]]") -> Mapping[str, "Policy"]:
    """Change the trust file, alone with it; returns what it held before."""
    from hybrid.state import locked, write_private
    from hybrid.trust.toml import write_trust

    path = _path()
    with locked(path):
        before = _deployments()
        write_private(path, write_trust(dict(sorted(change(before).items()))).encode())
    return before


def _of_file(file: Path) -> Mapping[str, "Policy"]:
    from hybrid.trust_file import read_trust_file

    return read_trust_file(file).deployments


def _of_node(node: str, key: str | None, name: str | None, allow_software: Any) -> Mapping[str, "Policy"]:
    from hybrid.peers import Address
    from hybrid.settings import is_loopback
    from hybrid.trust.policy import Policy

    if "/" in node and not node.startswith("unix:"):
        raise ConfigurationError(f"there is no file {node}", hint="give a trust file, or HOST:PORT and --key KEY")
    if ":" not in node:
        raise ConfigurationError(
            f"{node} is neither HOST:PORT nor a file", hint="hybrid trust add 127.0.0.1:8443 --key KEY"
        )
    if key is None:
        raise click.UsageError("--key is needed for HOST:PORT; a node prints its key when it starts")
    host = Address.parse(node).host
    deployment = name or ("localhost" if is_loopback(node) else host)
    own, is_named, _ = key.strip().partition("/directory+")
    if is_named and own != deployment:
        talk(safe(f"hint: this key calls its deployment {own}; if that is what it is, say --name {own}"))
    policy = Policy(
        deployment=deployment, endpoint=node, directory_signers=(key.strip(),), allow_software=allow_software
    )
    return {deployment: policy}


def _facts(policy: "Policy") -> dict[str, Any]:
    log = policy.log_policy
    return {
        "endpoint": policy.endpoint,
        "min_tier": policy.min_tier,
        "allow_software": policy.allow_software,
        "candidates": policy.candidates,
        "directory_signers": list(policy.directory_signers),
        "log": ", ".join(key.name for key in log.logs) if log else "none",
        "digest": policy.digest,
    }
