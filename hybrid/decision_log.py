"""The decision log on disk: SQLite in the client's folder, private to its owner, kept 90 days. Never content.

Writing never harms an answer: it waits for nobody longer than `PATIENCE_S`, and what cannot be written stays in memory
and is tried again with the next row and at the end. Trouble is told once, as `DecisionLogWarning`, and to whoever asks
for `DecisionLog.trouble`. The log also keeps the one number of the budget controller. Routing design C7 and C9.
"""

import contextlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .database import Busy, Database, Unreadable
from .errors import ConfigurationError
from .routing.budget import COSTS, WINDOW, Budget, from_state, priced, realised, step, to_state
from .routing.log import COLUMNS, DecisionRecord, Outcome

FILE = "decisions.db"
DAYS = 90
VERSION = 1  # of the tables below
MARK = 0x68706364  # "hpcd"
PATIENCE_S, LAST_PATIENCE_S = 0.02, 2.0  # for another process that writes: beside an answer, and when nobody waits
MOST_PENDING = 1000  # rows that wait in memory while the file cannot be written
MOST_ROWS = 100_000  # some 25 MB; the oldest go first
MINUTE_S, DAY_S, MONTH_DAYS = 60, 86_400, 30
AGES = 1 << 62  # minutes

_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_MARKS = ", ".join(f":{name}" for name in COLUMNS)
_SETS = ", ".join(f'"{name}" = :{name}' for name in COLUMNS)
_TABLES = (
    f"CREATE TABLE decisions ({_NAMES}, PRIMARY KEY (id))",
    "CREATE TABLE state (name PRIMARY KEY, value)",
)
_INSERT = f"INSERT OR REPLACE INTO decisions ({_NAMES}) VALUES ({_MARKS})"  # noqa: S608 - our own names
_UPDATE = f"UPDATE decisions SET {_SETS} WHERE id = :id"  # noqa: S608 - our own names; keeps a row's place
_SELECT = f"SELECT {_NAMES} FROM decisions "  # noqa: S608 - our own names
_PURGE = "DELETE FROM decisions WHERE minute < ? OR rowid <= (SELECT MAX(rowid) FROM decisions) - ?"
_PAID = "SELECT money FROM decisions WHERE answered = 'private_cloud' AND money > 0 ORDER BY rowid DESC LIMIT ?"
_COUNTED = "SELECT COUNT(*), MIN(minute) FROM decisions WHERE eligible AND minute > ?"
_SENT = "SELECT route = 'private_cloud' FROM decisions WHERE eligible ORDER BY rowid DESC LIMIT ?"
_KEEP_STATE = "INSERT OR REPLACE INTO state VALUES ('budget', ?)"

T = TypeVar("T")


class DecisionLogWarning(UserWarning):
    """The decision log cannot be used just now; answers come all the same."""


def warn(trouble: ConfigurationError) -> None:
    """Warn that the log is in trouble; where warnings are errors, no answer fails for it either."""
    with contextlib.suppress(DecisionLogWarning):
        warnings.warn(f"{trouble}; {trouble.hint}", DecisionLogWarning, stacklevel=2)


