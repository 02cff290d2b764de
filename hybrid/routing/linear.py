"""The linear head: one weight for every hashed word and every hashed pair of neighbours, and nothing of their spelling.

A bucket is CRC-32 modulo 2^16. CRC-32 is no secret-keeper: many texts share a bucket, and that is wanted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING
from zlib import crc32

from .personal import BUCKETS

if TYPE_CHECKING:
    from array import array

MOST_WORDS = 400
"""Words that are hashed; about 2,400 characters."""


def buckets(words: Sequence[str]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the buckets of the distinct words and those of the distinct pairs of neighbours; each below 2^16."""
    if not words:
        return frozenset(), frozenset()
    spelt = " ".join(words[:MOST_WORDS]).encode("utf-8", "surrogatepass").split(b" ")
    hashes = [crc32(word) % BUCKETS for word in spelt]  # first: arithmetic on small numbers is fast
    pairs = {(a * 31 + b) % BUCKETS for a, b in pairwise(hashes)}
    return frozenset(hashes), frozenset(pairs)


@dataclass(frozen=True, slots=True)
class Linear:
    """value = bias + sum of the weights of the distinct buckets / sqrt(their number).

    weights: 8-bit multiples of ``unit``, by bucket.  seen: one bit for each bucket that a word of the training rows
    fell into.  added: personal additions by bucket.
    """

    weights: "array[int]" = field(repr=False)
    unit: float
    bias: float
    seen: bytes = field(default=b"", repr=False)
    added: Mapping[int, float] = field(default_factory=dict, repr=False)

    def value(self, words: frozenset[int], pairs: frozenset[int]) -> float:
        """Return the head's value for one text's buckets."""
        both = words | pairs
        if not both:
            return self.bias
        weights = self.weights
        total = self.unit * sum([weights[b] for b in both])
        if self.added:
            added = self.added
            total += sum(added[b] for b in sorted(both) if b in added)
        return self.bias + total / sqrt(len(both))

    def novelty(self, words: frozenset[int]) -> float:
        """Return the share of words that no training row had, 0..1; 1 for a text without words."""
        if not words:
            return 1.0
        seen = self.seen
        return sum([not seen[b >> 3] >> (b & 7) & 1 for b in words]) / len(words)
