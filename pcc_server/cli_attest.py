"""``pcc-server attest``: show and check a node's own evidence, enrol a TPM's attestation key."""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .attest.collector import CollectFailure
from .config import is_loopback, split_address
from .errors import CONFIG_EXIT, UNAVAILABLE_EXIT, StartFailure

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

FAILED_EXIT = 1
_TIMEOUT_S = 10.0
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Group(click.Group):
    """Turns what the commands raise into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except StartFailure as failure:
            click.echo(f"pcc-server attest: {failure.message}", err=True)
            ctx.exit(failure.exit_code)


def _source(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.argument("admin", required=False, metavar="[HOST:PORT]"),
        click.option("--bundle", type=_FILE, metavar="FILE", help="Read a bundle from a file instead of a node."),
        click.option("--admin-token", "token", type=_FILE, metavar="FILE", help="The node's own --admin-token file."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=_Group)
def attest() -> None:
    """Look at this node's evidence, or enrol this machine's TPM.

    Exit codes: 0 well, 1 a check failed, 2 a bad option, 4 no node, no TPM, or a TPM that does not pass.
    """


@attest.command()
@_source
def show(admin: str | None, bundle: Path | None, token: Path | None, *, as_json: bool) -> None:
    """Print what a node says about itself. HOST:PORT is its admin port."""
    from hybrid.wire.errors import WireError
    from hybrid.wire.evidence import Bundle

    from .attest.inspect import facts

    try:
        said = facts(Bundle.decode(_read(admin, bundle, token)))
    except WireError as error:
        raise StartFailure(f"not a bundle of evidence: {error}", FAILED_EXIT) from None
    if as_json:
        click.echo(json.dumps(said))
    else:
        click.echo("\n".join(f"{name:24} {words}" for name, words in said.items()))


@attest.command()
@_source
@click.pass_context
def verify(ctx: click.Context, admin: str | None, bundle: Path | None, token: Path | None, *, as_json: bool) -> None:
    """Check that a node's evidence fits together: both signatures, the binding, the runtime log.

    Whether to trust what it shows is for clients to judge, with their trust file: hybrid verify HOST:PORT.
    """
    from .attest.inspect import NOT_JUDGED, checks

    found = checks(_read(admin, bundle, token), time.time())
    if as_json:
        rows = [{"check": one.name, "result": "pass" if one.ok else "fail", "words": one.words} for one in found]
        click.echo(json.dumps({"checks": rows, "not_judged": NOT_JUDGED}))
    else:
        click.echo("\n".join(f"{'pass' if one.ok else 'FAIL'}  {one.name:22} {one.words}" for one in found))
        click.echo(NOT_JUDGED)
    ctx.exit(0 if all(one.ok for one in found) else FAILED_EXIT)


@attest.command()
@click.option("--tpm", default="/dev/tpmrm0", show_default=True, metavar="DEVICE", help="A path, or swtpm:PORT.")
@click.option("--ek-root", type=_FILE, metavar="PEM", help="Root and intermediate certificates of the TPM's maker.")
def enrol(tpm: str, ek_root: Path | None) -> None:
    """Prove that the attestation key lives in this TPM, and print the line for clients' trust files.

    It speaks for this machine as it is now: run it before the machine serves, on a system you have just installed.
    """
    from .attest.enrol import enrol as run
    from .attest.tpm_commands import Tpm
    from .attest.tpm_device import open_device

    given = _certificates(ek_root) if ek_root else ()
    device = open_device(tpm)
    try:
        enrolled = run(Tpm(device), given)
    finally:
        device.close()
    for line in enrolled.lines():
        click.echo(line, err=True)
    click.echo(f'ak_names = ["{enrolled.name.hex()}"]')


def _certificates(path: Path) -> "Sequence[Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StartFailure(f"--ek-root {path} holds no PEM certificate: {error}", CONFIG_EXIT) from None


def _read(admin: str | None, bundle: Path | None, token: Path | None) -> bytes:
    if (admin is None) == (bundle is None):
        raise StartFailure("name a node's admin port as HOST:PORT, or a file with --bundle", CONFIG_EXIT)
    if bundle is not None:
        return _file(bundle)
    words = {"authorization": f"Bearer {_file(token).decode('latin-1').strip()}"} if token else {}
    return _fetch(*split_address(str(admin), "HOST:PORT"), words)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartFailure(f"{path} cannot be read: {error.strerror}", CONFIG_EXIT) from None


def _fetch(host: str, port: int, words: dict[str, str]) -> bytes:
    kind = http.client.HTTPConnection if is_loopback(host) else http.client.HTTPSConnection
    connection = kind(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/evidence", headers=words)
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CollectFailure(f"no admin port answers at {host}:{port}: {error}") from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise StartFailure(f"{host}:{port} answered with HTTP {response.status}", UNAVAILABLE_EXIT)
    return data
