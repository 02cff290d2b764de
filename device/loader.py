"""A model folder becomes a model and a tokenizer: checked, fitted, then loaded; on CPU as f32 where memory allows.

Nothing in the folder is run. Call it on the thread that will own the model.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from . import fit, runtime
from .errors import BadRequest, DoesNotFit, EngineFailed, ModelDamaged
from .manifest import Manifest, check_hashes, check_names_and_sizes, read_manifest, refuse_code
from .memory import room_bytes

Weights = Literal["packed", "f32"]

DEFAULT_CONTEXT = 8192  # where neither manifest nor model says less; longer contexts are asked for
F32_SCALES = 1.2  # packed weights grow by about so much when their 16-bit scales become f32 (98 to 115 MB measured)
F32, F16 = 4, 2  # bytes of one number
_TOKENIZERS_WITHOUT_CACHE = ("WordPiece", "WordLevel")  # of the tokenizers library; BPE and Unigram have one


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be loaded and why it fits; made before a weight byte is read.

    weights_bytes: as they will lie in memory.  kv_token_bytes: of the cache, per token.
    prefix_bytes: what finished conversations may keep.  kv_budget_bytes: what running requests may take.
    room_bytes: what this machine can give the process.
    """

    weights: Weights
    weights_bytes: int
    kv_token_bytes: int
    context_tokens: int
    prefix_bytes: int
    kv_budget_bytes: int
    room_bytes: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model in memory. Only the thread that loaded it may touch ``model``."""

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    manifest: Manifest
    plan: Plan


def plan(folder: Path, *, context_tokens: int | None, cpu: bool, force: bool, room: int | None = None) -> Plan:
    """Decide form and context from the folder's configuration and sizes.

    context_tokens: what the caller wants at most.  cpu: no accelerator computes.  room: bytes; measured when None.
    Raises DoesNotFit with the arithmetic, ModelDamaged for a configuration that cannot be read.
    """
    manifest, config = read_manifest(folder), _config(folder)
    shape = _shape(config)
    room = room_bytes(device_limit=_device_limit()) if room is None else room
    context = _context(shape, manifest, context_tokens)
    packed = sum(fact.size for name, fact in manifest.files.items() if name.endswith(".safetensors"))
    accept = partial(_accept, manifest.id, context=context, room=room, force=force)
    if not cpu:
        return accept("packed", packed, kv_token=shape.kv_token_bytes(F16), note="")
    kv_token = shape.kv_token_bytes(F32)
    wide = fit.f32_bytes(shape.params, packed)
    if not _is_packed(config):
        return accept("f32", wide, kv_token=kv_token, note="weights as f32")
    wide_fit = fit.fits(
        model_id=manifest.id,
        weights_bytes=wide + packed,
        kv_token_bytes=kv_token,
        context_tokens=context,
        room_bytes=room,
    )
    if wide_fit.verdict == "fits":
        narrow = f"packed they would take {packed * F32_SCALES / 1e6:.0f} MB and be slower"
        note = f"weights as f32 ({wide / 1e6:.0f} MB); {narrow}"
        return accept("f32", wide, kv_token=kv_token, note=note)
    note = f"weights packed with f32 scales; as f32 they would be faster but take {wide / 1e6:.0f} MB"
    return accept("packed", int(packed * F32_SCALES), kv_token=kv_token, note=note)


def load(
    folder: Path, plan: Plan, *, check_contents: bool, report: Callable[[str, int], None] = lambda _phase, _pct: None
) -> Loaded:
    """Load what the plan says. check_contents: hash every file first. report: told each phase and its percents.

    Raises ModelDamaged naming the file for anything that is not plain data or not what the manifest lists.
    """
    report("verify", 0)
    manifest = read_manifest(folder)
    refuse_code(folder)
    check_names_and_sizes(folder, manifest)
    if check_contents:
        check_hashes(folder, manifest, report=_percents(manifest, lambda pct: report("verify", pct)))
    report("weights", 0)
    utils = runtime.mlx_lm("utils")
    model, config = utils.load_model(folder, lazy=True, trust_remote_code=False)
    if runtime.describe().path.startswith("cpu"):
        _to_f32(model)
        if plan.weights == "f32":
            _unpack(model)
    runtime.mlx().eval(model.parameters())
    report("tokenizer", 0)
    tokenizer = utils.load_tokenizer(folder, eos_token_ids=_stop_ids(config, manifest))
    return Loaded(model=model, tokenizer=tokenizer, manifest=manifest, plan=plan)


def keep_no_words(tokenizer: Any) -> None:
    """Switch off the cache in which a tokenizer keeps the words it has seen; encoding takes a fifth longer without.

    Raises EngineFailed where that cannot be done.
    """
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if type(model).__name__ in _TOKENIZERS_WITHOUT_CACHE:
        return
    resize = getattr(model, "_resize_cache", None)
    if resize is None:
        kind = f"{type(tokenizer).__name__}/{type(model).__name__}"
        raise EngineFailed(
            f"this model's tokenizer ({kind}) may keep words of past requests and offers no way to switch that off; "
            f"a node needs another model, or the release of the tokenizers library that hybrid-pcc was tested with"
        )
    resize(0)


def _percents(manifest: Manifest, told: Callable[[int], None]) -> Callable[[int], None]:
    """Turn bytes done, piece by piece, into whole percents, each told once."""
    done, total = 0, manifest.size_bytes()

    def add(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done * 100 // total > before * 100 // total:
            told(done * 100 // total)

    return add


def vocabulary(loaded: Loaded) -> int:
    """Count the ids the model knows: rows of its embedding table, padding included."""
    config = getattr(loaded.model, "args", None)
    return int(getattr(config, "vocab_size", 0)) or len(loaded.tokenizer)


def _accept(
    model_id: str,
    weights: Weights,
    weights_bytes: int,
    *,
    kv_token: int,
    context: int,
    room: int,
    force: bool,
    note: str,
) -> Plan:
    """Shrink the context to what fits, but refuse below one cache step."""
    answer = fit.fits(
        model_id=model_id,
        weights_bytes=weights_bytes,
        kv_token_bytes=kv_token,
        context_tokens=context,
        room_bytes=room,
        force=force,
    )
    mark = int((fit.HARD if force else fit.SOFT) * room)
    if answer.verdict == "refused":
        wanted = fit.need(weights_bytes=weights_bytes, kv_token_bytes=kv_token, context_tokens=context)
        most = fit.most_context(wanted, mark, rows=1, kv_token_bytes=kv_token)
        if most < min(context, MIN_CONTEXT):
            raise DoesNotFit(answer.text)
        note = f"{note}; context cut from {context:,} to {most:,} tokens by memory".lstrip("; ")
        context = most
    prefix = fit.prefix_bytes(room_bytes=room, weights_bytes=weights_bytes)
    fixed = fit.need(weights_bytes=weights_bytes, kv_token_bytes=kv_token, context_tokens=0, prefix=prefix).total
    one_row = fit.kv_bytes(rows=1, tokens=context, kv_token_bytes=kv_token)
    return Plan(
        weights=weights,
        weights_bytes=weights_bytes,
        kv_token_bytes=kv_token,
        context_tokens=context,
        prefix_bytes=prefix,
        kv_budget_bytes=max(one_row, mark - fixed),
        room_bytes=room,
        note=note,
    )


MIN_CONTEXT = 1024  # less than this is no use for a conversation: better a clear refusal


def _context(shape: fit.Shape, manifest: Manifest, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise BadRequest("context_tokens must be at least 1")
    limits = [shape.context_tokens, manifest.context_tokens or DEFAULT_CONTEXT]
    return min([*limits, wanted] if wanted else limits)


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelDamaged("config.json", "missing or not JSON") from error
    if not isinstance(value, dict):
        raise ModelDamaged("config.json", "is not an object")
    return value


def _shape(config: dict[str, Any]) -> fit.Shape:
    try:
        return fit.shape_of(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelDamaged("config.json", "does not describe a language model") from error


def _is_packed(config: dict[str, Any]) -> bool:
    return bool(config.get("quantization") or config.get("quantization_config"))


def _device_limit() -> int | None:
    limit = runtime.mlx().device_info().get("max_recommended_working_set_size")
    return int(limit) if limit else None


def _stop_ids(config: dict[str, Any], manifest: Manifest) -> list[int]:
    named = config.get("eos_token_id")
    ids = [named] if isinstance(named, int) else list(named or ())
    return sorted({*ids, *manifest.stop_ids})


def _to_f32(model: Any) -> None:
    """Make every floating parameter f32, scales included: 16-bit arithmetic is emulated on most processors."""
    core = runtime.mlx()
    model.set_dtype(core.float32)


def _unpack(model: Any) -> None:
    """Replace packed layers by f32 ones; both forms lie in memory until the caller evaluates, as the plan counts."""
    utils = runtime.mlx_lm("utils")
    utils.dequantize_model(model)
