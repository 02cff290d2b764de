"""What an engine of others serves, by its own words: whether it is ready, which model, how much context."""

import asyncio
from typing import Any

from hybrid.wire.encoding import identifier
from hybrid.wire.errors import Malformed
from pcc_server.config import Settings
from pcc_server.dialled import Dial
from pcc_server.errors import CONFIG_EXIT, StartFailure

from .http import OK, Ask, EngineFailure, Patience, fetch
from .openai import Served
from .openai_kinds import KINDS, Kind

READY_S = 300.0  # an engine may load its model meanwhile
POLL_S = 0.5
MAX_CONTEXT = 2**24


async def wait_ready(kind: Kind, dial: Dial, patience_s: float = READY_S) -> None:
    """Wait until the engine says that it is ready. Raises StartFailure."""
    now = asyncio.get_running_loop().time
    end, status = now() + patience_s, 0
    while now() < end:
        try:
            status, _ = await fetch(dial, Ask(path=kind.health), Patience())
        except EngineFailure:
            status = 0
        if status == OK:
            return
        await asyncio.sleep(POLL_S)
    told = f"it answers {kind.health} with {status}" if status else "nothing answers where it should listen"
    raise StartFailure(f"the engine is not ready: {told}; start it first, or see engine.port, engine.uds, engine.kind")


async def served(settings: Settings, dial: Dial) -> Served:
    """Ask what the engine serves. Raises StartFailure when that is not one model with a known context."""
    kind = KINDS[settings.engine_kind]
    try:
        status, listed = await fetch(dial, Ask(path="/v1/models"), Patience())
        models = _models(listed) if status == OK else {}
        props = (await fetch(dial, Ask(path="/props"), Patience()))[1] if kind.context == "props" else None
    except EngineFailure:
        raise StartFailure("the engine does not say which models it serves (/v1/models)") from None
    model_id = _chosen(settings.model, models)
    holds = models[model_id] if kind.context == "models" else _number(props, "default_generation_settings", "n_ctx")
    return Served(model_id, _context(settings.context, holds))


def _models(listed: Any) -> dict[str, int]:
    """Names of models, and tokens of context where the engine tells; 0 where not."""
    rows = listed.get("data") if isinstance(listed, dict) else None
    named = [row for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    return {row["id"]: _number(row, "max_model_len") for row in named}


def _number(value: Any, *keys: str) -> int:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if type(value) is int and 0 < value <= MAX_CONTEXT else 0


def _chosen(wanted: str, models: dict[str, int]) -> str:
    if wanted and wanted not in models:
        raise StartFailure(f"the engine does not serve {wanted}; see its /v1/models", CONFIG_EXIT)
    if not wanted and len(models) != 1:
        raise StartFailure(f"the engine serves {len(models)} models: say which with --model", CONFIG_EXIT)
    name = wanted or next(iter(models))
    try:
        identifier(name)
    except Malformed as error:
        raise StartFailure(f"the engine's name of its model cannot be used, give it another one: {error}") from None
    return name


def _context(wanted: int, holds: int) -> int:
    if not wanted and not holds:
        raise StartFailure("this engine does not say how many tokens it holds: set limits.context", CONFIG_EXIT)
    if holds and wanted > holds:
        raise StartFailure(f"limits.context is {wanted}, but the engine holds {holds} tokens", CONFIG_EXIT)
    return wanted or holds
