"""What a client brings to a verification: what it remembers of the log, and what it fetched of it. SPEC section 5.

All bytes here are unchecked until ``Verifier`` has judged them; ``Seen`` and ``Tail`` come out of it and go back in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hybrid.errors import AttestationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest checkpoint a client has accepted; it stores this and demands consistency with it.

    root: 32 bytes.  t0: quorum time in Unix seconds, None under ``quorum none``.  note: the signed checkpoint.
    """

    origin: str
    size: int
    root: bytes = field(repr=False)
    t0: int | None
    note: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What the entries read so far say. Made by ``Verifier.check_tail`` alone.

    deployment: whose entries they are.  size: log size read up to.  directories: (epoch, seq) to directory_id.
    revoked: entry digests.
    """

    deployment: str
    size: int
    directories: Mapping[tuple[int, int], bytes] = field(repr=False)
    revoked: frozenset[bytes] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """What one verification may use of the log.

    stored: newest checkpoint accepted before, None for a fresh client.  tiles: path to bytes, as
    ``Verifier.wanted`` named them.  tail: result of the last tail check.  behind_since: Unix seconds of use since
    when the tail has been behind the checkpoint, None when it is not or has just become so.
    """

    stored: Seen | None = None
    tiles: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    tail: Tail | None = None
    behind_since: float | None = None

    def of(self, deployment: str) -> "LogView":
        """Return this view for one deployment: what the entries say of another one in the same log is not its own."""
        return replace(self, tail=own_tail(self.tail, deployment))


def own_tail(tail: Tail | None, deployment: str) -> Tail | None:
    """Return a tail if it is this deployment's."""
    return tail if tail is not None and tail.deployment == deployment else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NonceProof:
    """Interactive freshness for one bundle. reply: encoded ``AttestReply``.  made_at: Unix seconds of the nonce."""

    bundle_id: bytes
    nonce: bytes
    made_at: float
    reply: bytes = field(repr=False)


class LogContradiction(AttestationError):
    """Two signed statements of the log or the deployment that cannot both be true: fatal, and worth keeping.

    notes: both, as received, older first.
    """

    notes: tuple[bytes, bytes] = (b"", b"")

    @classmethod
    def of(cls, error: AttestationError, notes: tuple[bytes, bytes]) -> "LogContradiction":
        """Keep both notes with a failed check."""
        found = cls(str(error), check=error.check, expected=error.expected, got=error.got, hint=error.hint)
        found.notes, found.checks = notes, error.checks
        return found
