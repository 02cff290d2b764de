"""Proofs to hand on (C2SP tlog-proof@v1): an entry's place in a log and the checkpoint that covers it (SPEC 5)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from .checkpoint import Checkpoint, decimal, open_checkpoint
from .constants import DIGEST_BYTES, MAX_CHECKPOINT_BYTES, MAX_ENTRY_BYTES, MAX_PROOF_HASHES
from .encoding import fixed, from_base64, to_base64
from .errors import Malformed, Oversized
from .merkle import check_inclusion, leaf_hash
from .note import NoteVerifier

_TITLE = "c2sp.org/tlog-proof@v1"
_EXTRA, _INDEX = "extra ", "index "
_MAX_BYTES = MAX_CHECKPOINT_BYTES + 2 * MAX_ENTRY_BYTES + 64 * MAX_PROOF_HASHES


@dataclass(frozen=True, slots=True, kw_only=True)
class TlogProof:
    """A proof about an entry that is not in it. checkpoint: the signed note with its cosignatures.

    extra: opaque, and not covered by any signature.
    """

    index: int
    hashes: tuple[bytes, ...] = field(repr=False)
    checkpoint: bytes = field(repr=False)
    extra: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Write the proof as text."""
        lines = [_TITLE, *([_EXTRA + to_base64(self.extra)] if self.extra else []), f"{_INDEX}{self.index}"]
        lines += [to_base64(value) for value in self.hashes]
        return ("\n".join(lines) + "\n\n").encode("ascii") + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a proof; nothing in it is verified yet. Raises Malformed, NonCanonical, Oversized."""
        if len(data) > _MAX_BYTES:
            raise Oversized(len(data), _MAX_BYTES)
        head, gap, checkpoint = data.partition(b"\n\n")
        if not gap or not head.isascii():
            raise Malformed("a proof is lines of ASCII, an empty line and a checkpoint")
        lines = iter(head.decode("ascii").split("\n"))
        if next(lines) != _TITLE:
            raise Malformed(f"a proof begins with {_TITLE}")
        extra, index = _extra_and_index(lines)
        hashes = tuple(fixed(from_base64(line), DIGEST_BYTES, "hash of a proof") for line in lines)
        if len(hashes) > MAX_PROOF_HASHES:
            raise Malformed(f"a proof has at most {MAX_PROOF_HASHES} hashes")
        return cls(index=index, hashes=hashes, checkpoint=checkpoint, extra=extra)

    def check(self, entry: bytes, log_key: NoteVerifier) -> Checkpoint:
        """Check that the log holds this entry here; witnesses are for ``LogPolicy``.

        Raises Malformed, SignatureFailure, ProofFailure.
        """
        checkpoint = open_checkpoint(self.checkpoint, log_key)
        check_inclusion(
            leaf=leaf_hash(entry), index=self.index, size=checkpoint.size, proof=self.hashes, root=checkpoint.root
        )
        return checkpoint


def _extra_and_index(lines: Iterator[str]) -> tuple[bytes, int]:
    line, extra = next(lines, ""), b""
    if line.startswith(_EXTRA):
        extra = from_base64(line.removeprefix(_EXTRA))
        if not extra:
            raise Malformed("extra data that is empty is left out")
        line = next(lines, "")
    if not line.startswith(_INDEX):
        raise Malformed("a proof names the entry's index")
    return extra, decimal(line.removeprefix(_INDEX))
