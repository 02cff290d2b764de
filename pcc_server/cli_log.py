"""``pcc-server log``: the transparency log's folder, a witness, a monitor, keys (SPEC 5)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .tlog.errors import LogError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hybrid.wire.entries import Entry
    from hybrid.wire.log_policy import LogPolicy
    from hybrid.wire.note import NoteVerifier

    from .tlog.log import Log
    from .tlog.monitor import Report

FINDINGS_EXIT = 1
ERROR_EXIT = 2
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Group(click.Group):
    """Turns what the log tools raise into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except LogError as error:
            click.echo(f"pcc-server log: {error}", err=True)
            ctx.exit(ERROR_EXIT)


@click.group(cls=_Group)
def log() -> None:
    """Keep a transparency log: static files that witnesses cosign and clients check."""


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option("--origin", required=True, metavar="NAME", help="The log's name, such as example.com/log.")
def init(folder: Path, origin: str) -> None:
    """Make an empty log in FOLDER; its key goes to FOLDER.private, which no server may serve."""
    from .tlog.log import Log, private_folder

    made = Log.init(folder, origin)
    click.echo(f"log {made.vkey}")
    click.echo(f"key: {private_folder(folder) / 'key'}; back it up and serve only {folder}", err=True)


@log.command()
@click.argument("path", type=_FILE)
@click.option("--name", required=True, metavar="NAME", help="The key's name, such as example.com/release.")
@click.option("--kind", default="signer", show_default=True, help="signer, witness or witness-ed25519.")
def keygen(path: Path, name: str, kind: str) -> None:
    """Make a private key in the file PATH and print its public line."""
    from .tlog.key_files import KINDS, make_key

    if kind not in KINDS:
        raise LogError(f"--kind takes one of {', '.join(KINDS)}")
    click.echo(make_key(path, name, kind).vkey)


@log.command()
@click.argument("path", type=_FILE)
def vkey(path: Path) -> None:
    """Print the public line of the private key in the file PATH."""
    from .tlog.key_files import read_key

    click.echo(read_key(path).vkey)


@log.command()
@click.argument("folder", type=_FOLDER)
@click.argument("entries", type=_FILE, nargs=-1)
@click.option("--release", type=_FILE, metavar="FILE", help="release.toml: sign it with --key and add it.")
@click.option("--model", type=_FILE, metavar="FILE", help="model.toml: sign it with --key and add it.")
@click.option("--key", type=_FILE, metavar="FILE", help="The key of the release or model signer.")
@click.option("--out", type=_FILE, metavar="FILE", help="Where to keep the signed entry.")
def add(  # noqa: PLR0917 - click hands over by name
    folder: Path, entries: Sequence[Path], release: Path | None, model: Path | None, key: Path | None, out: Path | None
) -> None:
    """Append signed ENTRIES to the log; a checkpoint covers them once it is made. Prints the index of each.

    pcc-server serve … --print release (or model) prints the file to sign, as far as a node knows what to say.
    """
    from .tlog.log import Log

    if bool(release or model) != bool(key) or (release and model):
        raise LogError("--key goes with either --release or --model")
    data = [_bytes_of(path) for path in entries]
    opened = Log.open(folder)
    if key:
        data.append(_signed(release, model, key))
        if out:
            out.write_bytes(data[-1])
    if not data:
        raise LogError("name the files of signed entries, or --release or --model with --key")
    for index in opened.append(data):
        click.echo(index)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror}") from None


def _signed(release: Path | None, model: Path | None, key: Path) -> bytes:
    from .tlog.drafts import read_model, read_release

    now = int(time.time())
    if release:
        return _sign(read_release(release, now), key, release)
    assert model  # noqa: S101 - one of the two is given
    return _sign(read_model(model, now), key, model)


def _sign(entry: Entry, key: Path, about: object) -> bytes:
    from hybrid.wire.entries import sign
    from hybrid.wire.errors import WireError

    from .tlog.key_files import read_signer

    try:
        return sign(entry, read_signer(key))
    except WireError as error:
        raise LogError(f"{about}: {error}") from None


