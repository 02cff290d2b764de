"""``hybrid --version``: what this installation is, without loading a model or connecting anywhere."""

import platform
from importlib.metadata import PackageNotFoundError, version

from hybrid import config
from hybrid.errors import HybridError

PROTOCOL = "hybrid.wire.v1"


def version_text() -> str:
    """Version, protocol, engine, default model and last verified measurement, one a line."""
    rows = [
        ("hybrid", f"{_package('hybrid-pcc')} (Python {platform.python_version()})"),
        ("protocol", PROTOCOL),
        ("engine", f"mlx {_package('mlx')}, mlx-lm {_package('mlx-lm')}"),
        ("model", _default_model()),
        ("measurement", "none kept: each run verifies its node anew"),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _default_model() -> str:
    from hybrid.cli.models import Shelf

    try:
        named = config.load().model
        default = None if named else Shelf.open().default()
    except HybridError as error:
        return f"unknown: {error}"
    return named or (default.entry.id if default else "none in the store; hybrid pull starter")