class DecisionLog:
    """The decisions of one user, for any number of processes and threads.

    folder: where the file is kept, private; None keeps the rows for this process alone.  days: how long.
    now: Unix seconds.  on_trouble: told when the file cannot be used, once.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        days: int = DAYS,
        now: Callable[[], float] = time.time,
        on_trouble: Callable[[ConfigurationError], None] = warn,
    ) -> None:
        self.path = None if folder is None else folder / FILE
        self.trouble: ConfigurationError | None = None
        self.days = days
        self._now, self._on_trouble = now, on_trouble
        remedy = "hybrid logs --purge --all removes it and starts anew; until then no decision is logged"
        self._file = Database(self.path, tables=_TABLES, mark=MARK, version=VERSION, remedy=remedy)
        self._lock = threading.RLock()
        self._pending: dict[str, DecisionRecord] = {}
        self._t: str | None = None
        self._tidied: int | None = None

    # --- beside an answer: never raise, never wait for long -------------------------------------------------------

    def add(self, record: DecisionRecord) -> str:
        """Keep one decision, and return its id."""
        with self._lock:
            self._pending[record.id] = record
            self._flush(PATIENCE_S)
        return record.id

    def outcome(self, request_id: str, outcome: Outcome) -> bool:
        """Add what became of a decision; False where it is not in the log, or the log can't be used."""
        with self._lock:
            if not self._flush(PATIENCE_S) and (waiting := self._pending.get(request_id)):
                self._pending[request_id] = waiting.ended(outcome)
                return True
            return self._tried(lambda db: _end(db, request_id, outcome), PATIENCE_S) or False

    def budget(self, given: Budget) -> Budget:
        """Return a budget where the controller stands, at the costs of the last requests."""
        with self._lock:
            return self._seen(lambda db: self._budget(db, given)) or from_state(given, self._t)

    def share(self) -> float | None:
        """Return the share of the last `WINDOW` eligible requests that went to the node; None where none is known."""
        with self._lock:
            self._flush(PATIENCE_S)
            return self._seen(lambda db: realised([bool(row[0]) for row in db.execute(_SENT, (WINDOW,))]))

    def step(self, given: Budget, *, score: float, floor: float, sent: bool | None = None) -> Budget:
        """Let the controller take one step, alone with its number: see `routing.budget.step`."""

        def change(db: sqlite3.Connection) -> Budget:
            after = step(self._budget(db, given), score=score, floor=floor, sent=sent)
            db.execute(_KEEP_STATE, (to_state(after),))
            return after

        with self._lock:
            after = self._tried(change, PATIENCE_S)
            after = after or step(from_state(given, self._t), score=score, floor=floor, sent=sent)
            self._t = to_state(after)
            return after

    def close(self) -> None:
        """Write what still waits, and let the file go. Calling it again is harmless."""
        with self._lock:
            if not self._flush(LAST_PATIENCE_S):
                self._tell(self._lost(len(self._pending)))
            self._file.close()

    # --- for people and programs that look ------------------------------------------------------------------------

    def rows(self, since: float | None = None) -> list[DecisionRecord]:
        """Return the decisions since a Unix time, the oldest first.

        Raises ConfigurationError for a file that can't be read: what was kept must not be forgotten silently.
        """
        minute = int((since or 0.0) // MINUTE_S)
        return self._read(lambda db: _records(db, "WHERE minute >= ? ORDER BY minute, rowid", minute)) or []

    def standing(self, given: Budget) -> Budget:
        """Return what `budget` does, for somebody who looks. Raises ConfigurationError."""
        return self._read(lambda db: self._budget(db, given)) or given

    def purge(self, *, everything: bool = False) -> int:
        """Remove what is older than it should be, or everything with the budget's state; return how many rows went.

        They leave the file, too. ``everything`` also removes a file that can't be read. Raises ConfigurationError.
        """
        with self._lock:
            if everything:
                self._pending.clear()
                self._t = None
            if not self._file.exists:
                return 0
            try:
                gone = self._file.run(lambda db: self._remove(db, everything=everything), patience_s=LAST_PATIENCE_S)
            except Unreadable:
                if not everything:
                    raise
                self._file.unlink()
                return 0
            self._file.scrub()
            return gone

    # --- inside ---------------------------------------------------------------------------------------------------

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Read, after what waits was written; None where there is no log yet."""
        with self._lock:
            self._flush(LAST_PATIENCE_S)
            return self._file.run(work, patience_s=LAST_PATIENCE_S, reads=True) if self._file.exists else None

    def _flush(self, patience_s: float) -> bool:
        """Write what waits; whether nothing waits any more."""
        if not self._pending:
            return True
        rows = [record.to_row() for record in self._pending.values()]
        if self._tried(lambda db: db.executemany(_INSERT, rows), patience_s) is None:
            self._drop_oldest()
            return False
        self._pending.clear()
        self._tidy()
        return True

    def _drop_oldest(self) -> None:
        for oldest in list(self._pending)[:-MOST_PENDING]:
            self._tell(self._lost(1))
            del self._pending[oldest]

    def _lost(self, count: int) -> ConfigurationError:
        return self.trouble or ConfigurationError(
            f"{self.path} is held by another process; decisions could not be logged ({count})",
            hint="end the program that holds it",
        )

    def _tidy(self) -> None:
        """Once a day, let what is too old go."""
        day = int(self._now() // DAY_S)
        if self._tidied == day:
            return
        gone = self._tried(lambda db: self._remove(db, everything=False), PATIENCE_S)
        self._tidied = self._tidied if gone is None else day
        if gone:
            self._file.scrub()

    def _remove(self, db: sqlite3.Connection, *, everything: bool) -> int:
        oldest = int(self._now() - self.days * DAY_S) // MINUTE_S
        gone = db.execute(_PURGE, (AGES, 0) if everything else (oldest, MOST_ROWS)).rowcount
        if everything:
            db.execute("DELETE FROM state")
        return gone

    def _budget(self, db: sqlite3.Connection, given: Budget) -> Budget:
        kept = db.execute("SELECT value FROM state WHERE name = 'budget'").fetchone()
        budget = from_state(given, kept[0] if kept else None)
        return budget if budget.money_per_month is None else priced(budget, **self._costs(db))

    def _costs(self, db: sqlite3.Connection) -> dict[str, Any]:
        (mean,) = db.execute(f"SELECT AVG(money) FROM ({_PAID})", (COSTS,)).fetchone()  # noqa: S608 - our own words
        minute = int(self._now() // MINUTE_S)
        count, first = db.execute(_COUNTED, (minute - MONTH_DAYS * DAY_S // MINUTE_S,)).fetchone()
        days = max(1.0, (minute - first) * MINUTE_S / DAY_S) if count else 1.0
        return {"mean_cost": mean, "per_month": count * MONTH_DAYS / days}

    def _seen(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Read; None where there is no log yet, or it can't be read."""
        return self._tried(work, PATIENCE_S, reads=True) if self._file.exists else None

    def _tried(self, work: Callable[[sqlite3.Connection], T], patience_s: float, *, reads: bool = False) -> T | None:
        """Do something in one transaction; None where it failed. A file in another's hands is tried again later."""
        try:
            return self._file.run(work, patience_s=patience_s, reads=reads)
        except Busy:
            return None
        except ConfigurationError as error:
            self._tell(error)
            return None

    def _tell(self, trouble: ConfigurationError) -> None:
        if self.trouble is None:
            self.trouble = trouble
            self._on_trouble(trouble)


def _records(db: sqlite3.Connection, where: str, *args: object) -> list[DecisionRecord]:
    return [DecisionRecord.from_row(dict(row)) for row in db.execute(_SELECT + where, args)]


def _end(db: sqlite3.Connection, request_id: str, outcome: Outcome) -> bool:
    found = _records(db, "WHERE id = ?", request_id)
    for record in found:
        db.execute(_UPDATE, record.ended(outcome).to_row())
    return bool(found)
