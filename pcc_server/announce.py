"""The signed entry that says: this directory is the one of this epoch (SPEC 4, 5)."""

from hybrid.wire.directory import Directory
from hybrid.wire.entries import DirectoryEntry, sign
from hybrid.wire.note import NoteSigner

MAX_SEQ = 15  # SPEC 5: at most 16 directories per epoch


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
