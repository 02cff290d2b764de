"""Private note keys in files: one line ``PRIVATE+KEY+name+hash+base64(type, seed)``, as Go's note package writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.errors import WireError
from hybrid.wire.note import NoteSigner
from pcc_server.secret_files import remedy

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
        found, text = path.stat(), path.read_text("utf-8")
    except OSError as error:
        raise LogError(f"cannot read the key file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LogError(f"{path} holds no key: it is no text") from None
    if command := remedy(path, found):
        raise LogError(f"{path} can be read by others; run: {command}")
    return text.removesuffix("\n")