@log.command()
@click.argument("folder", type=_FOLDER)
@click.argument("index", type=int)
@click.option("--key", type=_FILE, required=True, metavar="FILE", help="The key of the release or directory signer.")
@click.option(
    "--reason",
    required=True,
    metavar="WORD",
    help="superseded, withdrawn, vulnerability, wrong-measurement or key-compromise.",
)
def revoke(folder: Path, index: int, key: Path, reason: str) -> None:
    """Take back the release or model of entry INDEX: append a signed revocation, and print its index.

    A checkpoint covers it once it is made. Clients read it from the log and then refuse what it names.
    """
    from hybrid.wire.entries import RevokeEntry, entry_digest

    from .tlog.log import Log, check_entry

    opened = Log.open(folder)
    entry = opened.entry(index)
    if (kind := check_entry(entry)) not in {"release", "model"}:
        raise LogError(f"entry {index} is a {kind}; releases and models are revoked")
    revocation = RevokeEntry(target=entry_digest(entry), reason=reason, issued=int(time.time()))
    for number in opened.append([_sign(revocation, key, "--reason")]):
        click.echo(number)


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option("--witness", "witnesses", multiple=True, metavar="'VKEY URL'", help="Ask it to cosign; repeatable.")
@click.option("--policy", type=_FILE, metavar="FILE", help="Ask all witnesses of this log policy that have an address.")
def checkpoint(folder: Path, witnesses: Sequence[str], policy: Path | None) -> None:
    """Sign what was added, collect cosignatures and publish. Exit code 1 when a witness gave none."""
    from .tlog.cosign import Witness, witnesses_of
    from .tlog.log import Log

    asked = [Witness.parse(text) for text in witnesses]
    asked += witnesses_of(_policy_in(policy)) if policy else []
    missing: list[Exception] = []
    note = Log.open(folder).checkpoint(witnesses=asked, failed=missing.append)
    click.echo(note.decode("utf-8"), nl=False)
    for error in missing:
        click.echo(f"pcc-server log: {error}", err=True)
    sys.exit(FINDINGS_EXIT if missing else 0)


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option("--vkey", metavar="VKEY", help="The log's public key, for a copy without the private folder.")
def verify(folder: Path, vkey: str | None) -> None:
    """Recompute the whole log from its entries, and every old checkpoint. Exit code 2 when anything differs."""
    found = _opened(folder, vkey).verify()
    covered, appended = found.checkpoint.size, found.appended
    click.echo(
        f"{found.checkpoint.origin}: {covered} entries signed, {appended - covered} more appended, all as hashed"
    )
    click.echo(f"root {found.checkpoint.root.hex()}; {found.history} earlier checkpoints are prefixes of it")


def _opened(folder: Path, vkey: str | None) -> Log:
    from .tlog.log import Log

    return Log.read(folder, vkey) if vkey else Log.open(folder)


@log.command()
@click.argument("folder", type=_FOLDER)
@click.argument("index", type=int, required=False)
@click.option("--vkey", metavar="VKEY", help="The log's public key, for a copy without the private folder.")
@click.option("--proof", is_flag=True, help="Print the entry's proof as tlog-proof@v1, to be checked offline.")
def show(folder: Path, index: int | None, vkey: str | None, proof: bool) -> None:
    """Print the published checkpoint, or the entry INDEX."""
    opened = _opened(folder, vkey)
    if index is None:
        click.echo(opened.note().decode("utf-8"), nl=False)
        click.echo(f"{opened.size - opened.published().size} entries appended since", err=True)
    elif proof:
        click.echo(_proof(opened, index), nl=False)
    else:
        entry = opened.entry(index)
        click.echo(entry.decode("utf-8"), nl=False)
        click.echo(f"entry digest, for pins and deny: {_digest(entry)}", err=True)


def _digest(entry: bytes) -> str:
    from hybrid.wire.entries import entry_digest

    return entry_digest(entry).hex()


def _proof(opened: Log, index: int) -> str:
    from hybrid.wire.tlog_proof import TlogProof

    leaf = opened.leaf(index)
    return TlogProof(index=index, hashes=leaf.hashes, checkpoint=opened.note()).encode().decode("utf-8")


