"""Merkle trees of RFC 6962 and RFC 9162 with SHA-256: roots, inclusion proofs, consistency proofs (SPEC 5).

A proof is a list of hashes of subtrees. Which subtrees they are depends on the sizes alone: ``inclusion_spans`` and
``consistency_spans`` name them, in the order of the proof. Proofs are made and checked along these spans.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import TypeAlias

from .constants import DIGEST_BYTES, MAX_TREE_SIZE
from .errors import Misuse, ProofFailure

Span: TypeAlias = tuple[int, int]  # leaves from the first number up to, not including, the second

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash a log entry: 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent: 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(width: int) -> int:
    """Return the width of the left subtree: the largest power of two below ``width``, which is at least 2."""
    return 1 << (width - 1).bit_length() - 1


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Hash a whole tree (RFC 6962, section 2.1); the empty tree has SHA-256 of nothing."""
    if not leaf_hashes:
        return EMPTY_ROOT
    row = list(leaf_hashes)
    while len(row) > 1:  # pairing row by row leaves the last one over, which is where the RFC's split puts it
        paired = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
        row = paired + row[2 * len(paired) :]
    return row[0]


def inclusion_spans(index: int, size: int) -> tuple[Span, ...]:
    """Name the subtrees of an inclusion proof, from the leaf's sibling to the root's child. Raises Misuse."""
    if not 0 <= index < size:
        raise Misuse("an inclusion proof is about a leaf of the tree")
    spans: list[Span] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + split(high - low)
        if index < middle:
            spans.append((middle, high))
            high = middle
        else:
            spans.append((low, middle))
            low = middle
    return tuple(reversed(spans))


def consistency_spans(old_size: int, new_size: int) -> tuple[Span, ...]:
    """Name the subtrees of a consistency proof (RFC 6962, section 2.1.2); none from the empty tree. Raises Misuse."""
    if not 0 <= old_size <= new_size:
        raise Misuse("a consistency proof goes from a smaller tree to a larger one")
    if old_size == 0:
        return ()
    spans: list[Span] = []
    low, high = 0, new_size
    while high != old_size:
        middle = low + split(high - low)
        if old_size <= middle:
            spans.append((middle, high))
            high = middle
        else:
            spans.append((low, middle))
            low = middle
    if low:  # else the old tree is itself a subtree, and the checker knows its root
        spans.append((low, high))
    return tuple(reversed(spans))


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Prove that a leaf is in the tree of these leaves. Raises Misuse."""
    return tuple(root(leaf_hashes[low:high]) for low, high in inclusion_spans(index, len(leaf_hashes)))


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """Prove that the first ``old_size`` leaves are a prefix of these leaves. Raises Misuse."""
    return tuple(root(leaf_hashes[low:high]) for low, high in consistency_spans(old_size, len(leaf_hashes)))


def check_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf``, a leaf hash, is number ``index`` of the tree. Raises ProofFailure."""
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise ProofFailure("the leaf's index lies outside the tree")
    spans = inclusion_spans(index, size)
    _same_length(spans, proof)
    value = leaf
    for (_, high), sibling in zip(spans, proof, strict=True):
        value = node_hash(sibling, value) if high <= index else node_hash(value, sibling)
    _same(value, root, "the leaf is not in the tree")


def check_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the new tree only adds leaves to the old one. Raises ProofFailure."""
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise ProofFailure("the newer tree is smaller than the older one")
    spans = consistency_spans(old_size, new_size)
    _same_length(spans, proof)
    if new_size == 0:
        _same(new_root, EMPTY_ROOT, "the newer tree is empty and its root is not")
    if old_size == 0:  # any tree adds to the empty one
        return _same(old_root, EMPTY_ROOT, "the older tree is empty and its root is not")
    steps = list(zip(spans, proof, strict=True))
    if not steps or steps[0][0][1] != old_size:
        steps.insert(0, ((0, old_size), old_root))
    older = newer = steps[0][1]
    for (_, high), sibling in steps[1:]:
        older = node_hash(sibling, older) if high <= old_size else older
        newer = node_hash(sibling, newer) if high <= old_size else node_hash(newer, sibling)
    _same(older, old_root, "the proof does not lead to the older tree")
    return _same(newer, new_root, "the newer tree does not contain the older one")


def _same_length(spans: tuple[Span, ...], proof: Sequence[bytes]) -> None:
    if len(proof) != len(spans) or any(len(value) != DIGEST_BYTES for value in proof):
        raise ProofFailure(f"a proof between these sizes has {len(spans)} hashes of {DIGEST_BYTES} bytes")


def _same(found: bytes, expected: bytes, what: str) -> None:
    if not hmac.compare_digest(found, expected):
        raise ProofFailure(what)
