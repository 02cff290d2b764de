"""The signed entry that says: this directory is the one of this epoch (SPEC 4, 5)."""

from hybrid.wire.constants import MAX_SEQS_PER_EPOCH
from hybrid.wire.directory import Directory
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.note import NoteSigner

MAX_SEQ = MAX_SEQS_PER_EPOCH - 1  # the first is 0


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
