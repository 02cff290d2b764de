"""Reads the state of a machine below a root folder, so that a tree of files can stand for any machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from .report import Unseen


class Machine:
    """A machine's files. root: ``/``, or a tree that looks like it."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def here(self) -> bool:
        """Whether it is the machine this program runs on."""
        return self.root == Path("/")

    def text(self, path: str) -> str | None:
        """Return a file's text without blanks around it, None where there is no such file. Raises Unseen."""
        data = self.data(path)
        return None if data is None else data.decode("utf-8", "replace").strip()

    def data(self, path: str) -> bytes | None:
        """Return a file's bytes, None where there is no such file. Raises Unseen."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unseen(path, error) from None

    def need(self, path: str) -> str:
        """Return a file's text. Raises Unseen where there is none."""
        if (found := self.text(path)) is None:
            raise Unseen(f"/{path} is missing here")
        return found

    def names(self, path: str) -> list[str]:
        """Return what lies in a folder. Raises Unseen."""
        try:
            return sorted(os.listdir(self.root / path))  # noqa: PTH208 - names are wanted
        except OSError as error:
            raise _unseen(path, error) from None

    def link(self, path: str) -> str:
        """Return where a symbolic link points to; empty where there is none. Raises Unseen."""
        try:
            return os.readlink(self.root / path)  # noqa: PTH115 - text, not a path
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise _unseen(path, error) from None

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file. Raises Unseen."""
        try:
            (self.root / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unseen(path, error) from None
        return True

    def fields(self, path: str) -> dict[str, str]:
        """Return the lines ``Name: value`` of a file. Raises Unseen."""
        pairs = (line.partition(":") for line in self.need(path).splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    def pids(self) -> Iterator[int]:
        """Yield the ids of all processes that can be seen. Raises Unseen."""
        yield from (int(name) for name in self.names("proc") if name.isdigit())


def _unseen(path: str, error: OSError) -> Unseen:
    if isinstance(error, PermissionError):
        return Unseen(f"/{path} may not be read by this user: run the audit as root")
    return Unseen(f"/{path} cannot be read: {error.strerror}")
