"""A finished model folder becomes a described one: its configuration read, its files listed and hashed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .catalog import Entry
from .errors import ModelDamaged
from .manifest import NAME, FileFact, Manifest, list_files, refuse_code, sha256_file


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
    """Return the model's own limit in tokens, from a parsed ``config.json``."""
    flat = {**config, **config.get("text_config", {})}
    return int(flat.get("max_position_embeddings") or 2048)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json``. Raises ModelDamaged when there is no such model in the folder."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelDamaged("config.json", "is missing or not JSON") from error
    if not isinstance(config, dict) or not any(folder.glob("model*.safetensors")):
        raise ModelDamaged("config.json", "does not describe a model with weights in safetensors")
    return config


def _stop_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Ids that end a turn, from both places where Hugging Face folders keep them."""
    generation = folder / "generation_config.json"
    values = [config.get("eos_token_id")]
    if generation.exists():
        values.append(json.loads(generation.read_bytes()).get("eos_token_id"))
    flat = [i for value in values for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
    return tuple(dict.fromkeys(flat))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``."""
    (folder / NAME).write_bytes(manifest.encode())
