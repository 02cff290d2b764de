"""Recognisers: what in a text looks personal, and where. They add labels; they are no privacy policy.

Patterns find few of the personal things people write, so where a text comes from binds first (`labels`). Cards and
accounts need their checksums, telephone numbers their rhythm or a word nearby. Everything is linear in the length of
the text, and all of it is read. The ideas of forms, checks and words nearby follow microsoft/presidio (MIT); none of
its code is used.
"""

from collections.abc import Callable, Iterable

from .addresses import emails, ips
from .credentials import credentials
from .folding import Folded, fold
from .iban import ibans
from .identifiers import documents
from .numbers import numbers
from .spans import Span

__all__ = ["RECOGNISERS", "Recogniser", "Span", "light", "private", "recognise", "spans_of", "unnested"]

Recogniser = Callable[[Folded], Iterable[Span]]
"""Reports what it finds in the plain form of a text, with offsets of the original."""

RECOGNISERS: tuple[Recogniser, ...] = (emails, ips, ibans, numbers, documents, credentials)
"""For types with a form of their own: looked for unless detection is off."""


def recognise(text: str, *, strict: bool = False) -> tuple[Span, ...]:
    """Return what looks personal in a text, by place; spans may overlap.

    strict: also names, addresses, dates of birth and health, by light cues.
    """
    return spans_of(text, (*RECOGNISERS, *light()) if strict else RECOGNISERS)


def light() -> tuple[Recogniser, ...]:
    """Return the recognisers of the strict types; loaded when first asked for, since few ask."""
    from .strict import STRICT_RECOGNISERS

    return STRICT_RECOGNISERS


def spans_of(text: str, recognisers: Iterable[Recogniser]) -> tuple[Span, ...]:
    """Run some recognisers over a text; what one of them raises comes through."""
    plain = fold(text)
    return unnested({span for each in recognisers for span in each(plain)})


def unnested(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans by place, without telephone numbers inside something else: groups of an account number look so."""
    kept: list[Span] = []
    beyond = 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end, s.type)):
        if span.type != "PHONE_NUMBER":
            beyond = max(beyond, span.end)
        elif span.end <= beyond:
            continue
        kept.append(span)
    return tuple(kept)


def private(spans: Iterable[Span]) -> bool:
    """Whether findings keep a text on the device."""
    return any(span.private for span in spans)
