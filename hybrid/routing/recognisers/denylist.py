"""The deny-list: words a person never wants to leave. Whole words, case and accents apart, white space runs equal."""

import re
from collections.abc import Iterator, Sequence

from .folding import Folded, fold
from .spans import DENY_LIST, Span

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
)


class DenyList:
    """Finds listed words. Linear in the text: an entry is compared only where its first word stands."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Keep the entries in their plain form; empty ones count for nothing."""
        self._by_word: dict[str, list[tuple[int, str]]] = {}
        self._anywhere: list[str] = []
        for entry in {_plain(fold(entry))[0].strip() for entry in entries} - {""}:
            word = _WORD.search(entry)
            if word is None or _UNSPACED.search(entry):
                self._anywhere.append(entry)
            else:
                self._by_word.setdefault(word[0], []).append((word.start(), entry))

    def __call__(self, text: Folded) -> Iterator[Span]:
        """Find every listed entry."""
        if not self._by_word and not self._anywhere:
            return
        plain, places = _plain(text)
        for start, end in (*self._words(plain), *self._pieces(plain)):
            yield text.span(places[start], places[end - 1] + 1, DENY_LIST)

    def _words(self, plain: str) -> Iterator[tuple[int, int]]:
        for word in _WORD.finditer(plain) if self._by_word else ():
            for before, entry in self._by_word.get(word[0], ()):
                start = word.start() - before
                end = start + len(entry)
                if start >= 0 and plain.startswith(entry, start) and _whole(plain, start, end):
                    yield start, end

    def _pieces(self, plain: str) -> Iterator[tuple[int, int]]:
        for entry in self._anywhere:
            start = plain.find(entry)
            while start >= 0:
                yield start, start + len(entry)
                start = plain.find(entry, start + len(entry))


def _whole(plain: str, start: int, end: int) -> bool:
    def inside(a: int, b: int) -> bool:
        return a >= 0 and b < len(plain) and _wordy(plain[a]) and _wordy(plain[b])

    return not inside(start - 1, start) and not inside(end - 1, end)


def _wordy(c: str) -> bool:
    return c.isalnum() or c == "_"


def _plain(text: Folded) -> tuple[str, Sequence[int]]:
    """Return a text case-folded, each run of white space one blank; and where in it each character comes from."""
    folded = text.text.casefold()
    if len(folded) == len(text.text):
        places: Sequence[int] = range(len(folded))
    else:
        places = [i for i, c in enumerate(text.text) for _ in c.casefold()]
    if not _SPACE.search(folded):
        return folded, places
    kept = [i for i, c in enumerate(folded) if not (c.isspace() and i and folded[i - 1].isspace())]
    return _SPACE.sub(" ", folded), [places[i] for i in kept]
