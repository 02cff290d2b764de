"""One private SQLite file that several processes share, and what goes wrong with it in words of our own.

Write-ahead journal, so that readers and writers do not wait for each other; deleted content is overwritten. A power
failure may cost the last rows, never the file.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .errors import ConfigurationError
from .state import PRIVATE_FILE, make_private

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS,
}
PRIMARY = 0xFF  # the lower byte of an extended result code
OTHERS = 0o077
BESIDE = ("", "-wal", "-shm", "-journal")

T = TypeVar("T")


class Busy(ConfigurationError):
    """Another process holds the file and did not let go in time; nothing changed."""


class Unreadable(ConfigurationError):
    """The file is damaged, or none of ours; it is left as it is."""


class Database:
    """A connection that opens when it is first used. Callers see to it that one thread at a time uses it.

    Before a fork it closes, and opens again in parent and child when it is next used.
    path: None keeps everything in memory.  tables: the statements that make an empty file ours.
    mark, version: told apart by; a file with others is refused.  remedy: a sentence for people whose file is damaged.
    turn: held while it works.
    """

    def __init__(self, path: Path | None, *, tables: Sequence[str], mark: int, version: int, remedy: str) -> None:
        self.path = path
        self._tables, self._mark, self._version, self._remedy = tables, mark, version, remedy
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._pid = os.getpid()
        self._parents: list[sqlite3.Connection] = []
        self.turn = threading.RLock()
        with _known:
            _all.add(self)

    @property
    def exists(self) -> bool:
        """Whether there is anything to read."""
        return self._db is not None or (self.path is not None and self.path.exists())

    def run(self, work: Callable[[sqlite3.Connection], T], *, patience_s: float, reads: bool = False) -> T:
        """Do something in one transaction, all or nothing. reads: it changes nothing.

        Raises Busy after ``patience_s`` seconds, Unreadable, ConfigurationError for a file that can't be written.
        """
        try:
            with self.turn:
                return self._run(work, patience_s, "BEGIN" if reads else "BEGIN IMMEDIATE")
        except (sqlite3.Error, OSError, ValueError) as error:
            told = self._told(error)
            if not isinstance(told, Busy):
                self.close()
            raise told from None

    def scrub(self) -> None:
        """Let nothing that was deleted stay in the journal; where another process reads, the next call does it."""
        with self.turn, contextlib.suppress(sqlite3.Error):
            if self._db is not None:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Let the file go. Calling it again is harmless."""
        with self.turn:
            db, self._db = self._db, None
        if db is None:
            return
        if self._pid != os.getpid():
            self._parents.append(db)  # of a fork that Python was not told of: closing it would disturb that process
            return
        with contextlib.suppress(sqlite3.Error):
            db.close()

    def unlink(self) -> None:
        """Remove the file and what lies beside it. Raises ConfigurationError."""
        self.close()
        if self.path is None:
            return
        try:
            for suffix in BESIDE:
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise self._told(error) from None

    # --- inside ---

    def _run(self, work: Callable[[sqlite3.Connection], T], patience_s: float, begin: str) -> T:
        if self._db is not None and (self._pid != os.getpid() or self._file != self._found()):
            self.close()  # after a fork, or when somebody removed the file
        db = self._db or self._open(patience_s)
        db.execute(f"PRAGMA busy_timeout = {int(1000 * patience_s)}")
        db.execute(begin)
        try:
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        return result

    def _open(self, patience_s: float) -> sqlite3.Connection:
        if self.path is not None:
            make_private(self.path.parent)
            _keep_private(self.path)
        db = sqlite3.connect(self.path or ":memory:", timeout=patience_s, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA secure_delete = ON")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self._db, self._file, self._pid = db, self._found(), os.getpid()
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make an empty file ours; refuse one that is not."""
        if self._marks(db) == (0, 0):
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            if self._marks(db) == (0, 0):  # nobody else was faster
                for statement in self._tables:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {self._mark}")
                db.execute(f"PRAGMA user_version = {self._version}")
            db.execute("COMMIT")
        if self._marks(db) != (self._mark, self._version):
            raise ValueError("another version of hybrid wrote it, or another program")
        db.execute("PRAGMA synchronous = NORMAL")

    def _marks(self, db: sqlite3.Connection) -> tuple[int, int]:
        (mark,), (version,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        return mark, version

    def _found(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            status = self.path.stat()
        except OSError:
            return (0, 0)
        return status.st_dev, status.st_ino

    def _told(self, error: Exception) -> ConfigurationError:
        """Say in our words what SQLite or the system said. Their messages hold no values."""
        if isinstance(error, OSError):
            return self._unwritable(error.strerror or type(error).__name__)
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY
        if code in BUSY:
            return Busy(f"{self.path} is in use by another process", hint="try again in a moment")
        if code in UNWRITABLE:
            return self._unwritable(str(error))
        why = str(error) if isinstance(error, sqlite3.Error) or not error.args else error.args[0]
        return Unreadable(f"{self.path} cannot be read: {why}", hint=self._remedy)

    def _unwritable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path} cannot be used: {why}",
            hint="make that folder writable and the disk less full, or name another one with state= or HYBRID_STATE",
        )


def _keep_private(path: Path) -> None:
    """Make the file when it is missing, readable by its owner alone; one that others may read is closed to them.

    An existing one is never opened here: closing any descriptor of a file drops every lock that this process has on it,
    those of another connection too (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    except FileExistsError:
        if path.stat().st_mode & OTHERS:
            path.chmod(PRIVATE_FILE)


# --- over a fork -----------------------------------------------------------------------------------------------------

_all: "weakref.WeakSet[Database]" = weakref.WeakSet()
_known = threading.RLock()
_forking: list[Database] = []


def _before_fork() -> None:
    """Let every file go: SQLite in the child would believe in locks that only its parent has (howtocorrupt, 2.6)."""
    _known.acquire()
    _forking[:] = [database for database in _all if database.path is not None]
    for database in _forking:
        database.turn.acquire()
        database.close()


def _after_fork() -> None:
    for database in _forking:
        database.turn.release()
    _forking.clear()
    _known.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
