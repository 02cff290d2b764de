"""What a model folder holds, down to each byte: ``manifest.json``, the model digest, and the checks before loading.

The digest names the model everywhere: SHA-256 of the canonical JSON of sorted ``[path, sha256, size]`` (SPEC 5).
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ModelDamaged

NAME = "manifest.json"
_PIECE = 1 << 20
# Formats that are programs or can start one, and weights of other libraries that nothing here reads.
_REFUSED = frozenset({".py", ".pyc", ".pyd", ".so", ".dylib", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5"})
_CODE_KEYS = ("model_file", "auto_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``. converter: what made the folder, such as ``gguf/1``, or ``none``."""

    id: str
    role: str
    licence: str
    source: str
    converter: str
    context_tokens: int
    files: Mapping[str, FileFact]
    default_system: str = field(default="", repr=False)
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop_ids: tuple[int, ...] = ()

    def digest(self) -> bytes:
        """Return the 32-byte model digest; it covers ``files`` and nothing else."""
        listed = sorted([path, fact.sha256, fact.size] for path, fact in self.files.items())
        return hashlib.sha256(canonical_json(listed)).digest()

    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(fact.size for fact in self.files.values())

    def encode(self) -> bytes:
        """Return the file's bytes: indented for people, keys sorted, with a checksum of all the rest in it."""
        names = ("id", "role", "licence", "source", "converter", "context_tokens", "default_system")
        value: dict[str, Any] = {name: getattr(self, name) for name in names}
        value["sampling"] = dict(self.sampling)
        value["stop_ids"] = list(self.stop_ids)
        value["files"] = {path: {"size": f.size, "sha256": f.sha256} for path, f in self.files.items()}
        value["digest"] = self.digest().hex()
        value["checksum"] = hashlib.sha256(canonical_json(value)).hexdigest()
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("ascii")


def canonical_json(value: Any) -> bytes:
    """Encode as ASCII with sorted keys and no spaces: one value, one byte string."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def read_manifest(folder: Path) -> Manifest:
    """Read ``folder/manifest.json``.

    Raises ModelDamaged when it is missing, is no manifest, names a path outside the folder, or is in any byte not
    what was written.
    """
    try:
        data = (folder / NAME).read_bytes()
        manifest = _decode(json.loads(data))
        same = manifest.encode() == data
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelDamaged(NAME, "is missing or not a manifest") from error
    if not same:
        raise ModelDamaged(NAME, "is not as it was written")
    return manifest


def _decode(value: dict[str, Any]) -> Manifest:
    files = {
        _inside(path): FileFact(size=int(f["size"]), sha256=str(f["sha256"])) for path, f in value["files"].items()
    }
    names = ("id", "role", "licence", "source", "converter", "default_system")
    return Manifest(
        **{name: str(value[name]) for name in names},
        context_tokens=int(value["context_tokens"]),
        sampling={str(k): float(v) for k, v in value["sampling"].items()},
        stop_ids=tuple(int(i) for i in value["stop_ids"]),
        files=files,
    )


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or str(parts) != path or "\\" in path:
        raise ModelDamaged(path, "is a path outside the model folder")
    return path


def sha256_file(path: Path, *, report: Callable[[int], None] | None = None) -> str:
    """Return the hex SHA-256 of a file. report: told the bytes of each piece read."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            state.update(piece)
            if report:
                report(len(piece))
    return state.hexdigest()


def list_files(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file under ``folder`` but the manifest.

    Raises ModelDamaged for a symlink, for anything else that is no plain file or folder, and for what cannot be listed.
    """
    for base, folders, names in os.walk(folder, onerror=_unlisted):
        for name in [*folders, *names]:
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise ModelDamaged(relative, "is a symbolic link")
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise ModelDamaged(relative, "is no plain file")
            if relative != NAME:
                yield relative


def _unlisted(error: OSError) -> None:
    raise ModelDamaged(str(error.filename), f"cannot be listed: {error.strerror}") from error


def refuse_code(folder: Path) -> None:
    """Raise ModelDamaged, naming the file, if the folder holds or asks for code: loading must never run any."""
    for path in list_files(folder):
        if PurePosixPath(path).suffix.lower() in _REFUSED:
            raise ModelDamaged(path, "is a kind of file that can hold code; only safetensors, JSON and text are loaded")
        if path.endswith(".json"):
            _refuse_code_keys(folder, path)


def _refuse_code_keys(folder: Path, path: str) -> None:
    try:
        value = json.loads((folder / path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(path, "is not JSON") from error
    if isinstance(value, dict):
        for key in _CODE_KEYS:
            if value.get(key):
                raise ModelDamaged(path, f"asks for its own code with {key!r}")


def check_names_and_sizes(folder: Path, manifest: Manifest) -> None:
    """Compare the folder with its manifest, without reading contents.

    Raises ModelDamaged naming the file that is missing, not listed, or of another size.
    """
    present = set(list_files(folder))
    for path in sorted(present - set(manifest.files)):
        raise ModelDamaged(path, "is not listed in the manifest")
    for path, fact in manifest.files.items():
        if path not in present:
            raise ModelDamaged(path, "is missing")
        size = (folder / path).stat().st_size
        if size != fact.size:
            raise ModelDamaged(path, f"has {size} bytes, the manifest says {fact.size}")


def check_hashes(folder: Path, manifest: Manifest, *, report: Callable[[int], None] | None = None) -> None:
    """Hash every file. Raises ModelDamaged naming the first that differs."""
    for path, fact in manifest.files.items():
        if sha256_file(folder / path, report=report) != fact.sha256:
            raise ModelDamaged(path, "its contents are not what the manifest says")
