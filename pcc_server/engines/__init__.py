"""What answers requests: each engine behind the same protocol, opened by name."""

from collections.abc import Callable
from dataclasses import dataclass

from hybrid.wire.evidence import Accelerator
from hybrid.wire.types import Engine
from pcc_server.config import Settings
from pcc_server.dialled import Dial, direct
from pcc_server.events import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an engine can hold and how fast it is, as last measured; 0 where it cannot know.

    kv_token_bytes: of one token of context.  kv_budget_bytes: for all contexts together.  prefill_tps, decode_tps:
    tokens a second, of one prompt and of one stream.  memory_bytes: used by the engine now, of room_bytes.
    rows: how many requests may run at once.  kv_used_bytes: of running contexts now.  bands: answers that run, by
    length.  queued_tokens: of prompts, still to be read.  rebuilds: how often a failed step was begun anew.
    """

    kv_token_bytes: int = 0
    kv_budget_bytes: int = 0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    memory_bytes: int = 0
    room_bytes: int = 0
    rows: int = 0
    kv_used_bytes: int = 0
    bands: tuple[int, ...] = ()
    queued_tokens: int = 0
    rebuilds: int = 0


def never_stalled() -> float:
    """Return 0.0: what an engine without a loop of its own says."""
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An engine that is ready, and what the statement says about it. manifest: 32 bytes.

    load: what admission reckons with; None: nothing is known but the number of rows.
    stalled_s: seconds since the engine's loop last turned while it had work.
    """

    engine: Engine
    manifest: bytes
    accelerator: Accelerator = Accelerator.CPU
    load: Callable[[], Load] | None = None
    stalled_s: Callable[[], float] = never_stalled


Report = Callable[[Phase, int], None]


def _to_nobody(_phase: Phase, _pct: int) -> None:
    return


def open_engine(settings: Settings, dial: Dial | None = None, report: Report = _to_nobody) -> Loaded:
    """Load the engine the settings name. Blocks. Raises StartFailure when it cannot answer here.

    dial: connects to an engine of others; None: without the launcher's help, as a command outside the sandbox may.
    report: told each phase of loading, and percents of it, on any thread.
    """
    if settings.engine == "mlx":
        from .mlx import open_mlx

        return open_mlx(settings, report)
    report(Phase.LOAD, 0)
    if settings.engine == "openai":
        from .openai_start import open_openai

        return open_openai(settings, dial or direct(settings))
    from .fake import open_fake

    return open_fake(settings)
