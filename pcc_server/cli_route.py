"""``pcc-server route``."""

import os
import sys

import click

from .config import ACCESS
from .environment import GRPC
from .errors import StartFailure
from .notices import Notices
from .route_config import NodePlace, RouteSettings


@click.command()
@click.option("--node", "nodes", multiple=True, required=True, metavar="HOST:PORT[=WEIGHT]", help="A node; repeat it.")
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="HOST:PORT", help="Port 0 picks one.")
@click.option("--deployment", default="localhost", show_default=True, metavar="NAME", help="As the nodes have it.")
@click.option("--epoch-s", type=int, default=300, show_default=True, metavar="S", help="As the nodes have it.")
@click.option("--directory-key", default="", metavar="FILE", help="Signs the directory.  [default: a key of this run]")
@click.option("--log", default="", metavar="DIR", help="Append every directory to this transparency log.")
@click.option("--witness", "witnesses", multiple=True, metavar="'VKEY URL'", help="Cosigns checkpoints; repeat it.")
@click.option("--access", type=click.Choice(ACCESS[:2]), default="open", show_default=True, help="Who is let in.")
@click.option("--access-keys", default="", metavar="FILE", help="Keys that are let in: pcc-server access add FILE.")
@click.option("--tls-cert", default="", metavar="FILE", help="Certificate chain, PEM; required off loopback.")
@click.option("--tls-key", default="", metavar="FILE", help="Its private key, PEM.")
@click.option("--tls-client-ca", default="", metavar="FILE", help="Only callers with its certificates may connect.")
@click.option(
    "--node-ca", default="", metavar="FILE", help="Authority of the nodes' certificates; required off loopback."
)
@click.option("--node-cert", default="", metavar="FILE", help="What this router shows to nodes, PEM.")
@click.option("--node-key", default="", metavar="FILE", help="Its private key, PEM.")
@click.option("--allow-software", is_flag=True, help="List nodes on other machines at tier 0, too.")
@click.option("--max-streams", type=int, default=256, show_default=True, metavar="N", help="Requests at once.")
@click.option("--drain-timeout", type=float, default=120.0, show_default=True, metavar="S", help="After SIGTERM.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per life event; ends when its reader does.")
def route(  # noqa: PLR0917 - click hands over by name
    nodes: tuple[str, ...],
    listen: str,
    deployment: str,
    epoch_s: int,
    directory_key: str,
    log: str,
    witnesses: tuple[str, ...],
    access: str,
    access_keys: str,
    tls_cert: str,
    tls_key: str,
    tls_client_ca: str,
    node_ca: str,
    node_cert: str,
    node_key: str,
    allow_software: bool,
    max_streams: int,
    drain_timeout: float,
    as_json: bool,
) -> None:
    """One address for several nodes: one signed directory, and sealed requests handed to them in the client's order.

    Exit codes: 0 stopped by a signal, 2 a bad option, 4 port taken or log unusable.
    """
    notices = Notices(as_json=as_json)
    try:
        settings = RouteSettings(
            nodes=tuple(NodePlace.parse(node) for node in nodes),
            listen=listen,
            deployment=deployment,
            epoch_s=epoch_s,
            directory_key=directory_key,
            log=log,
            witnesses=witnesses,
            access=access,
            access_keys=access_keys,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            node_ca=node_ca,
            node_cert=node_cert,
            node_key=node_key,
            allow_software=allow_software,
            streams=max_streams,
            drain_timeout_s=drain_timeout,
        )
        os.environ.update(GRPC)  # read when grpc is imported
        from .router import run

        sys.exit(run(settings, notices))
    except StartFailure as failure:
        notices.failure(failure.message)
        sys.exit(failure.exit_code)
