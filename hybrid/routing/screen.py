"""The screener: runs recognisers and the deny-list over segments and restricts what they find something in.

It adds labels and never takes one away. What fails, or takes too long, stays on the device. It keeps verdicts by
digest, never a text, so long history is examined once.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from .labels import LabelReason, Labels, Segment
from .recognisers.denylist import DenyList
from .recognisers.folding import Folded, fold
from .recognisers.recognise import RECOGNISERS, Recogniser, light, unnested
from .recognisers.spans import Span

Detect = Literal["standard", "strict", "off"]
"""What is looked for: structured types; names, addresses, birth dates and health too; nothing but the deny-list."""

KEPT_VERDICTS = 4096
TRIES = 2
"""A recogniser is late when it is late twice: once may be the machine's doing, and would keep a harmless text here."""

LIMIT_CHARS = 100_000
"""Up to this length a recogniser has ``limit_s``; beyond it as much more as the text is longer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What examining a text came to. ``why`` is None where it may leave; ``types`` are those of every finding."""

    why: LabelReason | None
    types: tuple[str, ...] = ()


class Screener:
    """Examines segments. One per client; not for use from several threads at once.

    detect: how much is looked for.  deny: words that never leave, whatever ``detect`` says.
    limit_s: seconds one recogniser may take for a text of up to 100,000 characters, and in proportion for a longer one.
    now: a monotonic clock in seconds.  recognisers: the structured ones.
    """

    def __init__(
        self,
        *,
        detect: Detect = "standard",
        deny: Sequence[str] = (),
        now: Callable[[], float] = perf_counter,
        limit_s: float = 0.05,
        recognisers: Sequence[Recogniser] = RECOGNISERS,
    ) -> None:
        """Raise ValueError for a ``detect`` that is none of the three, or a deny-list that is one string."""
        if detect not in ("standard", "strict", "off"):
            raise ValueError("detect accepts 'standard', 'strict' or 'off'")
        if isinstance(deny, str):
            raise ValueError("deny is a list of words, not one string")  # noqa: TRY004 - callers map one kind of error
        patterns = () if detect == "off" else (*recognisers, *(light() if detect == "strict" else ()))
        self._recognisers: tuple[Recogniser, ...] = (*patterns, *([DenyList(deny)] if deny else []))
        self._now = now
        self._limit_s = limit_s
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def segment(self, segment: Segment) -> Segment:
        """Return a segment restricted by what is found in it; the fixed words of a program are not examined.

        A failure comes before a finding: a person can let a finding go, but not text that was not fully examined.
        """
        if segment.kind == "frame" or not self._recognisers:
            return segment
        verdict = self._verdict(segment)
        if verdict.why is not None:
            return segment.restricted(verdict.why, verdict.types)
        return segment

    def labels(self, labels: Labels) -> Labels:
        """Return labels with every segment examined."""
        return Labels(tuple(self.segment(segment) for segment in labels.segments))

    def _verdict(self, segment: Segment) -> Verdict:
        """Look a verdict up, or find it. One of an error or of running late is not kept: the next try may do better."""
        known = self._verdicts.get(segment.digest)
        if known is not None:
            self._verdicts.move_to_end(segment.digest)
            return known
        verdict = self._examine(segment.text)
        if verdict.why in (None, LabelReason.RECOGNISED):
            self._verdicts[segment.digest] = verdict
            if len(self._verdicts) > KEPT_VERDICTS:
                self._verdicts.popitem(last=False)
        return verdict

    def _examine(self, text: str) -> Verdict:
        found: set[Span] = set()
        why: LabelReason | None = None
        limit = self._limit_s * max(1.0, len(text) / LIMIT_CHARS)
        try:
            plain = fold(text)
        except Exception:  # noqa: BLE001 - a privacy check that breaks must never let text out
            return Verdict(LabelReason.PRIVACY_ERROR)
        for recogniser in self._recognisers:
            spans, failure = self._run(recogniser, plain, limit)
            found |= spans
            why = why or failure
        if why is None and any(span.private for span in found):
            why = LabelReason.RECOGNISED
        return Verdict(why, tuple(sorted({span.type for span in unnested(found)})))

    def _run(self, recogniser: Recogniser, plain: Folded, limit_s: float) -> tuple[set[Span], LabelReason | None]:
        found: set[Span] = set()
        for _ in range(TRIES):
            start = self._now()
            try:
                found = set(recogniser(plain))
            except Exception:  # noqa: BLE001 - a privacy check that breaks must never let text out
                return set(), LabelReason.PRIVACY_ERROR
            if self._now() - start <= limit_s:
                return found, None
        return found, LabelReason.PRIVACY_TIMEOUT
