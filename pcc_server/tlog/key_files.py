"""Private note keys in files: one line ``PRIVATE+KEY+name+hash+base64(type, seed)``, as Go's note package writes it."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.errors import WireError
from hybrid.wire.note import NoteSigner

from .errors import LogError
from .store import SECRET_FILE, Store

Signer: TypeAlias = NoteSigner | CosignatureSigner

# What a key is for -> how one is made. A witness signs with ML-DSA-44 unless somebody needs the older kind.
KINDS: dict[str, Callable[[str], Signer]] = {
    "signer": NoteSigner.generate,
    "witness": lambda name: CosignatureSigner.generate(name, "ml-dsa-44"),
    "witness-ed25519": lambda name: CosignatureSigner.generate(name, "ed25519"),
}


def make_key(path: Path, name: str, kind: str = "signer") -> Signer:
    """Make a key and write its file, mode 0600, never over another. kind: of ``KINDS``. Raises LogError."""
    if path.exists():
        raise LogError(f"{path} exists; a key is never written over")
    try:
        signer = KINDS[kind](name)
    except WireError as error:
        raise LogError(f"a key cannot be named {name!r}: {error}") from None
    Store(path.parent).write(path.name, f"{signer.secret()}\n".encode(), SECRET_FILE)
    return signer


def read_signer(path: Path) -> NoteSigner:
    """Read the key of a log or of a role. Raises LogError, also when others may read the file."""
    line = _read_line(path)
    try:
        return NoteSigner.parse(line)
    except WireError as error:
        raise LogError(f"{path} holds no key that signs logs and entries: {error}") from None


def read_witness_key(path: Path) -> CosignatureSigner:
    """Read the key of a witness. Raises LogError, also when others may read the file."""
    line = _read_line(path)
    try:
        return CosignatureSigner.parse(line)
    except WireError as error:
        raise LogError(f"{path} holds no witness's key: {error}") from None


def read_key(path: Path) -> Signer:
    """Read a key of any kind. Raises LogError, also when others may read the file."""
    try:
        return read_signer(path)
    except LogError:
        return read_witness_key(path)


def _read_line(path: Path) -> str:
    try:
        mode, text = path.stat().st_mode, path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise LogError(f"cannot read the key file {path}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LogError(f"{path} can be read by others; run: chmod 600 {path}")
    return text.removesuffix("\n")
