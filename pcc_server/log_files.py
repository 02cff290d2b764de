"""The transparency log's public folder as a server reads it: files by their one spelling, nothing else (SPEC 5)."""

from pathlib import Path

from hybrid.wire.constants import MAX_CHECKPOINT_BYTES, MAX_DIRECTORY_BYTES
from hybrid.wire.errors import Malformed
from hybrid.wire.note import Note
from hybrid.wire.tiles import CHECKPOINT_PATH, parse_path

from .errors import CONFIG_EXIT, StartFailure


def read_event_log(path: str) -> bytes:
    """Read the firmware's event log, whole; empty where no file is named. Raises StartFailure with exit code 2."""
    if not path:
        return b""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_DIRECTORY_BYTES + 1)
    except OSError as error:
        raise StartFailure(f"cannot read --event-log {path}: {error.strerror}", CONFIG_EXIT) from None
    if len(data) > MAX_DIRECTORY_BYTES:
        raise StartFailure(f"--event-log {path} is longer than {MAX_DIRECTORY_BYTES} bytes", CONFIG_EXIT)
    return data


class LogFolder:
    """Serves one folder; another program writes to it."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that has a checkpoint. Raises StartFailure with exit code 2."""
        self._folder = folder
        try:
            Note.parse(self.read(CHECKPOINT_PATH))
        except Malformed as error:
            raise StartFailure(
                f"--log {folder} holds no log: {error}; make one with: pcc-server log init {folder} --origin NAME",
                CONFIG_EXIT,
            ) from None

    def read(self, path: str) -> bytes:
        """Read one file. Raises Malformed for a path that no log has, and for a file that this one doesn't."""
        parse_path(path)  # digits, an x, dots of .p alone: no way out of the folder
        limit = MAX_CHECKPOINT_BYTES if path == CHECKPOINT_PATH else MAX_DIRECTORY_BYTES
        try:
            with (self._folder / path).open("rb") as file:
                data = file.read(limit + 1)
        except OSError:
            raise Malformed("the log has no such file") from None
        if not 0 < len(data) <= limit:
            raise Malformed("a file of the log is empty or too long")
        return data
