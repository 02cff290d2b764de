"""The questions a person chose to keep for learning: ``Client(learn="keep")``. Off unless asked for.

Each is sealed by itself with AES-256-GCM under a key in the system's keychain, in one private SQLite file; it expires
after 30 days. Nothing of a turn that must stay on the device is ever kept, and nothing here is sent anywhere.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .database import Database
from .keychain import Keychain
from .learning import EXAMPLES
from .routing.labels import Labels, strictest
from .wire.types import Route

FILE = EXAMPLES
KEPT_DAYS = 30
DAY_S = 86_400
MOST_EXAMPLES = 5_000
MOST_CHARS = 4_000  # what the router looks at, and as much of an answer as can be compared
NONCE_BYTES = 12
SIZE_STEP = 4096  # bytes; a sealed question is padded to a multiple, so that its size is no key to look it up by
BUSY_S = 5.0
_CONTEXT = b"hybrid-pcc example 1"
_TABLE = "CREATE TABLE examples (request_id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL, sealed BLOB NOT NULL)"
MARK, VERSION = 0x68706365, 1  # "hpce", and of the table
REMEDY = "hybrid eval retrain --forget deletes it; learn='off' does without"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One kept question.

    request_id: joins it to the decision log.  route: who answered.  text: what was asked, at most 4,000 characters.
    around: the named numbers of the conversation that a scorer may look at.  after: signals of the local answer.
    answer: the node's, to compare a local one with; None for an answer of the device.  agrees: whether the local model,
    asked again when idle, said the same; None while it was not asked.
    """

    request_id: str
    route: Route
    text: str = field(repr=False)
    around: dict[str, float] = field(default_factory=dict, repr=False)
    after: dict[str, float] | None = field(default=None, repr=False)
    answer: str | None = field(default=None, repr=False)
    agrees: bool | None = None


class ExampleStore:
    """The kept questions of one user. folder: the state folder.  keychain: where the key is; None is the system's."""

    def __init__(
        self,
        folder: Path,
        *,
        keychain: Keychain | None = None,
        now: Callable[[], float] = time.time,
        rng: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.path = folder / FILE
        account = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
        self._database = Database(self.path, tables=(_TABLE,), mark=MARK, version=VERSION, remedy=REMEDY)
        self._keychain = keychain or Keychain(f"examples {account}")
        self._now = now
        self._rng = rng

    def keep(self, example: Example, labels: Labels) -> bool:
        """Keep one example, or return False: the strictest label of its turn keeps it on the device, or it is too long.

        labels: every segment of the context that was answered; what a person let go was let go for that call alone.
        Raises UnavailableError without a keychain, ConfigurationError when the file can't be written.
        """
        too_long = max(len(example.text), len(example.answer or "")) > MOST_CHARS
        limit = strictest(segment.held_again().max_route for segment in labels.segments)
        if too_long or limit is not Route.PRIVATE_CLOUD:
            return False
        sealed = self._sealed(self._keychain.make(), example, int(self._now()) + KEPT_DAYS * DAY_S)

        def keep(rows: Connection) -> None:
            rows.execute("INSERT OR REPLACE INTO examples VALUES (?, ?, ?)", sealed)
            rows.execute(
                "DELETE FROM examples WHERE rowid NOT IN (SELECT rowid FROM examples ORDER BY rowid DESC LIMIT ?)",
                (MOST_EXAMPLES,),
            )

        self._run(keep)
        return True

    def note(self, example: Example) -> None:
        """Seal a kept example anew, with what was found out about it; its life stays as it was.

        One that is kept no more is not kept again. Raises as `keep`.
        """
        key, name = self._keychain.key(), example.request_id

        def note(rows: Connection) -> None:
            found = rows.execute("SELECT expires_at FROM examples WHERE request_id = ?", (name,)).fetchone()
            if found and key:
                _, _, sealed = self._sealed(key, example, found[0])
                rows.execute("UPDATE examples SET sealed = ? WHERE request_id = ?", (sealed, name))

        self._run(note)

    def examples(self) -> tuple[Example, ...]:
        """Return what is kept and can be read, oldest first; what has expired or can't be read is deleted.

        Raises UnavailableError while the keychain can't be asked, ConfigurationError for a file that is no store.
        """
        if not self._database.exists:
            return ()
        key = self._keychain.key()

        def read(rows: Connection) -> list[Example]:
            found = rows.execute("SELECT request_id, expires_at, sealed FROM examples ORDER BY rowid").fetchall()
            all_ = {row[0]: _unsealed(key, *row) for row in found}
            rows.executemany("DELETE FROM examples WHERE request_id = ?", [(i,) for i, e in all_.items() if e is None])
            return [example for example in all_.values() if example is not None]

        return tuple(self._run(read))

    def expire(self) -> None:
        """Delete what is too old; asks for no key. Raises ConfigurationError."""
        if self._database.exists:
            self._run(lambda _: None)

    def purge(self) -> None:
        """Delete every example, the file, and the key that sealed them. Raises UnavailableError, ConfigurationError."""
        if self._database.exists:
            self._database.unlink()
        self._keychain.forget()

    def _sealed(self, key: bytes, example: Example, expires_at: int) -> tuple[str, int, bytes]:
        nonce = self._rng(NONCE_BYTES)
        plain = json.dumps(asdict(example)).encode()
        plain += b" " * (-len(plain) % SIZE_STEP)
        sealed = nonce + AESGCM(key).encrypt(nonce, plain, _bound(example.request_id, expires_at))
        return example.request_id, expires_at, sealed

    def _run(self, work: Callable[[Connection], T]) -> T:
        """Do something in one transaction over what has not expired; what was deleted leaves the file."""

        def fresh(rows: Connection) -> T:
            self._expire(rows)
            return work(rows)

        try:
            result = self._database.run(fresh, patience_s=BUSY_S)
            self._database.scrub()
            return result
        finally:
            self._database.close()

    def _expire(self, rows: Connection) -> None:
        """Delete what is too old; and what claims to live longer than anything may: the clock was set back."""
        now = int(self._now())
        rows.execute("DELETE FROM examples WHERE expires_at <= ? OR expires_at > ?", (now, now + KEPT_DAYS * DAY_S))


def _bound(request_id: str, expires_at: int) -> bytes:
    """Return what a sealed example is bound to, so that none can be given another id or a longer life."""
    return b"\0".join((_CONTEXT, request_id.encode(), str(expires_at).encode()))


def _unsealed(key: bytes | None, request_id: str, expires_at: int, sealed: bytes) -> Example | None:
    if key is None:
        return None
    try:
        plain = AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(request_id, expires_at))
        body = json.loads(plain)
        return Example(**{**body, "route": Route(body["route"])})
    except (InvalidTag, ValueError, TypeError, KeyError):
        return None
