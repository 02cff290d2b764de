"""The directory of n nodes: composed, signed, logged (SPEC 4, 5). No network of its own; the log is its ledger."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hybrid.wire.codec import encode_directory_reply
from hybrid.wire.constants import ENTRY_CHECKPOINT_NO, MAX_CHECKPOINTS
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import Statement
from hybrid.wire.note import NoteSigner

from .announce import MAX_SEQ, directory_entry
from .listing import Listing

MAX_SEQ_UNLOGGED = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A checkpoint and the leaves proved under it."""

    note: bytes = field(repr=False)
    leaves: tuple[Leaf, ...] = ()


class Ledger(Protocol):
    """The log as a composer uses it. Every method blocks on a disk, the second on witnesses too."""

    def statements(self, statements: Sequence[Statement], checkpoint_no: int) -> Logged:
        """Return the published checkpoint, and under it the RELEASE and MODEL leaves of what these nodes run."""

    def holds(self, note: bytes) -> bool:
        """Tell whether the log published this signed checkpoint, byte for byte."""

    def append(self, entry: bytes) -> Logged:
        """Append one DIRECTORY entry; returns the new checkpoint and the entry's own leaf."""

    def last(self, deployment: str) -> tuple[int, int] | None:
        """Return (epoch, seq) of the newest directory that is logged for a deployment, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A directory that is ready to be served. reply: of Directory.Get, the same bytes for everybody."""

    epoch: int
    seq: int
    listings: tuple[Listing, ...]
    reply: bytes = field(repr=False)


class Composer:
    """Makes directories for one deployment. It holds the directory signer's key."""

    def __init__(
        self,
        *,
        deployment: str,
        epoch_s: int,
        signer: NoteSigner,
        ledger: Ledger | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._deployment = deployment
        self._epoch_s = epoch_s
        self._signer = signer
        self._ledger = ledger
        self._now = now
        self._newest = (ledger.last(deployment) if ledger else None) or (-1, 0)

    @property
    def node_key(self) -> str:
        """The directory signer's public key: what a client pins."""
        return self._signer.vkey

    def may_publish(self, epoch: int) -> bool:
        """Tell whether this epoch still has a sequence number left; a log's readers count sixteen."""
        newest, seq = self._newest
        return epoch > newest or (epoch == newest and seq < (MAX_SEQ if self._ledger else MAX_SEQ_UNLOGGED))

    def _next_seq(self, epoch: int) -> int:
        """Return a number that was never used: without a log the clock goes on where an earlier run has ended."""
        newest, last = self._newest
        after = last + 1 if epoch == newest else 0
        return after if self._ledger else max(after, int(self._now()) - epoch * self._epoch_s)

    def compose(self, listings: Sequence[Listing], epoch: int) -> Composed:
        """Compose, sign and log the next directory of an epoch. Blocks where there is a log.

        A node whose checkpoint the log did not publish is left out: clients refuse a directory for one bad checkpoint.
        Raises LogError, and Malformed when no node is left.
        """
        seq = self._next_seq(epoch)
        named = dict.fromkeys(listing.note for listing in listings if listing.note)
        notes = [note for note in named if self._ledger is None or self._ledger.holds(note)][: MAX_CHECKPOINTS - 1]
        kept = tuple(listing for listing in listings if not listing.note or listing.note in notes)
        if not kept:
            raise Malformed("every node names a checkpoint that the log did not publish")
        known = self._ledger.statements([k.bundle.statement for k in kept], len(notes)) if self._ledger else None
        directory = Directory(
            deployment=self._deployment,
            epoch=epoch,
            epoch_s=self._epoch_s,
            seq=seq,
            checkpoints=(*notes, known.note) if known else tuple(notes),
            leaves=known.leaves if known else (),
            nodes=tuple(listing.listed for listing in kept),
        )
        self._newest = (epoch, seq)  # before it is appended: no number is ever used for two directories
        return Composed(epoch=epoch, seq=seq, listings=kept, reply=self._reply(directory))

    def _reply(self, directory: Directory) -> bytes:
        entry = directory_entry(directory, self._signer)
        if self._ledger is None:
            leaf = Leaf(entry=entry, checkpoint_no=ENTRY_CHECKPOINT_NO)
            return encode_directory_reply(directory=directory.encode(), leaf=leaf.encode())
        logged = self._ledger.append(entry)
        return encode_directory_reply(
            directory=directory.encode(), leaf=logged.leaves[0].encode(), checkpoint=logged.note
        )
