"""What answers requests: each engine behind the same protocol, opened by name."""

from collections.abc import Callable
from dataclasses import dataclass

from hybrid.wire.evidence import Accelerator
from hybrid.wire.types import Engine
from pcc_server.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An engine that is ready, and what the statement says about it. manifest: 32 bytes."""

    engine: Engine
    manifest: bytes
    accelerator: Accelerator = Accelerator.CPU


def open_engine(settings: Settings) -> Loaded:
    """Load the engine the settings name. Blocks. Raises StartFailure when it cannot answer here."""
    return _OPENERS[settings.engine](settings)


def _open_fake(settings: Settings) -> Loaded:
    from .fake import open_fake

    return open_fake(settings)


def _open_mlx(settings: Settings) -> Loaded:
    from .mlx import open_mlx

    return open_mlx(settings)


_OPENERS: dict[str, Callable[[Settings], Loaded]] = {"fake": _open_fake, "mlx": _open_mlx}
