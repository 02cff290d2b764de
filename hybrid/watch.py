"""One answer of the device under watch: its start held back in a close call, and what it has shown so far. Pure.

What is held back was never shown, so it can be dropped; what was shown stays. Routing design C5.
"""

from .routing.cascade import CHECK_AT, HELD_S, After
from .routing.symptoms import validity
from .wire.types import Chunk, FinishReason, TokenSignals


class Watch:
    """Text and numbers of one answer. hold: keep its start back, at most `CHECK_AT` tokens or `HELD_S` seconds.

    asked: the question, for telling whether the answer has its form.
    """

    def __init__(self, asked: str, *, hold: bool) -> None:
        self._asked = asked
        self._text: list[str] = []
        self._held: list[str] = []
        self._holding = hold
        self._begun: float | None = None
        self._tokens = 0
        self._signals: TokenSignals | None = None
        self._finish: FinishReason | None = None

    def take(self, chunk: Chunk, at: float) -> str:
        """Take what the engine yields and return the text that may be shown now. at: seconds, any fixed start."""
        if chunk.tokens and self._begun is None:
            self._begun = at
        self._tokens += chunk.tokens
        self._signals = chunk.signals or self._signals
        self._finish = chunk.finish_reason or self._finish
        self._text.append(chunk.text)
        if not self._holding:
            return chunk.text
        self._held.append(chunk.text)
        return ""

    def due(self, at: float) -> bool:
        """Tell whether to look at the answer now: its start can be held back no longer, or it has ended."""
        if self._finish is not None:
            return True
        late = self._begun is not None and at >= self._begun + HELD_S
        return self._holding and (late or self._tokens >= CHECK_AT)

    def patience(self, at: float) -> float | None:
        """Seconds after which the answer is due although nothing came; None while there is no such limit."""
        return max(0.0, self._begun + HELD_S - at) if self._holding and self._begun is not None else None

    @property
    def unseen(self) -> bool:
        """Whether nothing of the answer was shown yet, so that it can still be dropped."""
        return self._holding

    def release(self) -> str:
        """Stop holding back and return what was held."""
        text, self._held, self._holding = "".join(self._held), [], False
        return text

    @property
    def after(self) -> After:
        """What is known of the answer; its form is judged once it has ended."""
        text, ended = "".join(self._text), self._finish is not None
        return After.of(
            self._signals,
            text,
            n_tokens=self._tokens,
            hit_limit=self._finish is FinishReason.LENGTH if ended else None,
            validity=validity(self._asked, text) if ended else {},
        )
