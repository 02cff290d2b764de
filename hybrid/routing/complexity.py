"""How much the larger model is needed: a rank from 0 to 1, and the threshold it is compared with.

Unlike heads say what the larger model would add (a linear one over hashed words, small trees and a line over counts);
another says whether a request is work at all. Their sum in standard scores becomes an expected gain in quality, and the
gain a rank in a reference mix of requests. Routing design C4 and C3.6. Everything fitted comes in as bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from heapq import nsmallest
from typing import Protocol

from .features import CONVERSATION, STRUCTURAL, Features
from .heads import Model, read
from .linear import buckets
from .personal import Personal

NEAR = 0.08
"""Distance from the threshold below which a decision says that it was close."""

TOP = 3
LEAST_SHOWN = 0.01
_LENGTH = STRUCTURAL.index("length")

PER_GAIN = 10.0
"""Standard scores for one unit of gain, by which counts around the text are set beside those of the text."""

MOST_THRESHOLD = 1.01
"""A threshold that no score reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a scorer says about one request.

    value: 0..1, the rank of the gain.  gain: expected quality that the larger model adds, -1..1.  p_ok: P(the local
    answer is adequate), a statement about one local model, see ``Scorer.calibrated``.  novelty: 0..1, share of words
    that training never saw.  top: the three strongest differences from the reference mix by name, signed, in standard
    scores, the strongest first; a name is that of a count, "words", "task" or "novelty", never a word of the prompt.
    """

    value: float
    top: tuple[tuple[str, float], ...] = ()
    p_ok: float | None = None
    gain: float | None = None
    novelty: float | None = None


class Scorer(Protocol):
    """Something that scores requests. Same features, same score."""

    @property
    def name(self) -> str:
        """Name and version, as shown in decisions."""

    @property
    def calibrated(self) -> bool:
        """Whether ``p_ok`` was fitted to the local model in use."""

    @property
    def version(self) -> str:
        """What tells these weights from others."""

    def score(self, features: Features) -> Score:
        """Score one request."""

    def rank(self, gain: float) -> float:
        """Return the share of the reference mix that needs the larger model less, 0..1; never falls as gain grows."""

    def threshold(self, need: float) -> float:
        """Return the score from which the node pays, for a gain of ``need``; must not fall as ``need`` grows."""


@dataclass(frozen=True, slots=True)
class LearnedScorer:
    """The shipped weights, with one user's correction or without."""

    version: str
    model: Model = field(repr=False)
    personal: Personal | None = field(default=None, repr=False)

    @classmethod
    def from_bytes(cls, weights: bytes, personal: Personal | None = None) -> "LearnedScorer":
        """Read a weights file. personal: a correction that was made for these very bytes.

        Raises WeightsError when the bytes are damaged, too many, of another format or hold what is no finite number.
        """
        model, version = read(weights)
        own = f"+{personal.version}" if personal else ""
        if personal:
            model = replace(model, linear=replace(model.linear, added=personal.linear))
        return cls(f"{version}:{sha256(weights).hexdigest()[:8]}{own}", model, personal)

    @property
    def name(self) -> str:
        """Name and version in one."""
        return self.version

    @property
    def calibrated(self) -> bool:
        """Whether outcomes of the local model in use were enough to say how often it is right."""
        return self.personal is not None and self.personal.calibrated

    def score(self, features: Features) -> Score:
        """Score one request."""
        return self.score_hashed(features.values, *buckets(features.words))

    def score_hashed(self, values: Mapping[str, float], words: frozenset[int], pairs: frozenset[int]) -> Score:
        """Score one request by its named numbers and the `buckets` of its words; of kept rows no word is known."""
        model = self.model
        row = [values[name] for name in STRUCTURAL]
        novelty = model.linear.novelty(words)
        parts = self._heads(row, words, pairs, novelty)
        around = {n: w * values[n] for n, w in zip(CONVERSATION, model.around, strict=True)}
        gain = self._own(model.gain(sum(parts.values())) + sum(around.values()))
        return Score(
            value=round(self.rank(gain), 6),
            gain=round(min(1.0, max(-1.0, gain)), 6),
            p_ok=round(self._adequate(row), 4),
            novelty=round(novelty, 4),
            top=_strongest(parts | {n: PER_GAIN * value for n, value in around.items()}),
        )

    def standard(self, values: Mapping[str, float], words: frozenset[int], pairs: frozenset[int]) -> float:
        """Return the sum of the heads, in standard scores: what becomes a gain."""
        row = [values[name] for name in STRUCTURAL]
        return sum(self._heads(row, words, pairs, self.model.linear.novelty(words)).values())

    def rank(self, gain: float) -> float:
        """Read the table from gain to rank."""
        return min(1.0, max(0.0, self.model.rank(gain)))

    def threshold(self, need: float) -> float:
        """Return the rank of a gain of ``need``, and a threshold that none reaches where no gain could be as large."""
        return MOST_THRESHOLD if need >= 1.0 else round(self.rank(need), 6)

    def _heads(
        self, row: list[float], words: frozenset[int], pairs: frozenset[int], novelty: float
    ) -> dict[str, float]:
        """Return what each name adds to the sum of the heads, the fallback for unknown words included."""
        doubt = self.model.novel(novelty)
        parts = self.model.parts(row, words, pairs)
        if doubt:
            parts = {name: (1.0 - doubt) * part for name, part in parts.items()}
        parts["novelty"] = doubt * self.model.fallback(row[_LENGTH])
        return parts

    def _own(self, gain: float) -> float:
        """Move a gain by this user's offset of its rank; the order of gains stays."""
        if self.personal is None or not self.personal.offset:
            return gain
        return self.model.back(self.personal.shifted(self.rank(gain)))

    def _adequate(self, row: list[float]) -> float:
        shipped = min(1.0, max(0.0, self.model.ok(self.model.ok_trees.value(row))))
        return self.personal.adequate(shipped) if self.personal else shipped


def _strongest(parts: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    shown = [(-abs(value), name) for name, value in parts.items() if value >= LEAST_SHOWN or value <= -LEAST_SHOWN]
    return tuple((name, round(parts[name], 2)) for _, name in nsmallest(TOP, shown))
