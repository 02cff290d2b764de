"""The folder in which a client remembers: newest checkpoints, receipts, shares of nodes. Never content.

Files are private to their owner and replaced whole, so that a crash leaves the old one or the new one.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ConfigurationError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


def default_folder() -> Path:
    """Where this platform keeps what programs remember."""
    import platformdirs

    return platformdirs.user_state_path("hybrid-pcc")


def write_private(path: Path, data: bytes) -> None:
    """Replace a file whole, readable by its owner alone; its folder is made when missing.

    Raises ConfigurationError naming the folder when it can't be written.
    """
    try:
        make_private(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path.parent, error) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time read, change and replace a file. Raises ConfigurationError when it can't be locked."""
    try:
        make_private(path.parent)
        handle = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing; ``Path.mkdir`` would leave the latter open to others."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def _unwritable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{folder} cannot be written: {error.strerror or type(error).__name__}",
        hint="make that folder writable, or name another one with state=, HYBRID_STATE or the key state",
    )


def read_json(path: Path) -> Any:
    """Return the JSON of one of our own files, None where there is none.

    Raises ConfigurationError for one that can't be read: what was remembered must not be forgotten silently.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        raise ConfigurationError(f"{path} cannot be read", hint="look at the file; removing it forgets it") from None


def write_json(path: Path, value: Any) -> None:
    """Replace one of our own files. Raises ConfigurationError."""
    write_private(path, json.dumps(value, indent=1, sort_keys=True).encode("ascii"))
