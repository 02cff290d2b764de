"""``pcc-server serve``: flags, file and environment become settings, settings become a node."""

import sys
from typing import Any

import click

from .config import ACCESS, ATTESTERS, ENGINES, FAULTS, Settings
from .describe import KINDS, describe
from .errors import StartFailure
from .settings_file import from_flags, to_toml
from .settings_source import Source

_OPTIONS = {"drain_timeout_s": "--drain-timeout"}


@click.command()
@click.option("--config", default="", metavar="FILE", help="Settings, TOML; a flag or a PCC_* variable goes before it.")
@click.option("--check-config", is_flag=True, help="Say what would keep the node from starting, and end.")
@click.option("--print-config", is_flag=True, help="Print the effective settings as TOML, and end.")
@click.option("--listen", metavar="HOST:PORT", help="Port 0 picks one.  [default: 127.0.0.1:8443]")
@click.option("--engine", type=click.Choice(ENGINES), help="What answers.  [default: mlx]")
@click.option("--model", metavar="ID|PATH", help="A catalogue id or a model folder.  [default: the store's]")
@click.option("--store", metavar="DIR", help="Model store, else HYBRID_MODELS.  [default: the platform's cache]")
@click.option("--deployment", metavar="NAME", help="A lower-case DNS name.  [default: localhost]")
@click.option(
    "--allow-software", is_flag=True, default=None, help="Off loopback: serve at tier 0, readable by the operator."
)
@click.option("--tls-cert", metavar="FILE", help="Certificate chain, PEM; required off loopback.")
@click.option("--tls-key", metavar="FILE", help="Its private key, PEM.")
@click.option("--max-running", type=int, metavar="N", help="Requests answered at once.  [default: 4; fake: 256]")
@click.option("--max-queue", type=int, metavar="N", help="Requests that may wait.  [default: 32]")
@click.option("--max-new", type=int, metavar="N", help="Most tokens of one answer.  [default: 2048]")
@click.option("--epoch-s", type=int, metavar="S", help="Life of an epoch, seconds.  [default: 300]")
@click.option("--batch", type=int, metavar="N", help="Frames of one message, at most.  [default: 16]")
@click.option("--drain-timeout", "drain_timeout_s", type=float, metavar="S", help="After SIGTERM.  [default: 120]")
@click.option("--tls-client-ca", metavar="FILE", help="Only callers with its certificates may connect.")
@click.option("--access", type=click.Choice(ACCESS), help="Who is let in.  [default: open]")
@click.option("--access-keys", metavar="FILE", help="Keys that are let in: pcc-server access add FILE.")
@click.option("--log", metavar="DIR", help="Name and serve this transparency log; it is only read.")
@click.option("--release", metavar="FILE", help="The log's signed RELEASE entry of this software.")
@click.option("--attester", type=click.Choice(ATTESTERS), help="Evidence.  [default: software]")
@click.option("--tpm", metavar="DEVICE", help="A path, or swtpm:PORT.  [default: /dev/tpmrm0]")
@click.option("--event-log", metavar="FILE", help="The firmware's event log, shown to whoever asks.")
@click.option("--admin", metavar="HOST:PORT", help="Probes, metrics, keys and evidence over HTTP, for the operator.")
@click.option("--admin-token", metavar="FILE", help="Who sends its content may use all of the admin port.")
@click.option("--print", "printed", type=click.Choice(KINDS), help="Print release.toml or model.toml to sign, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per life event; ends when its reader does.")
@click.option("--fake-delay-ms", type=float, metavar="MS", help="Fake engine: pause before each token.")
@click.option("--fault", metavar="NAME", help=f"Tests only (fake engine, loopback): {', '.join(FAULTS)}.")
def serve(
    *, config: str, check_config: bool, print_config: bool, printed: str | None, as_json: bool, **flags: Any
) -> None:
    """Serve, and print the one line a client types to reach this node.

    Every setting has a key in the file and a variable, PCC_TABLE_KEY; --print-config shows them all.

    Exit codes: 0 stopped by a signal, 1 a part of the node ended, 2 a bad option, 4 port taken or model missing, 5 the
    audit that trust.require_audit asks for is red.
    """
    from .notices import Notices

    notices = Notices(as_json=as_json)
    try:
        source = Source(file=config, flags=from_flags(flags, _OPTIONS))
        found = source.read()
        if check_config:
            sys.exit(_check(found.settings))
        if print_config or printed:
            click.echo(describe(printed, found.settings) if printed else to_toml(found), nl=False)
            sys.exit(0)
        from .launcher import Launcher

        sys.exit(Launcher(found.settings, notices, source.reload, also=source.files).run())
    except StartFailure as failure:
        notices.failure(failure.message)
        sys.exit(failure.exit_code)


def _check(settings: Settings) -> int:
    """Say every problem, and return the exit code: of an option before that of the machine."""
    from .settings_check import problems

    found = problems(settings)
    for problem in found:
        click.echo(f"pcc-server: {problem.message}", err=True)
    if not found:
        click.echo("the settings are good")
    return min((problem.exit_code for problem in found), default=0)
