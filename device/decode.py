"""Tokens to text: whole characters only, stop strings held back and cut off. Push tokens, then finish.

One :class:`TextStream` serves one request.
"""

from typing import Any

BROKEN = "\ufffd"


class StopStrings:
    """Holds back text that may be the start of a stop string; everything after a whole one is dropped."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take new text and return what is safe to show. After a hit nothing more comes."""
        if self.hit:
            return ""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit = True
            return self._take(min(found), drop_rest=True)
        return self._take(len(self._held) - self._overlap())

    def finish(self) -> str:
        """Return what was held back: no stop string came of it."""
        return self._take(len(self._held))

    def _take(self, length: int, *, drop_rest: bool = False) -> str:
        safe, rest = self._held[:length], self._held[length:]
        self._held = "" if drop_rest else rest
        return safe

    def _overlap(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Text of one answer, token by token.

    detokenizer: a fresh streaming detokenizer of mlx-lm; it holds back bytes that are not yet a character.
    """

    def __init__(self, detokenizer: Any, stops: tuple[str, ...] = ()) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Tell whether a stop string has come."""
        return self._stops.hit

    def push(self, token: int) -> str:
        """Take one token and return the text that is now sure."""
        self._detokenizer.add_token(token)
        return self._stops.push(self._detokenizer.last_segment)

    def finish(self) -> str:
        """Return the rest after the last token; a character whose bytes never all came is left out."""
        self._detokenizer.finalize()
        rest = self._stops.push(self._detokenizer.last_segment.rstrip(BROKEN))
        return rest + self._stops.finish()
