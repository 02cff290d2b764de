"""A finished model folder becomes a described one: its configuration read, its files listed and hashed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .catalog import Entry, FolderSource
from .errors import ModelDamaged
from .manifest import NAME, FileFact, Manifest, list_files, refuse_code, sha256_file

_SMALLEST_CONTEXT = 2048  # assumed where a model does not say


def describe(
    folder: Path, entry: Entry, *, source: str, converter: str, report: Callable[[int], None] | None = None
) -> Manifest:
    """Return the manifest of ``folder`` as it lies there, for the model ``entry``.

    report: told the bytes of each piece hashed. Raises ModelDamaged for code, symlinks, a file that is not there but
    must be, or a configuration that is not JSON.
    """
    refuse_code(folder)
    config = read_config(folder)
    paths = sorted(list_files(folder))
    files = {
        path: FileFact(size=(folder / path).stat().st_size, sha256=sha256_file(folder / path, report=report))
        for path in paths
    }
    return Manifest(
        id=entry.id,
        role=entry.role,
        licence=entry.licence,
        source=source,
        converter=converter,
        context_tokens=min(entry.context_tokens, context_of(config)),
        default_system=entry.default_system,
        sampling=entry.sampling,
        stop_ids=_stop_ids(folder, config),
        files=files,
    )


def context_of(config: dict[str, Any]) -> int:
    """Return the model's own limit in tokens, from a parsed ``config.json``. Raises ModelDamaged for nonsense."""
    inner = config.get("text_config")
    flat = {**config, **(inner if isinstance(inner, dict) else {})}
    tokens = flat.get("max_position_embeddings") or _SMALLEST_CONTEXT
    if not isinstance(tokens, int) or tokens < 1:
        raise ModelDamaged("config.json", "its max_position_embeddings is no number of tokens")
    return tokens


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json``. Raises ModelDamaged when there is no such model in the folder."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDamaged("config.json", "is missing or not JSON") from error
    if not isinstance(config, dict) or not any(folder.glob("model*.safetensors")):
        raise ModelDamaged("config.json", "does not describe a model with weights in safetensors")
    return config


def _stop_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Ids that end a turn, from both places where Hugging Face folders keep them."""
    generation = folder / "generation_config.json"
    values = [config.get("eos_token_id")]
    if generation.exists():
        read = json.loads(generation.read_bytes())  # JSON: ``refuse_code`` has parsed it
        values.append(read.get("eos_token_id") if isinstance(read, dict) else None)
    flat = [i for value in values for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
    return tuple(dict.fromkeys(flat))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``."""
    (folder / NAME).write_bytes(manifest.encode())


def own_entry(name: str, folder: Path, licence: str, context_tokens: int) -> Entry:
    """Return an entry for a model folder of the user's own."""
    return Entry(
        id=name,
        role="chat",
        title=name,
        source=FolderSource(path=str(folder)),
        licence=licence,
        params=0,
        context_tokens=context_tokens,
        kv_bytes_per_token=0,
        size_bytes=0,
    )


def entry_of(name: str, manifest: Manifest, folder: Path) -> Entry:
    """Return an entry for a model that the catalogue does not know, from its own manifest.

    name: of its folder in the store; the id in the manifest is words of a stranger and leads to no place.
    """
    own = own_entry(name, folder, manifest.licence, manifest.context_tokens)
    described = replace(own, role=manifest.role, sampling=manifest.sampling, default_system=manifest.default_system)
    return replace(described, size_bytes=manifest.size_bytes())
