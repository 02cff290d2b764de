"""``pcc-server keys``: a running node's epoch keys, over its admin port. Public parts only."""

import http.client
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import click

from .config import is_loopback, split_address
from .errors import CONFIG_EXIT, UNAVAILABLE_EXIT, StartFailure

REFUSED_EXIT = 1
_TIMEOUT_S = 180.0  # a slow TPM takes long
_WORDS = {
    401: "the admin port wants its token: --token-file FILE",
    403: "the admin port refused this call",
    404: "the node has no such key; pcc-server keys list shows them",
    429: "an epoch has at most 16 directories; try again in the next one",
    503: "the node is not ready",
}


class _Group(click.Group):
    """Turns what the commands raise into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except StartFailure as failure:
            click.echo(f"pcc-server keys: {failure.message}", err=True)
            sys.exit(failure.exit_code)


@click.group(cls=_Group)
@click.option("--admin", required=True, metavar="HOST:PORT", help="The node's admin port.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="The admin port's token.")
@click.option("--ca", default="", metavar="FILE", help="Off loopback: authority of the node's certificate, PEM.")
@click.pass_context
def keys(ctx: click.Context, admin: str, token_file: Path | None, ca: str) -> None:
    """Show, rotate or revoke the epoch keys of a running node.

    Exit codes: 0 well, 1 the node refused, 2 a bad option, 4 no admin port answers.
    """
    ctx.obj = AdminClient(admin, token_file, ca)


@keys.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(port: "AdminClient", *, as_json: bool) -> None:
    """Print the keys that open requests now."""
    _show(port.ask("GET", "/keys"), as_json=as_json)


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate(port: "AdminClient", *, as_json: bool) -> None:
    """Make new keys now; the old ones go on until their windows end."""
    _show(port.ask("POST", "/keys/rotate"), as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="KEY")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def revoke(port: "AdminClient", key_id: str, *, as_json: bool) -> None:
    """Destroy a key at once: what is sealed to it can't be opened by anybody any more."""
    if not (key_id.isascii() and key_id.isalnum()):
        raise StartFailure("a key is named by its 32 hexadecimal digits", CONFIG_EXIT)
    _show(port.ask("POST", f"/keys/revoke?key={key_id}"), as_json=as_json)


class AdminClient:
    """An admin port to talk to. ca: who signed its certificate; for ``own``, that certificate itself, of any name."""

    def __init__(self, admin: str, token_file: Path | None, ca: str, *, own: bool = False) -> None:
        self._host, self._port = split_address(admin, "--admin")
        self._name = admin
        self._headers = {"x-pcc-admin": "1"}
        self._ca = ca
        self._own = own
        if token_file:
            try:
                self._headers["authorization"] = f"Bearer {token_file.read_text('ascii').strip()}"
            except (OSError, UnicodeDecodeError):
                raise StartFailure(f"cannot read --token-file {token_file}", CONFIG_EXIT) from None

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """Call it; returns the object it answers with. Raises StartFailure with what to do."""
        found = json.loads(self.read(method, path))
        assert isinstance(found, dict)  # noqa: S101 - our own program wrote it
        return found

    def read(self, method: str, path: str) -> bytes:
        """Call it; returns the bytes it answers with. Raises as ``ask``."""
        connection = self._connection()
        try:
            connection.request(method, path, headers=self._headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise StartFailure(f"no admin port answers at {self._name}: {error}", UNAVAILABLE_EXIT) from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise StartFailure(_WORDS.get(response.status, f"the node answered {response.status}"), REFUSED_EXIT)
        return body

    def _connection(self) -> http.client.HTTPConnection:
        if is_loopback(self._host) and not self._ca:
            return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            context = ssl.create_default_context(cafile=self._ca or None)
        except (OSError, ssl.SSLError):
            raise StartFailure(f"--ca {self._ca} holds no certificate, PEM", CONFIG_EXIT) from None
        if self._own:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"node {found['node_id']}")
    for key in found["keys"]:
        listed = "listed" if key["listed"] else "only for who holds an older directory"
        click.echo(f"{key['id']}  epoch {key['epoch']}  until {_clock(key['closes'])}  {listed}")


def _clock(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
