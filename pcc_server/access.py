"""Who is let in: anybody, holders of a key, or whoever the router has let in already (SPEC 7, 10).

A key is 32 random bytes in base64 behind ``pcc_``; the file holds its SHA-256 alone, so reading the file gives no key.
Judged before anything is decrypted. Anonymous tokens would be one more ``Access``.

A key is limited in requests at once, requests a minute, and tokens of prompt a minute. The gateway sees no token: it
charges what the sealed body's size allows at most, one token for every four bytes of its bucket, so that a long prompt
pays for the prefill that it costs.
"""

import hashlib
import hmac
import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from . import events
from .config import Guarded
from .errors import CONFIG_EXIT, Limit, StartFailure, TokenRefused
from .events import Event
from .rate import Rate

HEADER = "# id sha256 requests-per-minute/at-once/prompt-tokens-per-minute"
KEY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
MAX_KEYS = 10_000
MAX_PER_MINUTE, MAX_AT_ONCE, MAX_TOKENS_PER_MINUTE = 60_000, 1_000, 100_000_000
TOKENS_PER_MINUTE = 400_000  # of a key whose line names none: the largest request there is, and half as much
BYTES_PER_TOKEN = 4  # of English; other scripts take more bytes, so nobody pays for more than it is
ANYBODY = 0  # the tenant of requests without a key
_LINE = re.compile(
    r"(?P<id>\S+) (?P<digest>[0-9a-f]{64}) (?P<minute>[0-9]{1,6})/(?P<once>[0-9]{1,4})(?:/(?P<tokens>[0-9]{1,9}))?"
)
_RELOAD_S = 1.0  # how long a revoked key may go on at most


class Access(Protocol):
    """Judges the token of one request and counts it while it runs."""

    def enter(self, token: bytes, *, size_bytes: int) -> AbstractContextManager[int]:
        """Let a request in for as long as the context lasts, and say whose it is: a small number for each key.

        size_bytes: of the sealed body.  Raises TokenRefused, Limit.
        """


class Anybody:
    """No key is asked for: an open node, or one whose router has asked already."""

    def enter(self, _token: bytes, *, size_bytes: int) -> AbstractContextManager[int]:  # noqa: ARG002 - the same door
        """Let it in, as nobody in particular."""
        return nullcontext(ANYBODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """One line of the file. per_minute, at_once: how many requests it may make; tokens: of prompt a minute."""

    id: str
    digest: bytes = field(repr=False)
    per_minute: int = 60
    at_once: int = 4
    tokens: int = TOKENS_PER_MINUTE

    def encode(self) -> str:
        """Write the line."""
        return f"{self.id} {self.digest.hex()} {self.per_minute}/{self.at_once}/{self.tokens}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line. Raises ValueError saying what it should look like."""
        found = _LINE.fullmatch(line)
        if not found or not KEY_ID.fullmatch(found["id"]):
            raise ValueError("a key reads: id, SHA-256 in hexadecimal, requests per minute/at once/tokens per minute")
        per_minute, at_once = int(found["minute"]), int(found["once"])
        tokens = int(found["tokens"] or TOKENS_PER_MINUTE)
        most = (MAX_PER_MINUTE, MAX_AT_ONCE, MAX_TOKENS_PER_MINUTE)
        if not all(1 <= given <= limit for given, limit in zip((per_minute, at_once, tokens), most, strict=True)):
            raise ValueError(f"a key's limits lie between 1/1/1 and {'/'.join(map(str, most))}")
        digest = bytes.fromhex(found["digest"])
        return cls(id=found["id"], digest=digest, per_minute=per_minute, at_once=at_once, tokens=tokens)


def tokens_charged(size_bytes: int) -> int:
    """Return how many tokens a sealed body of this size is charged as."""
    return size_bytes // BYTES_PER_TOKEN


def digest_of(token: bytes) -> bytes:
    """Hash a key as the file holds it. It has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(token).digest()


def parse_keys(text: str) -> tuple[AccessKey, ...]:
    """Read a file of keys. Raises ValueError naming the line."""
    keys: dict[str, AccessKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = AccessKey.parse(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.id in keys:
            raise ValueError(f"line {number}: the id {key.id} stands twice")
        keys[key.id] = key
    if len(keys) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    return tuple(keys.values())


def read_keys(path: Path) -> tuple[AccessKey, ...]:
    """Read the file of keys. Raises StartFailure with exit code 2."""
    try:
        return parse_keys(path.read_text("ascii"))
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise StartFailure(f"cannot use the keys in {path}: {error}", CONFIG_EXIT) from None


def _unreadable(path: Path, error: OSError) -> StartFailure:
    return StartFailure(f"cannot read the file of access keys {path}: {error.strerror}", CONFIG_EXIT)


@dataclass(slots=True)
class _Use:
    """What one key does now. tenant: 1 and up, its number while the node runs."""

    tenant: int
    requests: Rate
    tokens: Rate
    running: int = 0


class Keys:
    """Lets in holders of a key in a file, which is read again when it changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Raises StartFailure with exit code 2."""
        self._path = path
        self._clock = clock
        self._uses: dict[AccessKey, _Use] = {}
        self._tenants = itertools.count(ANYBODY + 1)
        self._mark: tuple[int, ...] = ()
        self._looked = clock()
        try:
            self._read()
        except OSError as error:
            raise _unreadable(path, error) from None

    @contextmanager
    def enter(self, token: bytes, *, size_bytes: int) -> Iterator[int]:
        """Let in the holder of a key, within its limits. Raises TokenRefused, Limit."""
        self._refresh()
        key = self._find(token)
        use = self._uses[key]
        if use.running >= key.at_once:
            raise Limit
        use.requests.take(key.id)
        use.tokens.take(key.id, min(tokens_charged(size_bytes), key.tokens))  # a full bucket passes any request
        use.running += 1
        try:
            yield use.tenant
        finally:
            use.running -= 1

    def _find(self, token: bytes) -> AccessKey:
        """Compare with every key, so that time tells nothing about which one came close. Raises TokenRefused."""
        own = digest_of(token)
        found = [key for key in self._uses if hmac.compare_digest(key.digest, own)]
        if not token or not found:
            raise TokenRefused
        return found[0]

    def _refresh(self) -> None:
        """Read a changed file. One that cannot be read lets nobody in."""
        if self._clock() - self._looked < _RELOAD_S:
            return
        self._looked = self._clock()
        try:
            self._read()
        except (OSError, StartFailure):
            if self._uses:
                events.emit(Event.ACCESS_FILE, readable=0)
            self._uses, self._mark = {}, ()

    def _read(self) -> None:
        stat = self._path.stat()
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if mark == self._mark:
            return
        keys = read_keys(self._path)
        self._uses = {key: self._uses.get(key) or self._new_use(key) for key in keys}
        self._mark = mark
        events.emit(Event.ACCESS_FILE, readable=1, keys=len(keys))

    def _new_use(self, key: AccessKey) -> _Use:
        requests, tokens = (Rate(amount, clock=self._clock) for amount in (key.per_minute, key.tokens))
        return _Use(next(self._tenants), requests, tokens)


def admission(settings: Guarded) -> Access:
    """Return what a port's settings ask for. Raises StartFailure with exit code 2 for a file of no use."""
    return Keys(Path(settings.access_keys)) if settings.access == "keys" else Anybody()
