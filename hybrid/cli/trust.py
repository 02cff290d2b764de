"""``hybrid trust``: the deployments this user trusts, and what each must prove. Edits one private file."""

import json
from collections.abc import Mapping
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
    if as_json:
        click.echo(json.dumps({name: _facts(policy) for name, policy in deployments.items()}, indent=2))
        return
    for name, policy in deployments.items():
        facts = _facts(policy)
        words = f"tier {policy.min_tier} or higher, software evidence: {policy.allow_software}, log: {facts['log']}"
        click.echo(safe(f"{name}  {policy.endpoint or '-'}  {words}"))


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
    _write({**_deployments(), **added})
    for each, policy in added.items():
        talk(f"{safe(each)} is trusted from now on, at {safe(policy.endpoint or 'no fixed address')}")
        if policy.allow_software == "always":
            talk("warning: software evidence is accepted anywhere; such a node is NOT private from its operator")


@command.command("rm")
@click.argument("name", metavar="DEPLOYMENT")
def rm(name: str) -> None:
    """Trust a deployment no longer."""
    deployments = _deployments()
    if name not in deployments:
        raise ConfigurationError(f"there is no deployment {name}", hint=f"known: {', '.join(deployments) or 'none'}")
    _write({each: policy for each, policy in deployments.items() if each != name})


def _path() -> Path:
    from hybrid.config import load
    from hybrid.trust_file import default_trust_path

    return load().trust or default_trust_path()


def _deployments() -> Mapping[str, "Policy"]:
    from hybrid.trust_file import read_trust_file

    return read_trust_file(_path()).deployments if _path().exists() else {}


def _write(deployments: Mapping[str, "Policy"]) -> None:
    from hybrid.state import write_private
    from hybrid.trust.toml import write_trust

    write_private(_path(), write_trust(dict(sorted(deployments.items()))).encode())


def _of_file(file: Path) -> Mapping[str, "Policy"]:
    from hybrid.trust_file import read_trust_file

    return read_trust_file(file).deployments


def _of_node(node: str, key: str | None, name: str | None, allow_software: Any) -> Mapping[str, "Policy"]:
    from hybrid.peers import Address
    from hybrid.settings import is_loopback
    from hybrid.trust.policy import Policy

    if key is None:
        raise click.UsageError("--key is needed for HOST:PORT; a node prints its key when it starts")
    host = Address.parse(node).host
    deployment = name or ("localhost" if is_loopback(node) else host)
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
