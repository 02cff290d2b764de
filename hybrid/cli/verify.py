"""``hybrid verify``: every check of a node, or of a receipt that was kept, with its verdict and reason."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.findings import block, inspected, rejudged
from hybrid.cli.terminal import ColourWish, screen_of
from hybrid.errors import AttestationError, ConfigurationError, UnavailableError
from hybrid.state import default_folder

if TYPE_CHECKING:
    from hybrid.config import Config
    from hybrid.inspection import Inspection
    from hybrid.trust.policy import Policy
    from hybrid.trust.receipt_file import ReceiptFile

FAILED = AttestationError.exit_code
VERDICT_CODES = {"verified": 0, "self-described": 1, "failed": FAILED}
DEFAULT_PORT = 8443


@click.command("verify")
@click.argument("target", metavar="HOST[:PORT]|RECEIPT")
@click.option("--node-key", metavar="KEY", help="The key this node printed at its start.")
@click.option("--trust", metavar="FILE", type=click.Path(path_type=Path), help="Trust file, instead of the usual one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour.")
def command(target: str, node_key: str | None, trust: Path | None, as_json: bool, colour: ColourWish) -> int:
    """Show every check of a node, or of a receipt.

    For a node: fetches its directory, the log's newest entries and fresh evidence; sends nothing of yours. A deployment
    of the trust file may be given by name. For a receipt: a file, or the beginning of its id; uses no network.
    Exit code 0 when every required check holds, 5 when one fails, 1 for a receipt that agrees with itself alone.
    """
    import sys

    from hybrid import config

    settings = config.load({"node_key": node_key, "trust": trust})
    path = _receipt(target, settings)
    facts, code = _judged_receipt(path, settings) if path else _judged_node(target, settings)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo(block(facts, screen_of(sys.stdout, wish=colour)), color=True)
    return code


def _receipt(target: str, settings: "Config") -> Path | None:
    """Return the receipt file that is meant, None when it is a node."""
    from hybrid.receipts import ReceiptStore

    path = Path(target).expanduser()
    return path if path.is_file() else ReceiptStore(settings.state or default_folder()).path(target)


def _judged_node(target: str, settings: "Config") -> tuple[dict[str, Any], int]:
    from hybrid.cloud import GrpcTransport
    from hybrid.inspection import inspect
    from hybrid.seen import LogMemory
    from hybrid.settings import Settings, as_timeout, is_loopback
    from hybrid.shares import read_all
    from hybrid.trust.policy import Policy
    from hybrid.trust.verify import Verifier

    key = settings.node_key
    node = target if ":" in target or not key else f"{target}:{DEFAULT_PORT}"  # else the name of a deployment
    settled = Settings(node=node, trust=Policy.pinned(key) if key else settings.trust, timeout=settings.timeout)
    if settings.offline and not is_loopback(settled.address):
        raise UnavailableError("the node may not be asked while offline", reason="offline", hint="unset HYBRID_OFFLINE")
    assert settled.policy is not None  # noqa: S101 - Settings refuses a node without one
    verifier, folder = Verifier(settled.policy), settings.state or default_folder()

    async def look() -> "Inspection":
        transport = GrpcTransport(settled.address, as_timeout(settled.timeout))
        try:
            return await inspect(transport, verifier, LogMemory(folder))
        finally:
            await transport.close()

    found = asyncio.run(look())
    counts = read_all(folder).get(found.directory.deployment, {}) if found.directory else {}
    facts = inspected(settled.address, found, counts)
    return facts, 0 if facts["ok"] else FAILED


def _judged_receipt(path: Path, settings: "Config") -> tuple[dict[str, Any], int]:
    from hybrid.receipts import read_receipt
    from hybrid.trust.receipt_file import ReceiptFile
    from hybrid.trust.reverify import reverify
    from hybrid.wire.errors import WireError

    try:
        file = ReceiptFile.decode(read_receipt(path))
    except WireError as error:
        raise ConfigurationError(f"{path} is no receipt file: {error}") from None
    verdict = reverify(file, _policy_today(file, settings), now=time.time())
    return rejudged(str(path), file, verdict), VERDICT_CODES[verdict.verdict]


def _policy_today(file: "ReceiptFile", settings: "Config") -> "Policy | None":
    """Return what the verifier itself trusts for the deployment a receipt names; None when that is nothing."""
    from hybrid.trust.policy import Policy
    from hybrid.trust.toml import parse_trust
    from hybrid.trust_file import default_trust_path, read_trust_file

    if settings.node_key:
        return Policy.pinned(settings.node_key)
    if settings.trust is None and not default_trust_path().exists():
        return None
    today = read_trust_file(settings.trust or default_trust_path())
    try:
        named = parse_trust(file.trust).deployments
    except ConfigurationError:
        return None
    return next((today.deployments[name] for name in named if name in today.deployments), None)
