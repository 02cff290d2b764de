"""Reads the trust file. SPEC section 11: a file that others may write decides nothing."""

import os
import stat
from pathlib import Path

from .errors import ConfigurationError
from .trust.toml import TrustFile, parse_trust

MAX_TRUST_BYTES = 1_048_576
TRUST_FILE = "trust.toml"
ROOT = 0


def default_trust_path() -> Path:
    """Where the trust file is on this platform."""
    import platformdirs

    return platformdirs.user_config_path("hybrid-pcc") / TRUST_FILE


def read_trust_file(path: Path) -> TrustFile:
    """Read and parse a trust file. Raises ConfigurationError, also when anybody but its user may write it."""
    try:
        with path.open("rb") as file:
            _only_ours(path, os.fstat(file.fileno()))
            data = file.read(MAX_TRUST_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is no trust file: it is not UTF-8", hint="name another file") from None
    if len(data) > MAX_TRUST_BYTES:
        raise ConfigurationError(f"{path} has more than {MAX_TRUST_BYTES} bytes, which no trust file needs")
    try:
        return parse_trust(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", hint=error.hint or "correct or remove the file") from None


def _only_ours(path: Path, status: os.stat_result) -> None:
    """Refuse a file that somebody else could have written (the open one, not what the name says a moment later)."""
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{path} can be written by others, so it says nothing about whom you trust", hint=f"chmod go-w {path}"
        )
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), ROOT):
        raise ConfigurationError(
            f"{path} belongs to somebody else, so it says nothing about whom you trust", hint="use a copy of your own"
        )
