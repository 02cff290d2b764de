"""The models on this machine: pull, verify, list, remove. Downloads start here and nowhere else in the product.

A model is built in a staging folder and appears under its own name by one rename, complete and verified; a cut,
a kill or a full disk leaves staging behind, never a half model. One process writes at a time.
Whether a model fits in memory is the caller's question (``device.fit``); this file answers for disk and bytes.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from . import hub, wheel
from .catalog import MAC_DEFAULT, STARTER, Catalog, Entry, catalog, is_name
from .errors import BadSource, DeviceError, FetchFailed, ModelDamaged, ModelMissing, UnknownModel
from .folder import context_of, describe, entry_of, own_entry, read_config, write_manifest
from .lock import writing
from .manifest import NAME, Manifest, check_hashes, check_names_and_sizes, read_manifest, refuse_code
from .pins import Pins
from .progress import Fetch, Progress
from .seen import Seen, marks_of
from .staging import FOLDER, Free, Staging, disk_errors, erase, store_errors, sync

__all__ = ["Installed", "Progress", "Store"]

FETCHES: Mapping[str, Fetch] = MappingProxyType({"wheel": wheel.fetch, "hub": hub.fetch})
_REFERENCE = ".folder"  # a file of this ending holds the path of a folder that is used where it lies
_TRASH = "trash@"  # before the name of what was replaced or removed and is about to be deleted


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
        self._pins = Pins(self.root / "models.lock")

    @property
    def known(self) -> Catalog:
        """The catalogue, with the user's own ``catalog.toml`` beside the models, and what ``record`` pinned.

        Raises BadSource when one of these files is damaged.
        """
        listed = self._known if self._known is not None else catalog(self.root / "catalog.toml")
        return Catalog(entries=self._pins.applied(listed.entries))

    def get(self, name: str) -> Installed:
        """Return the model of this id, alias or own name, as it lies in the store; ``verify`` checks its bytes.

        Raises UnknownModel, ModelMissing, or ModelDamaged when its folder holds no manifest.
        """
        with store_errors(self.root):
            entry = self._named(name)
            if not self._folder(entry.id).is_dir():
                raise ModelMissing(entry.id, entry.download_bytes or None)
            return self._installed(entry)

    def list(self) -> list[Installed]:
        """Return every model with a readable manifest, by id."""
        found = []
        with store_errors(self.root):
            for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
                name = path.name.removesuffix(_REFERENCE)
                if is_name(name) and self._folder(name).is_dir():
                    with contextlib.suppress(ModelDamaged):
                        found.append(self._installed(self._named(name)))
        return found

    def default(self, is_mac: bool) -> Installed | None:
        """Return the model used when none is named, None if there is none to chat with.

        On a Mac the recommended one, then the starter; elsewhere the starter only where no other was pulled.
        """
        chat = {model.entry.id: model for model in self.list() if model.entry.role == "chat"}
        rest = [name for name in chat if name not in (MAC_DEFAULT, STARTER)]
        order = (MAC_DEFAULT, STARTER, *rest) if is_mac else (MAC_DEFAULT, *rest, STARTER)
        return next((chat[name] for name in order if name in chat), None)

    def verify(self, installed: Installed, *, full: bool = False) -> None:
        """Check that the folder is what its manifest and the catalogue say; call it before loading.

        Names, sizes and the absence of code always; hashes on the first load after a file was touched, or with
        ``full``. Raises ModelDamaged naming the file.
        """
        manifest, entry = installed.manifest, installed.entry
        if entry.pinned and installed.manifest_digest.hex() != entry.digest:
            raise ModelDamaged(NAME, "describes another model than the one that is pinned")
        try:
            check_names_and_sizes(installed.path, manifest)
            refuse_code(installed.path)
            marks = marks_of(installed.path, manifest)
            if full or not self._seen.holds(installed.path, marks):
                check_hashes(installed.path, manifest)
                self._seen.remember(installed.path, marks)
        except OSError as error:  # unreadable, or removed meanwhile
            name = Path(error.filename).name if isinstance(error.filename, str) else entry.id
            raise ModelDamaged(name, f"cannot be read: {error.strerror}") from error

    def pull(
        self, entry: Entry, *, progress: Callable[[Progress], None] | None = None, force: bool = False
    ) -> Installed:
        """Fetch, check and install ``entry``; return at once when it is already there and whole.

        force: fetch again even so. Raises DiskFull before any byte is fetched, FetchFailed with the cause, and
        ModelDamaged naming the file that is not what the catalogue says, or the model that is not what was recorded.
        """
        (entry,) = self._pins.applied([entry])
        if not force and (present := self._whole(entry)):
            return present  # also where the store can only be read
        tell = progress or (lambda _: None)

        def report(phase: str, done: int, total: int) -> None:
            tell(Progress(phase=phase, done_bytes=done, total_bytes=total))

        with self._writing(lambda: report("wait", 0, 0)), disk_errors(self.root, entry, self._free):
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
        force: replace a model of that name. Raises ModelDamaged for code or missing parts, BadSource for a name that
        is taken or cannot be used.
        """
        folder = folder.resolve()
        entry = own_entry(name, folder, licence, context_of(read_config(folder)))
        with self._writing(lambda: None), disk_errors(self.root, entry, self._free):
            self._check_free(name, folder, force=force)
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
        """Delete a model, a damaged one too; of a referenced folder only the reference.

        What ``record`` kept stays. Raises UnknownModel or ModelMissing.
        """
        try:
            entry = self._named(name)
        except ModelDamaged:  # one of the user's own: it goes by the name of its folder
            entry = own_entry(name, self._folder(name), "unknown", 0)
        if not self._taken(entry.id):
            raise ModelMissing(entry.id, entry.download_bytes or None)
        with self._writing(lambda: None):
            erase(self._aside(entry.id))

    def record(self, installed: Installed) -> Installed:
        """Pin an unpinned model of the hub to the bytes that are there; ask the user first, showing source and digest.

        Returns it pinned. Raises ModelDamaged when they are not what the manifest says, TypeError if not of a hub.
        """
        self.verify(installed, full=True)
        with self._writing(lambda: None):
            self._pins.record(installed.entry, installed.manifest.source, installed.manifest_digest)
        return self.get(installed.entry.id)

    @contextlib.contextmanager
    def _writing(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the store's lock, and delete what a killed run left on its way to being deleted."""
        with store_errors(self.root), writing(self.root / ".lock", waiting):
            for trash in (self.root / FOLDER).glob(f"{_TRASH}*"):
                erase(trash)
            yield

    def _check_free(self, name: str, folder: Path, *, force: bool) -> None:
        if not is_name(name):
            raise BadSource(str(folder), f"{name!r} cannot be the name of a model")
        if any(name.casefold() in (entry.id, *entry.aliases) for entry in self.known.entries):
            raise BadSource(str(folder), f"the name {name!r} belongs to a model of the catalogue; rename the folder")
        if not force and self._taken(name):
            raise BadSource(str(folder), f"the store already has a model named {name!r}")

    def _named(self, name: str) -> Entry:
        """Return the catalogue's entry of this name, or one made from the manifest of the user's own model."""
        try:
            return self.known.find(name)
        except UnknownModel:
            if not is_name(name) or not self._taken(name):
                raise
        return entry_of(name, read_manifest(self._folder(name)), self._folder(name))

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
        return Path(os.fsdecode(reference.read_bytes().rstrip(b"\n"))) if reference.is_file() else self.root / name

    def _taken(self, name: str) -> bool:
        return os.path.lexists(self.root / name) or (self.root / f"{name}{_REFERENCE}").exists()

    def _publish(self, finished: Path, name: str, manifest: Manifest) -> None:
        """Give the finished folder its name; only then is what had that name before deleted."""
        marks = marks_of(finished, manifest)
        old = self._aside(name)
        finished.rename(self.root / name)
        sync(self.root)
        self._seen.remember(self.root / name, marks)
        erase(old)

    def _refer(self, name: str, folder: Path) -> None:
        part = self.root / FOLDER / f"{name}{_REFERENCE}"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(os.fsencode(folder) + b"\n")
        sync(part)
        old = self._aside(name)
        part.rename(self.root / f"{name}{_REFERENCE}")
        erase(old)

    def _aside(self, name: str) -> Path:
        """Take the name away from what has it, if anything, and return where that lies now."""
        self._seen.forget(self._folder(name))
        (self.root / f"{name}{_REFERENCE}").unlink(missing_ok=True)
        old, trash = self.root / name, self.root / FOLDER / f"{_TRASH}{name}"
        erase(trash)
        if os.path.lexists(old):
            trash.parent.mkdir(exist_ok=True)
            old.rename(trash)
        return trash


def _default_root() -> Path:
    import platformdirs

    root = platformdirs.user_cache_path("hybrid-pcc") / "models"
    if not root.is_absolute():  # no home folder to be found, and "~" would become a folder right here
        raise BadSource(str(root), "cannot be the model store: this user's home folder is not known")
    return root
