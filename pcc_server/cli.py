"""``pcc-server``: each command calls one function elsewhere."""

import click

from .cli_access import access as access_
from .cli_attest import attest
from .cli_audit import audit
from .cli_keys import keys
from .cli_log import log as log_
from .cli_plan import plan
from .cli_route import route
from .cli_serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-pcc", prog_name="pcc-server")
def main() -> None:
    """Run a private, stateless node: it opens a sealed request, answers it, keeps nothing."""


for _command in (serve, route, access_, keys, attest, log_, plan, audit):
    main.add_command(_command)
