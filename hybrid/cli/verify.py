"""``hybrid verify``: every check of a node, or of a receipt that was kept, with its verdict and reason."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.findings import block, inspected, rejudged
from hybrid.cli.options import NODE_CA
from hybrid.cli.terminal import ColourWish, safe, screen_of, show, talk
from hybrid.errors import AttestationError, ConfigurationError, UnavailableError
from hybrid.state import default_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hybrid.bias import NodeCount
    from hybrid.config import Config
    from hybrid.inspection import Inspection
    from hybrid.settings import Settings
    from hybrid.trust.policy import Policy
    from hybrid.trust.receipt_file import ReceiptFile

FAILED = AttestationError.exit_code
VERDICT_CODES = {"verified": 0, "self-described": 1, "failed": FAILED}
DEFAULT_PORT = 8443
LOOK_S = 60.0  # for everything a look fetches: a node that answers drop by drop is no reason to wait for ever


@click.command("verify")
@click.argument("target", metavar="HOST[:PORT]|RECEIPT")
@click.option("--node-key", metavar="KEY", help="The key this node printed at its start.")
@click.option("--node-ca", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help=NODE_CA)
@click.option("--trust", metavar="FILE", type=click.Path(path_type=Path), help="Trust file, instead of the usual one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour.")
def command(  # noqa: PLR0917 - click hands over by name
    target: str, node_key: str | None, node_ca: Path | None, trust: Path | None, as_json: bool, colour: ColourWish
) -> int:
    """Show every check of a node, or of a receipt.

    For a node: fetches its directory, the log's newest entries and fresh evidence; sends nothing of yours. A deployment
    of the trust file may be given by name. For a receipt: a file, or the beginning of its id; uses no network.
    Exit code 0 when every required check holds, 5 when one fails, 1 for a receipt that agrees with itself alone.
    """
    import sys

    from hybrid import config

    settings = config.load({"node_key": node_key, "node_ca_file": node_ca, "trust": trust})
    path = _receipt(target, settings)
    facts, code = _judged_receipt(path, settings) if path else _judged_node(target, settings)
    if as_json:
        show(json.dumps(facts, indent=2))
    else:
        show(block(facts, screen_of(sys.stdout, wish=colour)))
    return code


def _receipt(target: str, settings: "Config") -> Path | None:
    """Return the receipt file that is meant, None when it is a node."""
    from hybrid.receipts import ReceiptStore

    path = Path(target).expanduser()
    return path if path.is_file() else ReceiptStore(settings.state or default_folder()).path(target)


def _judged_node(target: str, settings: "Config") -> tuple[dict[str, Any], int]:
    from hybrid.attempt import too_slow
    from hybrid.cloud import GrpcTransport
    from hybrid.inspection import inspect
    from hybrid.seen import LogMemory
    from hybrid.settings import as_timeout, is_loopback
    from hybrid.trust.verify import Verifier

    settled = _settled(target, settings)
    if settings.offline and not is_loopback(settled.address):
        raise UnavailableError("the node may not be asked while offline", reason="offline", hint="unset HYBRID_OFFLINE")
    assert settled.policy is not None  # noqa: S101 - Settings refuses a node without one
    verifier, folder = Verifier(settled.policy), settings.state or default_folder()

    async def look() -> "Inspection":
        transport = GrpcTransport(settled.address, as_timeout(settled.timeout), root_certificates=settled.roots)
        try:
            async with asyncio.timeout(LOOK_S):
                return await inspect(transport, verifier, LogMemory(folder))
        except TimeoutError:
            raise too_slow("attest") from None
        finally:
            await transport.close()

    found = asyncio.run(look())
    facts = inspected(settled.address, found, _counts(folder, found))
    return facts, 0 if facts["ok"] else FAILED


def _counts(folder: Path, found: "Inspection") -> "Mapping[str, NodeCount]":
    """Return what is remembered of the nodes; a file that can't be read is said, and is no reason to show nothing."""
    from hybrid.shares import ShareBook

    book = ShareBook(folder)
    if found.directory:
        book.open(found.directory.deployment)
    if book.trouble:
        talk(f"warning: {safe(book.trouble)}")
    return book.counts


def _settled(target: str, settings: "Config") -> "Settings":
    """Return where to look and what must be proved there. Raises ConfigurationError for what is no node we know."""
    from hybrid.settings import Settings, deciding, trusted
    from hybrid.trust.policy import Policy

    decides = deciding(settings, target=target)
    pinned = isinstance(decides, Policy)
    if not pinned and trusted(target, settings.trust) is None:
        raise _unknown(target, settings)
    node = target if ":" in target or not pinned else f"{target}:{DEFAULT_PORT}"  # else the name of a deployment
    return Settings(node=node, node_ca=settings.node_ca_file, trust=decides, timeout=settings.timeout)


def _unknown(target: str, settings: "Config") -> ConfigurationError:
    """Say what a target that leads nowhere could have been. Raises ConfigurationError for a malformed address."""
    from hybrid.peers import Address
    from hybrid.receipts import ReceiptStore, is_id
    from hybrid.trust_file import default_trust_path

    if not target.startswith("unix:") and ("/" in target or target.endswith(".receipt")):
        return ConfigurationError(f"there is no file {target}", hint="give a receipt file, or the beginning of its id")
    if ":" in target:
        Address.parse(target)
        how = f"add --node-key KEY, or trust it for good: hybrid trust add {target} --key KEY"
        return ConfigurationError(
            f"the key of node {target} is not known, so nothing it says can be verified",
            hint=f"{how}; the node prints its key when it starts",
        )
    if is_id(target):
        folder = ReceiptStore(settings.state or default_folder()).folder
        return ConfigurationError(f"no receipt begins with {target}", hint=f"receipts are kept in {folder}")
    return ConfigurationError(
        f"{target} is no HOST:PORT, no deployment you trust, and no receipt",
        hint=f"hybrid trust list shows whom you trust, by {settings.trust or default_trust_path()}",
    )


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
    from hybrid.settings import deciding
    from hybrid.trust.policy import Policy

    decides = deciding(settings)
    by_flag = settings.origin.get("node_key") == "flag"
    named = None if by_flag else _named_today(file, settings)
    return named or (decides if isinstance(decides, Policy) else None)


def _named_today(file: "ReceiptFile", settings: "Config") -> "Policy | None":
    from hybrid.trust.toml import parse_trust
    from hybrid.trust_file import default_trust_path, read_trust_file

    if settings.trust is None and not default_trust_path().exists():
        return None
    today = read_trust_file(settings.trust or default_trust_path())
    try:
        named = parse_trust(file.trust).deployments
    except ConfigurationError:
        return None
    return next((today.deployments[name] for name in named if name in today.deployments), None)
