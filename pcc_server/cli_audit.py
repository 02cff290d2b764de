"""``pcc-server audit``: the node's guarantees, tried on the machine it is installed on."""

import json
import sys

import click

from .errors import StartFailure

RED_EXIT = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--canary", is_flag=True, help="Send canaries through a second, private node and look for them.")
@click.option("--admin", default="", metavar="HOST:PORT", help="The node's admin port; else that of its settings.")
@click.option("--config", default="", metavar="FILE", help="The node's settings; else those it was started with.")
@click.option("--pid", type=int, default=0, metavar="N", help="A process of the node, where several run.")
def audit(*, as_json: bool, canary: bool, admin: str, config: str, pid: int) -> None:
    """Check the running node and this machine: what is wanted, what was found, what follows.

    Run it as root, with the node running: what cannot be looked at is "not proven" and counts as red. It changes
    nothing; --canary loads the model a second time, on loopback ports of its own, and disturbs nobody's requests.

    Exit codes: 0 all is green, 1 something is red or not proven, 2 a bad option.
    """
    from .audit.run import audit as run

    try:
        report = run(pid=pid, admin=admin, config=config, canary=canary)
    except StartFailure as failure:
        click.echo(f"pcc-server audit: {failure.message}", err=True)
        sys.exit(failure.exit_code)
    click.echo(json.dumps(report.to_json(), indent=1) if as_json else report.table())
    sys.exit(RED_EXIT if report.failed else 0)
