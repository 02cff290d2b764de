"""The MLX engine behind the node's protocol: one of the three doors to ``device``.

It keeps no context between requests, and says what went wrong in codes that may travel inside a reply.
"""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

from device.catalog import Entry
from device.engine import MLXEngine
from device.errors import (
    BadRequest,
    ContextOverflow,
    DeviceError,
    EngineClosed,
    EngineFailed,
    ModelDamaged,
    ModelMissing,
    Overloaded,
    UnknownModel,
)
from device.manifest import check_hashes, check_names_and_sizes, read_manifest, refuse_code
from device.options import EngineOptions
from device.store import Store
from hybrid.wire.errors import SealedCode
from hybrid.wire.evidence import Accelerator
from hybrid.wire.types import Chunk, GenerateRequest
from pcc_server import events
from pcc_server.cache_partition import NOTHING_KEPT
from pcc_server.config import Settings
from pcc_server.errors import CONFIG_EXIT, Sealed, StartFailure
from pcc_server.events import Event, Phase
from pcc_server.plan import beside, read_folder

from . import Load, Loaded, Report

_ACCELERATORS = {"metal": Accelerator.APPLE_GPU, "cuda": Accelerator.GPU}
_PHASES = {
    "verify": (Phase.VERIFY_WEIGHTS, 0),
    "weights": (Phase.LOAD, 0),
    "tokenizer": (Phase.LOAD, 90),
    "warmup": (Phase.WARMUP, 0),
}
_CODES: dict[type[DeviceError], SealedCode] = {
    BadRequest: SealedCode.BAD_REQUEST,
    Overloaded: SealedCode.OVERLOADED,
    EngineFailed: SealedCode.ENGINE_FAILED,
    EngineClosed: SealedCode.MODEL_UNAVAILABLE,
}


def open_mlx(settings: Settings, report: Report) -> Loaded:
    """Find the model, load it, and return it with its digest. Raises StartFailure with a sentence and a way out."""

    def told(phase: str, pct: int) -> None:
        entered, so_far = _PHASES[phase]
        report(entered, max(pct, so_far))

    folder = find_model(settings)
    try:
        manifest = read_manifest(folder)
        engine = MLXEngine.open(folder, model_id=manifest.id, options=_options(settings), told=told)
    except DeviceError as error:
        _refuse(error, str(folder))
    planned = read_folder(folder, f32=engine.status().weights == "f32")
    events.emit(Event.PLANNED, **beside(planned, _load(engine)))
    accelerator = _ACCELERATORS.get(engine.status().path, Accelerator.CPU)
    return Loaded(
        engine=_Stateless(engine),
        manifest=manifest.digest(),
        accelerator=accelerator,
        load=lambda: _load(engine),
        stalled_s=engine.stalled_s,
    )


def _options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        context_tokens=settings.context or None,
        max_rows=settings.max_running,
        signals=False,
        stateless=True,
        chunk_tokens=settings.chunk,
        max_stall_s=settings.max_stall_ms / 1000,
        prefix_cache=settings.prefix_cache != "off",
        prefix_age_s=settings.epoch_s,
    )


def _load(engine: MLXEngine) -> Load:
    load = engine.load()
    return Load(
        kv_token_bytes=load.kv_token_bytes,
        kv_budget_bytes=load.kv_budget_bytes,
        kv_used_bytes=load.kv_used_bytes,
        prefill_tps=load.prefill_tps,
        decode_tps=load.decode_tps,
        memory_bytes=load.memory_bytes,
        room_bytes=load.room_bytes,
        rows=load.max_rows,
        bands=load.rows,
        queued_tokens=load.queued_tokens,
        rebuilds=load.rebuilds,
    )


def find_model(settings: Settings) -> Path:
    """Return the folder of the model that would be served, without loading it. Raises StartFailure."""
    try:
        return _folder(settings)
    except DeviceError as error:
        _refuse(error, settings.store)


def weigh(settings: Settings) -> bytes:
    """Hash every file of the model that would be served; return its digest. Raises StartFailure where one differs."""
    folder = find_model(settings)
    try:
        manifest = read_manifest(folder)
        refuse_code(folder)
        check_names_and_sizes(folder, manifest)
        check_hashes(folder, manifest)
    except DeviceError as error:
        _refuse(error, str(folder))
    return manifest.digest()


def _folder(settings: Settings) -> Path:
    """Return the model's folder: a path as given, a name from the store, or the store's default."""
    if (path := Path(settings.model)).is_dir() and settings.model:
        return path
    if path.is_absolute() or len(path.parts) > 1:
        raise StartFailure(f"there is no model folder {path}")
    if not settings.store:
        words = "this user has no home, and so no model store: name one with --store, model.store or HYBRID_MODELS"
        raise StartFailure(words, CONFIG_EXIT)
    store = Store(Path(settings.store))
    installed = store.get(settings.model) if settings.model else store.default(is_mac=sys.platform == "darwin")
    if installed is None:
        raise StartFailure(f"no model is in the store {settings.store} yet; {_fetch('starter', settings.store)}")
    _check_pinned(installed.entry)
    return installed.path


def _check_pinned(entry: Entry) -> None:
    """Refuse bytes nobody has vouched for: a node says in its evidence which model it runs."""
    if entry.source.kind == "hub" and not entry.pinned:
        raise StartFailure(f"{entry.id} is pinned to no digest; record the one you have with: hybrid pull {entry.id}")


def _refuse(error: DeviceError, where: str) -> NoReturn:
    if isinstance(error, ModelMissing):
        raise StartFailure(f"{error} {where}; {_fetch(error.model_id, where)}") from None
    if isinstance(error, UnknownModel):
        hint = "" if error.nearest else "; see what there is with: hybrid list"
        raise StartFailure(f"{error}{hint}", CONFIG_EXIT) from None
    if isinstance(error, ModelDamaged):
        raise StartFailure(f"{where} is no model folder that can be used: {error}; see: hybrid list") from None
    raise StartFailure(str(error)) from None


def _fetch(model_id: str, store: str) -> str:
    """Say how a model gets into a store, whosever it is."""
    return f"fetch it with: HYBRID_MODELS={store} hybrid pull {model_id}"


class _Stateless:
    """MLXEngine with its errors in the node's words."""

    def __init__(self, engine: MLXEngine) -> None:
        self._engine = engine
        self.model_id = engine.model_id
        self.context_size = engine.context_size

    async def generate(self, request: GenerateRequest, *, partition: str = NOTHING_KEPT) -> AsyncIterator[Chunk]:
        """Stream the answer; without a partition nothing of it is kept. Raises Sealed."""
        with _in_our_words():
            chunks = self._engine.generate(request, partition=partition)
            async with contextlib.aclosing(chunks) as running:  # type: ignore[type-var]
                async for chunk in running:
                    yield chunk

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the framed prompt. Raises Sealed."""
        with _in_our_words():
            return await self._engine.count_tokens(request)

    async def close(self) -> None:
        """Free the model."""
        await self._engine.close()


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except ContextOverflow as error:
        raise Sealed(SealedCode.CONTEXT_LENGTH, error.limit, error.needed) from None
    except DeviceError as error:
        raise Sealed(_CODES.get(type(error), SealedCode.ENGINE_FAILED)) from None
