"""The signed entry that says: this directory is the one of this epoch (SPEC 4, 5)."""

from hybrid.wire.constants import MAX_SEQS_PER_EPOCH
from hybrid.wire.directory import Directory
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.note import NoteSigner

from .errors import Limit

MAX_SEQ = MAX_SEQS_PER_EPOCH - 1  # the first is 0
NOTHING = (-1, 0)  # epoch and number before the first directory


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

    Signer and numbers outlive a worker, so that no client which pinned the key meets another one, or a directory older
    than the one it has.  after: epoch and number of the directory that the worker before published last.
    """

    def __init__(self, signer: NoteSigner, *, after: tuple[int, int] = NOTHING) -> None:
        self._signer = signer
        self.last = after
        self._counted = NOTHING

    @property
    def node_key(self) -> str:
        """The directory signer's public key: what a client pins."""
        return self._signer.vkey

    def next_seq(self, epoch: int) -> int:
        """Return the next number of an epoch. Raises Limit after 16 of this process (SPEC 15)."""
        if self._counted[0] == epoch and self._counted[1] > MAX_SEQ:
            raise Limit
        return self.last[1] + 1 if self.last[0] == epoch else 0

    def sign(self, directory: Directory) -> bytes:
        """Return the signed entry of a directory; its number is used from now on."""
        before = self._counted[1] if self._counted[0] == directory.epoch else 0
        self._counted = (directory.epoch, before + 1)
        self.last = (directory.epoch, directory.seq)
        return directory_entry(directory, self._signer)
