"""A release entry out of the TOML file its publisher writes; nothing here signs or logs it."""

import tomllib
from pathlib import Path

from hybrid.wire.constants import MAX_RELEASE_S
from hybrid.wire.errors import WireError
from hybrid.wire.fields import Fields
from hybrid.wire.release import ReleaseEntry

from .errors import LogError

_DAY_S = 86_400
_MAX_DAYS = MAX_RELEASE_S // _DAY_S


def read_release(path: Path, issued: int) -> ReleaseEntry:
    """Read ``release.toml``: the entry's own fields, with ``days`` of validity in place of issued and expires.

    issued: Unix seconds.  Raises LogError naming the field that is missing, unknown or wrong.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LogError(f"cannot read {path}: {error}") from None
    days = table.pop("days", _MAX_DAYS)
    if type(days) is not int or not 0 < days <= _MAX_DAYS:
        raise LogError(f"{path}: days is a whole number from 1 to {_MAX_DAYS}")
    measured = table.pop("measurements", {})
    if not isinstance(measured, dict):
        raise LogError(f"{path}: [measurements] is a table")
    words = {
        "configs": {},
        **table,
        "measurements": {"sev-snp": [], "tpm2": [], **measured},
        "issued": issued,
        "expires": issued + days * _DAY_S,
    }
    try:
        fields = Fields(words)
        entry = ReleaseEntry.read(fields)
        fields.end()
    except WireError as error:
        raise LogError(f"{path}: {error}") from None
    return entry
