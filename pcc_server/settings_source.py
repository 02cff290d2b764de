"""Where a node's settings are read: its file, its environment, its flags; again at SIGHUP."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .config import LIVE, Settings, bad
from .settings_file import KEY_OF, Effective, Given, effective, from_environment, from_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What a second reading found. changed: field -> value, to be taken over now.  refused: sentences."""

    changed: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the settings stand. file: a TOML file, empty for none.  flags: what the command line said."""

    file: str = ""
    flags: Mapping[str, Given] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def files(self) -> tuple[str, ...]:
        """What is read from the disk."""
        return (self.file,) if self.file else ()

    def read(self) -> Effective:
        """Read everything. Raises StartFailure with exit code 2 and one sentence."""
        named = from_file(_parse(self.file), self.file) if self.file else {}
        return effective(self.flags, from_environment(self.environ), named, store=default_store())

    def reload(self, now: Settings) -> Reload:
        """Read again and tell what a running node takes over: limits outside the digest.

        TLS files are read again by whoever holds them, under the names they have. Raises StartFailure where what is
        read could not start a node; the node then goes on as it is.
        """
        new = self.read().settings
        differing = [one.name for one in fields(Settings) if getattr(new, one.name) != getattr(now, one.name)]
        words = "changes with a restart only; the node goes on with what it started with"
        return Reload(
            changed={name: getattr(new, name) for name in differing if name in LIVE},
            refused=tuple(f"{KEY_OF[name]} {words}" for name in differing if name not in LIVE),
        )


def _parse(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise bad(f"cannot read --config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise bad(f"--config {path} is no text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise bad(f"--config {path} is no TOML: {error}") from None


def default_store() -> str:
    """Return the folder that ``device.store`` uses by default; the worker's environment could not tell it.

    Empty for a user without a home, as containers have them.
    """
    import platformdirs

    try:
        return str(platformdirs.user_cache_path("hybrid-pcc") / "models")
    except RuntimeError:
        return ""
