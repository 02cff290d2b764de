"""``pcc-server``: each command calls one function elsewhere."""

import sys

import click

from .config import FAKE_MODEL, FAULTS, RUNNING, Settings
from .errors import StartFailure


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-pcc", prog_name="pcc-server")
def main() -> None:
    """Run a private, stateless node: it opens a sealed request, answers it, keeps nothing."""


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
@click.option("--drain-timeout", type=float, default=120.0, show_default=True, metavar="S", help="After SIGTERM.")
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
    drain_timeout: float,
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
            drain_timeout_s=drain_timeout,
            fake_delay_ms=fake_delay_ms,
            fault=fault,
        )
        sys.exit(Launcher(settings, notices).run())
    except StartFailure as failure:
        notices.failure(failure.message)
        sys.exit(failure.exit_code)


def _default_store() -> str:
    """Return the folder that ``device.store`` uses by default; the worker's environment could not tell it."""
    import platformdirs

    return str(platformdirs.user_cache_path("hybrid-pcc") / "models")
