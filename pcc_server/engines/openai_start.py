"""From settings to an engine of others that may answer: wait for it, ask what it serves, look at its settings."""

import asyncio
import hashlib

from hybrid.wire.codec import canonical_json
from pcc_server.config import Settings
from pcc_server.dialled import Dial
from pcc_server.errors import CONFIG_EXIT, StartFailure

from . import Loaded
from .openai import OpenAIEngine
from .openai_checks import checks, refuse_unsafe
from .openai_kinds import KINDS
from .openai_serves import served, wait_ready


def open_openai(settings: Settings, dial: Dial) -> Loaded:
    """Open the engine the settings name. Blocks. Raises StartFailure with a sentence and a way out."""
    return asyncio.run(_open(settings, dial))


async def _open(settings: Settings, dial: Dial) -> Loaded:
    kind = KINDS[settings.engine_kind]
    if settings.prefix_cache == "salted" and not kind.salted:
        raise StartFailure(
            f"cache.prefix = salted needs an engine that takes salts: mlx, vllm or sglang, not {settings.engine_kind}",
            CONFIG_EXIT,
        )
    await wait_ready(kind, dial)
    model = await served(settings, dial)
    refuse_unsafe(await checks(settings, dial, model), settings)
    return Loaded(engine=OpenAIEngine(kind, model, dial), manifest=manifest(settings.engine_kind, model.model_id))


def manifest(kind: str, model_id: str) -> bytes:
    """Return the digest of a record that says what is known of such a model: its name, and that nobody measured it."""
    record = {"engine": f"openai:{kind}", "model": model_id, "weights": "not measured"}
    return hashlib.sha256(canonical_json(record)).digest()
