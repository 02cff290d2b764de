"""Entries out of the TOML files their signers write; nothing here signs or logs them."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hybrid.wire.constants import MAX_RELEASE_S
from hybrid.wire.entries import ModelEntryNote
from hybrid.wire.errors import WireError
from hybrid.wire.fields import Fields
from hybrid.wire.release import ReleaseEntry

from .errors import LogError

EntryT = TypeVar("EntryT")

_DAY_S = 86_400
_MAX_DAYS = MAX_RELEASE_S // _DAY_S


def read_release(path: Path, issued: int) -> ReleaseEntry:
    """Read ``release.toml``: the entry's own fields, with ``days`` of validity in place of issued and expires.

    issued: Unix seconds.  Raises LogError naming the field that is missing, unknown or wrong.
    """
    table = _table(path)
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
    return _read(path, ReleaseEntry.read, words)


def read_model(path: Path, issued: int) -> ModelEntryNote:
    """Read ``model.toml``: model_id, manifest, licence, context. issued: Unix seconds.  Raises LogError."""
    return _read(path, ModelEntryNote.read, {**_table(path), "issued": issued})


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LogError(f"cannot read {path}: {error}") from None


def _read(path: Path, read: Callable[[Fields], EntryT], words: Mapping[str, Any]) -> EntryT:
    try:
        fields = Fields(words)
        entry = read(fields)
        fields.end()
    except WireError as error:
        raise LogError(f"{path}: {error}") from None
    return entry
