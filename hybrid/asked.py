"""The question before: by what the next one is known to ask it again. In memory alone, gone with the conversation."""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from .routing.features import excerpt

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that was answered. request_id: of its answer.  at: Unix seconds."""

    request_id: str
    text: str = field(repr=False)
    at: float

    def likeness(self, text: str) -> float:
        """Return how like another question it is, 0..1: the share of words and neighbouring pairs they have in common.

        The Sorensen-Dice coefficient over multisets.
        """
        ours, theirs = _grams(self.text), _grams(text)
        size = ours.total() + theirs.total()
        return 2 * (ours & theirs).total() / size if size else 0.0


def _grams(text: str) -> Counter[str]:
    words = _WORD.findall(excerpt(text).casefold())
    return Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])
