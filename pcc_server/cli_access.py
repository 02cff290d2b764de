"""``pcc-server access``: the file of keys that ``--access keys`` lets in."""

import base64
import contextlib
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from .access import (
    HEADER,
    MAX_AT_ONCE,
    MAX_PER_MINUTE,
    MAX_TOKENS_PER_MINUTE,
    TOKENS_PER_MINUTE,
    AccessKey,
    digest_of,
    parse_keys,
    read_keys,
)
from .errors import CONFIG_EXIT, StartFailure

PREFIX = "pcc_"
_KEY_BYTES = 32
_READABLE = 0o644
BAD_KEY = (
    "an ID is up to 32 of a-z, 0-9, '.', '_' and '-'; limits lie between 1 and "
    f"{MAX_PER_MINUTE} a minute, {MAX_AT_ONCE} at once, {MAX_TOKENS_PER_MINUTE} tokens a minute"
)
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Group(click.Group):
    """Turns what the commands raise into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except StartFailure as failure:
            click.echo(f"pcc-server access: {failure.message}", err=True)
            sys.exit(failure.exit_code)


@click.group(cls=_Group)
def access() -> None:
    """Keys for clients: made here, shown once, stored as hashes. A running node reads the file when it changes."""


@access.command()
@click.argument("file", type=_FILE)
@click.argument("key_id", metavar="ID")
@click.option("--per-minute", type=int, default=60, show_default=True, metavar="N", help="Requests per minute.")
@click.option("--at-once", type=int, default=4, show_default=True, metavar="N", help="Requests at the same time.")
@click.option(
    "--tokens-per-minute", type=int, default=TOKENS_PER_MINUTE, show_default=True, metavar="N", help="Of prompts."
)
def add(file: Path, key_id: str, per_minute: int, at_once: int, tokens_per_minute: int) -> None:
    """Make a key and print it once: the client puts it into a file for --node-token-file."""
    token = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii").rstrip("=")
    made = AccessKey(
        id=key_id,
        digest=digest_of(token.encode("ascii")),
        per_minute=per_minute,
        at_once=at_once,
        tokens=tokens_per_minute,
    )
    try:
        AccessKey.parse(made.encode())
    except ValueError:
        raise StartFailure(BAD_KEY, CONFIG_EXIT) from None
    with _alone(file):
        keys = read_keys(file) if file.exists() else ()
        if any(key.id == key_id for key in keys):
            raise StartFailure(f"{file} has a key {key_id} already; revoke it first, or choose another id", CONFIG_EXIT)
        _write(file, (*keys, made))
    click.echo(token)


@access.command(name="list")
@click.argument("file", type=_FILE)
def list_(file: Path) -> None:
    """Print ids and limits."""
    for key in read_keys(file):
        click.echo(f"{key.id:32} {key.per_minute}/min, {key.at_once} at once, {key.tokens} tokens/min")


@access.command()
@click.argument("file", type=_FILE)
@click.argument("key_id", metavar="ID")
def revoke(file: Path, key_id: str) -> None:
    """Take a key out; a running node refuses it within a second."""
    with _alone(file):
        keys = read_keys(file)
        kept = tuple(key for key in keys if key.id != key_id)
        if len(kept) == len(keys):
            raise StartFailure(f"{file} has no key {key_id}", CONFIG_EXIT)
        _write(file, kept)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Be the only one to change the file: a writer that read it earlier would bring a revoked key back."""
    try:
        handle = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StartFailure(f"cannot write {file}: {error.strerror}", CONFIG_EXIT) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)  # nor may a power cut bring it back
    finally:
        os.close(handle)


def _write(file: Path, keys: tuple[AccessKey, ...]) -> None:
    """Replace the file in one step: a node never reads half of it. Raises StartFailure.

    A new one may be read by everybody: the node is seldom the user who makes keys, and no key follows from its hash.
    """
    text = "\n".join([HEADER, *(key.encode() for key in keys)]) + "\n"
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        parse_keys(text)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            _like(file, out.fileno())
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except ValueError as error:
        raise StartFailure(f"cannot write {file}: {error}", CONFIG_EXIT) from None
    except OSError as error:
        raise StartFailure(f"cannot write {file}: {error.strerror}", CONFIG_EXIT) from None
    finally:
        draft.unlink(missing_ok=True)


def _like(file: Path, draft: int) -> None:
    """Give a draft the mode and, where we may, the owner of the file it replaces: its reader must not lose it."""
    try:
        found = file.stat()
    except FileNotFoundError:
        os.fchmod(draft, _READABLE)
        return
    os.fchmod(draft, stat.S_IMODE(found.st_mode))
    with contextlib.suppress(PermissionError):
        os.fchown(draft, found.st_uid, found.st_gid)
