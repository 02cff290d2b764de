"""Where a model is built before anybody can see it: room, conversion, manifest, flush, and one rename at the end."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .catalog import Entry
from .errors import BadSource, DiskFull, ModelDamaged
from .folder import describe, write_manifest
from .manifest import Manifest, list_files
from .progress import Fetch, Job, Report

HEADROOM = 1.1  # free disk wanted beyond the bytes still to come
FOLDER = ".staging"
Free = Callable[[Path], int]  # free bytes of the disk under a path


class Staging:
    """The staging folder of one model under ``root``. What a killed run left in it is taken up or replaced."""

    def __init__(self, root: Path, entry: Entry, free: Free, report: Report) -> None:
        self._root = root
        self._entry = entry
        self._free = free
        self._report = report
        self.path = root / FOLDER / f"{entry.id}@{entry.revision.replace('/', '_')}"
        for other in self.path.parent.glob(f"{entry.id}@*"):
            if other != self.path:
                shutil.rmtree(other, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def job(self) -> Job:
        """What a source is given."""
        return Job(entry=self._entry, staging=self.path, report=self._report, room=self.room)

    def room(self, more: int) -> None:
        """Raise DiskFull unless ``more`` bytes and what is made of them fit on the disk with some headroom."""
        need, free = int(HEADROOM * more) + self._entry.scratch_bytes, self._free(self._root)
        if free < need:
            raise DiskFull(need, free)

    def fetch(self, fetch: Fetch) -> tuple[Path, Manifest]:
        """Fetch and finish the model. Returns the folder to publish, flushed to disk, and its manifest.

        Bytes that are wrong or do not fit are dropped at once; after any other failure the next run goes on.
        """
        try:
            self.room(max(0, self._entry.download_bytes - size_of(self.path)))
            return self._finish(fetch(self.job))
        except (ModelDamaged, DiskFull):
            self.drop()
            raise

    def copy(self, folder: Path) -> tuple[Path, Manifest]:
        """Copy a user's own folder and finish it; the result is as that of ``fetch``.

        Left behind: hidden files (``.git`` and the like), a manifest, rights and times.
        """
        paths = [path for path in list_files(folder) if not any(part.startswith(".") for part in Path(path).parts)]
        self.room(sum((folder / path).stat().st_size for path in paths))
        shutil.rmtree(self.job.raw, ignore_errors=True)
        for path in paths:
            target = self.job.raw / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, target)
        return self._finish(str(self._entry.source))

    def drop(self) -> None:
        """Remove the staging folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _finish(self, source: str) -> tuple[Path, Manifest]:
        folder, converter = self.job.raw, "none"
        if self._entry.convert == "gguf":
            folder, converter = self._converted()
        manifest = self._described(folder, source, converter)
        if self._entry.digest and manifest.digest().hex() != self._entry.digest:
            raise ModelDamaged(self._entry.id, "the finished folder has another digest than the catalogue says")
        write_manifest(folder, manifest)
        sync_tree(folder)
        return folder, manifest

    def _converted(self) -> tuple[Path, str]:
        from . import gguf

        out = self.path / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        file = self.job.raw / self._entry.files[0].to
        gguf.convert(file, out, report=lambda done, total: self._report("convert", done, total))
        return out, gguf.CONVERTER

    def _described(self, folder: Path, source: str, converter: str) -> Manifest:
        total, done = size_of(folder), 0

        def hashed(more: int) -> None:
            nonlocal done
            done += more
            self._report("verify", done, total)

        return describe(folder, self._entry, source=source, converter=converter, report=hashed)


def size_of(folder: Path) -> int:
    """Bytes of all files under ``folder``. Raises ModelDamaged for a symlink."""
    return sum((folder / path).stat().st_size for path in list_files(folder))


def sync_tree(folder: Path) -> None:
    """Flush every file and folder under ``folder`` to disk."""
    for base, _, names in os.walk(folder):
        for name in names:
            sync(Path(base, name))
        sync(Path(base))


def sync(path: Path) -> None:
    """Flush one file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(root: Path, entry: Entry, free: Free) -> Iterator[None]:
    """Turn the system's word for a full disk, wherever it comes up, into DiskFull with numbers; give the space back."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(root / FOLDER, ignore_errors=True)
        raise DiskFull(entry.download_bytes + entry.scratch_bytes, free(root)) from error


@contextlib.contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """Turn what the system refuses (rights, a read-only disk, a file in the way) into BadSource naming the store."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadSource(str(root), f"cannot be used as the model store: {reason}") from error


def erase(path: Path) -> None:
    """Remove whatever is called so: a folder with all it holds, a file, or a link but not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
