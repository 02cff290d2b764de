"""What a router opens before it serves: the directory signer's key and the log."""

from pathlib import Path

from hybrid.wire.encoding import deployment_name
from hybrid.wire.errors import Malformed
from hybrid.wire.note import NoteSigner, NoteVerifier

from .errors import CONFIG_EXIT, StartFailure
from .ledger import LogLedger
from .route_config import RouteSettings
from .tlog.cosign import Witness
from .tlog.errors import LogError
from .tlog.key_files import read_signer
from .tlog.log import Log


def directory_signer(settings: RouteSettings) -> NoteSigner:
    """Read the directory signer's key, or make one for this run. Raises StartFailure with exit code 2."""
    try:
        deployment_name(settings.deployment)
    except Malformed:
        raise StartFailure(
            f"--deployment takes a lower-case DNS name, not {settings.deployment!r}", CONFIG_EXIT
        ) from None
    if not settings.directory_key:
        return NoteSigner.generate(f"{settings.deployment}/directory")
    try:
        return read_signer(Path(settings.directory_key))
    except LogError as error:
        raise StartFailure(f"--directory-key: {error}", CONFIG_EXIT) from None


def open_ledger(settings: RouteSettings, signer: NoteSigner) -> LogLedger | None:
    """Open the log for writing, if there is one. Raises StartFailure with exit code 2."""
    if not settings.log:
        return None
    try:
        witnesses = [Witness.parse(text) for text in settings.witnesses]
        return LogLedger(Log.open(Path(settings.log)), witnesses, NoteVerifier.parse(signer.vkey))
    except LogError as error:
        raise StartFailure(f"--log: {error}", CONFIG_EXIT) from None
