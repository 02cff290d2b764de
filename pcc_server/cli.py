"""``pcc-server``: each command calls one function elsewhere."""

import sys

import click

from .cli_access import access as access_
from .cli_attest import attest
from .cli_keys import keys
from .cli_log import log as log_
from .cli_route import route
from .config import ACCESS, ATTESTERS, FAKE_MODEL, FAULTS, RUNNING, Settings
from .describe import KINDS, describe
from .errors import StartFailure


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-pcc", prog_name="pcc-server")
def main() -> None:
    """Run a private, stateless node: it opens a sealed request, answers it, keeps nothing."""


for _command in (route, access_, keys, attest, log_):
    main.add_command(_command)


@main.command()
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="HOST:PORT", help="Port 0 picks one.")
@click.option("--engine", type=click.Choice(("mlx", "fake")), default="mlx", show_default=True, help="What answers.")
@click.option("--model", metavar="ID|PATH", help="A catalogue id or a model folder.  [default: the store's]")
@click.option("--store", envvar="HYBRID_MODELS", metavar="DIR", help="Model store.  [default: the platform's cache]")
@click.option("--deployment", default="localhost", show_default=True, metavar="NAME", help="A lower-case DNS name.")
@click.option("--allow-software", is_flag=True, help="Off loopback: serve at tier 0, readable by the operator.")
@click.option("--tls-cert", default="", metavar="FILE", help="Certificate chain, PEM; required off loopback.")
@click.option("--tls-key", default="", metavar="FILE", help="Its private key, PEM.")
@click.option("--max-running", type=int, metavar="N", help="Requests answered at once.  [default: 4; fake: 256]")
@click.option("--max-queue", type=int, default=32, show_default=True, metavar="N", help="Requests that may wait.")
@click.option("--max-new", type=int, default=2048, show_default=True, metavar="N", help="Most tokens of one answer.")
@click.option("--epoch-s", type=int, default=300, show_default=True, metavar="S", help="Life of an epoch, seconds.")
@click.option("--batch", type=int, default=16, show_default=True, metavar="N", help="Frames of one message, at most.")
@click.option("--drain-timeout", type=float, default=120.0, show_default=True, metavar="S", help="After SIGTERM.")
@click.option("--tls-client-ca", default="", metavar="FILE", help="Only callers with its certificates may connect.")
@click.option("--access", type=click.Choice(ACCESS), default="open", show_default=True, help="Who is let in.")
@click.option("--access-keys", default="", metavar="FILE", help="Keys that are let in: pcc-server access add FILE.")
@click.option("--log", default="", metavar="DIR", help="Name and serve this transparency log; it is only read.")
@click.option("--release", default="", metavar="FILE", help="The log's signed RELEASE entry of this software.")
@click.option("--attester", type=click.Choice(ATTESTERS), default="software", show_default=True, help="Evidence.")
@click.option("--tpm", default="/dev/tpmrm0", show_default=True, metavar="DEVICE", help="A path, or swtpm:PORT.")
@click.option("--event-log", default="", metavar="FILE", help="The firmware's event log, shown to whoever asks.")
@click.option("--admin", default="", metavar="HOST:PORT", help="Keys and evidence over HTTP, for the operator.")
@click.option("--admin-token", default="", metavar="FILE", help="Whoever sends its content may use the admin port.")
@click.option("--print", "printed", type=click.Choice(KINDS), help="Print release.toml or model.toml to sign, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per life event; ends when its reader does.")
@click.option("--fake-delay-ms", type=float, default=0.0, metavar="MS", help="Fake engine: pause before each token.")
@click.option("--fault", default="", metavar="NAME", help=f"Tests only (fake engine, loopback): {', '.join(FAULTS)}.")
def serve(  # noqa: PLR0917 - click hands over by name
    listen: str,
    engine: str,
    model: str | None,
    store: str | None,
    deployment: str,
    allow_software: bool,
    tls_cert: str,
    tls_key: str,
    max_running: int | None,
    max_queue: int,
    max_new: int,
    epoch_s: int,
    batch: int,
    drain_timeout: float,
    tls_client_ca: str,
    access: str,
    access_keys: str,
    log: str,
    release: str,
    attester: str,
    tpm: str,
    event_log: str,
    admin: str,
    admin_token: str,
    printed: str | None,
    as_json: bool,
    fake_delay_ms: float,
    fault: str,
) -> None:
    """Serve, and print the one line a client types to reach this node.

    Exit codes: 0 stopped by a signal, 1 a part of the node ended, 2 a bad option, 4 port taken or model missing.
    """
    from .launcher import Launcher
    from .notices import Notices

    notices = Notices(as_json=as_json)
    try:
        settings = Settings(
            listen=listen,
            engine=engine,
            model=model or (FAKE_MODEL if engine == "fake" else ""),
            deployment=deployment,
            store=store or _default_store(),
            tls_cert=tls_cert,
            tls_key=tls_key,
            allow_software=allow_software,
            epoch_s=epoch_s,
            max_running=RUNNING[engine] if max_running is None else max_running,
            max_queue=max_queue,
            max_new=max_new,
            batch=batch,
            drain_timeout_s=drain_timeout,
            tls_client_ca=tls_client_ca,
            access=access,
            access_keys=access_keys,
            log=log,
            release=release,
            attester=attester,
            tpm=tpm,
            event_log=event_log,
            admin=admin,
            admin_token=admin_token,
            fake_delay_ms=fake_delay_ms,
            fault=fault,
        )
        if printed:
            click.echo(describe(printed, settings), nl=False)
            sys.exit(0)
        sys.exit(Launcher(settings, notices).run())
    except StartFailure as failure:
        notices.failure(failure.message)
        sys.exit(failure.exit_code)


def _default_store() -> str:
    """Return the folder that ``device.store`` uses by default; the worker's environment could not tell it."""
    import platformdirs

    return str(platformdirs.user_cache_path("hybrid-pcc") / "models")
