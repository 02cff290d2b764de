"""The signed entry that says: this directory is the one of this epoch (SPEC 4, 5)."""

from collections import Counter
from collections.abc import Mapping

from hybrid.wire.constants import MAX_SEQS_PER_EPOCH
from hybrid.wire.directory import Directory
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.note import NoteSigner

from .errors import Limit

MAX_SEQ = MAX_SEQS_PER_EPOCH - 1  # the first is 0
KEPT_EPOCHS = 64  # of the newest that something was published in: a clock that is set back meets numbers it used


def directory_entry(directory: Directory, signer: NoteSigner) -> bytes:
    """Sign the DIRECTORY entry of a directory: a note with one signature line."""
    said = DirectoryEntry(
        deployment=directory.deployment,
        epoch=directory.epoch,
        seq=directory.seq,
        directory_id=directory.id,
        nodes=len(directory.nodes),
    )
    return sign(said, signer)


class Publisher:
    """Signs and numbers the directories of one node.

    Signer and numbers outlive a worker, so that no client which pinned the key meets another one, or two directories
    under one number, also where the clock was set back.  after: epoch -> the number that was used last in it.
    """

    def __init__(self, signer: NoteSigner, *, after: Mapping[int, int] | None = None) -> None:
        self._signer = signer
        self._used = dict(after or {})
        self._signed = Counter[int]()

    @property
    def node_key(self) -> str:
        """The directory signer's public key: what a client pins."""
        return self._signer.vkey

    @property
    def used(self) -> tuple[tuple[int, int], ...]:
        """What the next worker's ``after`` is made of: epochs and the numbers used last in them, the newest last."""
        return tuple(self._used.items())

    def next_seq(self, epoch: int) -> int:
        """Return the next number of an epoch. Raises Limit after 16 of this process (SPEC 15)."""
        if self._signed[epoch] > MAX_SEQ:
            raise Limit
        return self._used.get(epoch, -1) + 1

    def sign(self, directory: Directory) -> bytes:
        """Return the signed entry of a directory; its number is used from now on."""
        self._signed[directory.epoch] += 1
        self._used.pop(directory.epoch, None)
        self._used[directory.epoch] = directory.seq  # the newest stands last
        self._used = dict([*self._used.items()][-KEPT_EPOCHS:])
        return directory_entry(directory, self._signer)
