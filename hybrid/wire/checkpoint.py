"""Checkpoints of a transparency log (C2SP tlog-checkpoint): origin, size and root as a signed note (SPEC 5)."""

import re
from dataclasses import dataclass
from typing import Self

from .constants import DIGEST_BYTES, MAX_TREE_SIZE
from .encoding import digest, fixed, from_base64, to_base64
from .errors import Malformed, SignatureFailure
from .merkle import EMPTY_ROOT
from .note import NoteVerifier

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_HEAD_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says about itself. size: number of leaves; root: 32 bytes; extensions: opaque lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def encode_text(self) -> str:
        """Return the text to sign. Raises Malformed when it would not parse."""
        text = "".join(f"{line}\n" for line in self._lines())
        if Checkpoint.parse_text(text) != self:
            raise Malformed("a checkpoint's origin and extensions are one line each")
        return text

    def _lines(self) -> tuple[str, ...]:
        return self.origin, str(self.size), to_base64(self.root), *self.extensions

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """Read the text of a note. Raises Malformed, NonCanonical."""
        lines = text.split("\n")
        if lines.pop() or len(lines) < _HEAD_LINES or not all(lines):
            raise Malformed("a checkpoint has at least three lines, none of them empty")
        size, root = decimal(lines[1]), fixed(from_base64(lines[2]), DIGEST_BYTES, "root hash")
        if size == 0 and root != EMPTY_ROOT:
            raise Malformed("the empty tree has another root")
        return cls(origin=lines[0], size=size, root=root, extensions=tuple(lines[_HEAD_LINES:]))


def decimal(text: str) -> int:
    """Read a number of leaves in ASCII without leading zeros. Raises Malformed."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_TREE_SIZE:
        raise Malformed("a number of leaves is a decimal without leading zeros, below 2^63")
    return int(text)


def open_checkpoint(note: bytes, log_key: NoteVerifier) -> Checkpoint:
    """Check the log's signature and origin. Raises Malformed, SignatureFailure."""
    checkpoint = Checkpoint.parse_text(log_key.open(note))
    if checkpoint.origin != log_key.name:
        raise SignatureFailure("the checkpoint is another log's: its origin is not the name of the log's key")
    return checkpoint


def checkpoint_digest(note: bytes) -> bytes:
    """Digest a signed checkpoint as it stands, cosignatures included; 32 bytes, named by Statements."""
    return digest("checkpoint", note)