@log.command()
@click.argument("folder", type=_FOLDER)
@click.option("--key", type=_FILE, required=True, metavar="FILE", help="The witness's key.")
@click.option("--log", "logs", multiple=True, required=True, metavar="VKEY", help="A log to cosign; repeatable.")
@click.option("--listen", default="127.0.0.1:8460", show_default=True, metavar="HOST:PORT", help="Port 0 picks one.")
def witness(folder: Path, key: Path, logs: Sequence[str], listen: str) -> None:
    """Cosign checkpoints of known logs over HTTP (C2SP tlog-witness); FOLDER keeps what was cosigned last."""
    from .tlog.key_files import read_witness_key
    from .tlog.witness import Server, Witness

    signer = read_witness_key(key)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise LogError("--listen takes HOST:PORT")
    cosigner = Witness(folder, signer, _keys(logs, "--log"))
    try:
        server = Server((host.strip("[]"), int(port)), cosigner)
    except OSError as error:
        raise LogError(f"cannot listen on {listen}: {error.strerror}") from None
    click.echo(f"{signer.vkey} {server.url}")
    _until_stopped(server.serve_forever)


def _until_stopped(run: Callable[[], None]) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(0)


def _keys(lines: Sequence[str], option: str) -> list[NoteVerifier]:
    from hybrid.wire.errors import WireError
    from hybrid.wire.note import NoteVerifier

    try:
        return [NoteVerifier.parse(line) for line in lines]
    except WireError as error:
        raise LogError(f"{option}: {error}") from None


@log.command()
@click.argument("prefix", metavar="FOLDER|URL")
@click.option("--log", "vkey", metavar="VKEY", help="The log's key; no quorum of witnesses is asked for.")
@click.option("--policy", type=_FILE, metavar="FILE", help="A C2SP log policy: log, witnesses, quorum.")
@click.option("--release-signer", multiple=True, metavar="VKEY", help="May sign releases and revocations.")
@click.option("--model-signer", multiple=True, metavar="VKEY", help="May sign models.")
@click.option("--directory-signer", multiple=True, metavar="VKEY", help="May sign directories and revocations.")
@click.option("--state", type=_FILE, required=True, metavar="FILE", help="What was read up to.")
@click.option("--every", type=float, default=0.0, metavar="S", help="Look again and again.  [default: once]")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per look.")
def monitor(  # noqa: PLR0917 - click hands over by name
    prefix: str,
    vkey: str | None,
    policy: Path | None,
    release_signer: Sequence[str],
    model_signer: Sequence[str],
    directory_signer: Sequence[str],
    state: Path,
    every: float,
    as_json: bool,
) -> None:
    """Tail a log: consistency, quorum, one directory per epoch and seq. Exit code 1 as soon as something is wrong."""
    from .tlog.fetch import reader_of
    from .tlog.monitor import Monitor, Tail

    releases, directories = _keys(release_signer, "--release-signer"), _keys(directory_signer, "--directory-signer")
    roles = {
        "release": tuple(releases),
        "model": tuple(_keys(model_signer, "--model-signer")),
        "directory": tuple(directories),
        "revoke": (*releases, *directories),
    }
    watching = Monitor(reader_of(prefix), _policy(vkey, policy), roles, Tail(state))

    def run() -> None:
        while True:
            report = watching.look()
            _tell(report, as_json=as_json)
            if report.findings or not every:
                sys.exit(FINDINGS_EXIT if report.findings else 0)
            time.sleep(every)

    _until_stopped(run)


def _policy(vkey: str | None, path: Path | None) -> LogPolicy:
    if path and not vkey:
        return _policy_in(path)
    if not vkey or path:
        raise LogError("name the log either by --log VKEY or by --policy FILE")
    return _parsed(f"log {vkey}\nquorum none\n")


def _policy_in(path: Path) -> LogPolicy:
    return _parsed(_bytes_of(path).decode("utf-8", "surrogateescape"))


def _parsed(text: str) -> LogPolicy:
    from hybrid.wire.errors import WireError
    from hybrid.wire.log_policy import LogPolicy

    try:
        return LogPolicy.parse(text)
    except WireError as error:
        raise LogError(f"the log policy: {error}") from None


def _tell(report: Report, *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items())) or "nothing new"
    click.echo(f"{report.size} entries; read {report.read}: {kinds}")
    for words in report.revoked:
        click.echo(f"revoked: {words}")
    for words in report.findings:
        click.echo(f"FOUND: {words}", err=True)
